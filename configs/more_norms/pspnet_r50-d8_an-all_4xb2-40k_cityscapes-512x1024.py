# PSPNet with Attentive Norm in backbone and heads.
_base_ = 'mmseg::pspnet/pspnet_r50-d8_4xb2-40k_cityscapes-512x1024.py'

custom_imports = dict(imports=['sn_mm'], allow_failed_imports=False)
norm_cfg = dict(type='AN', k=10, requires_grad=True)
model = dict(
    backbone=dict(norm_cfg=norm_cfg),
    decode_head=dict(norm_cfg=norm_cfg),
    auxiliary_head=dict(norm_cfg=norm_cfg))
optim_wrapper = dict(paramwise_cfg=dict(norm_decay_mult=0.))
# each process has running statistics of its own: one average for all
custom_hooks = [dict(type='SyncBuffersHook')]
