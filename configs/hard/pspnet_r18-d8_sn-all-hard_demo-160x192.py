# The demo's PSPNet with hard ratios: finetuned for 400 iterations at a tenth
# of the learning rate.
_base_ = '../demo/pspnet_r18-d8_sn-all_demo-160x192.py'

norm_cfg = dict(hard_ratios=True)
model = dict(
    backbone=dict(norm_cfg=norm_cfg),
    decode_head=dict(norm_cfg=norm_cfg),
    auxiliary_head=dict(norm_cfg=norm_cfg))
load_from = 'work_dirs/pspnet_r18-d8_sn-all_demo-160x192/hard.pth'

optim_wrapper = dict(optimizer=dict(lr=2e-4))
max_iters = 400
_base_.param_scheduler[1].end = max_iters
train_cfg = dict(max_iters=max_iters, val_interval=max_iters)
default_hooks = dict(checkpoint=dict(interval=max_iters))
