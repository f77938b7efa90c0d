# Setting 1: 4 GPUs x 3 images, 80k iterations at 0.01 and 40k at 0.001; no
# weight decay on norms (gamma, beta, and SN's ratios).
_base_ = 'mmdet::_base_/schedules/schedule_1x.py'

train_cfg = dict(
    _delete_=True,
    type='IterBasedTrainLoop',
    max_iters=120000,
    val_interval=10000)
param_scheduler = [
    dict(
        type='MultiStepLR',
        by_epoch=False,
        begin=0,
        end=120000,
        milestones=[80000],
        gamma=0.1)
]
optim_wrapper = dict(
    optimizer=dict(lr=0.01), paramwise_cfg=dict(norm_decay_mult=0.))
auto_scale_lr = dict(base_batch_size=12)
