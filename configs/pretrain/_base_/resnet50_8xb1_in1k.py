# 8 GPUs x 1 image: the learning rate is proportional to the whole batch.
_base_ = 'resnet50_8xb32_in1k.py'

train_dataloader = dict(batch_size=1)
optim_wrapper = dict(optimizer=dict(lr=0.1 * 8 / 256))
auto_scale_lr = dict(base_batch_size=8)
