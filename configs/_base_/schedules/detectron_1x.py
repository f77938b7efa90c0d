# Settings 2 and 3: Detectron's schedule for 8 GPUs x 2 images, in iterations;
# no weight decay on norms (gamma, beta, and SN's ratios).
_base_ = 'mmdet::_base_/schedules/schedule_1x.py'

train_cfg = dict(
    _delete_=True,
    type='IterBasedTrainLoop',
    max_iters=90000,
    val_interval=10000)
param_scheduler = [
    dict(
        type='LinearLR', start_factor=1 / 3, by_epoch=False, begin=0, end=500),
    dict(
        type='MultiStepLR',
        by_epoch=False,
        begin=0,
        end=90000,
        milestones=[60000, 80000],
        gamma=0.1)
]
optim_wrapper = dict(paramwise_cfg=dict(norm_decay_mult=0.))
