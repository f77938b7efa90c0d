_base_ = [
    'mmseg::hrnet/fcn_hr18_4xb2-80k_cityscapes-512x1024.py',
    '../_base_/syncsn.py'
]

custom_imports = dict(imports=['sn_mm'], allow_failed_imports=False)
norm_cfg = _base_.sn_norm_cfg
model = dict(
    pretrained='bn2sn://open-mmlab://msra/hrnetv2_w18',
    backbone=dict(norm_cfg=norm_cfg),
    decode_head=dict(norm_cfg=norm_cfg))
optim_wrapper = dict(paramwise_cfg=_base_.sn_paramwise_cfg)
