# 8 GPUs x 2 images, poly learning rate to zero; no weight decay on norms
# (gamma, beta, and SN's ratios) and biases, as in the public code.
_base_ = 'mmseg::_base_/schedules/schedule_160k.py'

optim_wrapper = dict(
    optimizer=dict(lr=0.02, weight_decay=1e-4),
    paramwise_cfg=dict(norm_decay_mult=0., bias_decay_mult=0.))
_base_.param_scheduler[0].eta_min = 0
_base_.param_scheduler[0].end = 100000
train_cfg = dict(max_iters=100000, val_interval=10000)
default_hooks = dict(checkpoint=dict(interval=10000, max_keep_ckpts=3))
auto_scale_lr = dict(enable=False, base_batch_size=16)
# each process has running statistics of its own: one average for all
custom_hooks = [dict(type='SyncBuffersHook')]
