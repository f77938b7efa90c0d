# mmdet's base has Caffe's weights, whose BN is folded away: torchvision's,
# and the pixels that they see, take their place.
_base_ = [
    'mmdet::fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py', '../_base_/sn.py'
]

custom_imports = dict(imports=['sn_mm'], allow_failed_imports=False)
norm_cfg = _base_.sn_norm_cfg
model = dict(
    data_preprocessor=dict(
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True),
    backbone=dict(
        norm_cfg=norm_cfg,
        style='pytorch',
        frozen_stages=-1,
        init_cfg=dict(checkpoint='bn2sn://torchvision://resnet50')),
    neck=dict(norm_cfg=norm_cfg),
    bbox_head=dict(norm_cfg=norm_cfg))
optim_wrapper = dict(paramwise_cfg=_base_.sn_paramwise_cfg)
custom_hooks = _base_.sn_hooks
