_base_ = [
    'mmseg::deeplabv3plus/'
    'deeplabv3plus_r50-d8_4xb2-80k_cityscapes-769x769.py',
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
