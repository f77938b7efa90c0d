_base_ = [
    'mmseg::upernet/upernet_r50_4xb4-80k_ade20k-512x512.py',
    '../_base_/sn.py'
]

custom_imports = dict(imports=['sn_mm'], allow_failed_imports=False)
norm_cfg = _base_.sn_norm_cfg
model = dict(
    pretrained='bn2sn://open-mmlab://resnet50_v1c',
    backbone=dict(norm_cfg=norm_cfg),
    decode_head=dict(norm_cfg=norm_cfg),
    auxiliary_head=dict(norm_cfg=norm_cfg))
optim_wrapper = dict(paramwise_cfg=_base_.sn_paramwise_cfg)
custom_hooks = _base_.sn_hooks
