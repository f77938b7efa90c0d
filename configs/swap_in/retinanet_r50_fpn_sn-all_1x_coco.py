_base_ = ['mmdet::retinanet/retinanet_r50_fpn_1x_coco.py', '../_base_/sn.py']

custom_imports = dict(imports=['sn_mm'], allow_failed_imports=False)
norm_cfg = _base_.sn_norm_cfg
model = dict(
    backbone=dict(
        norm_cfg=norm_cfg,
        frozen_stages=-1,
        init_cfg=dict(checkpoint='bn2sn://torchvision://resnet50')),
    neck=dict(norm_cfg=norm_cfg),
    bbox_head=dict(norm_cfg=norm_cfg))
optim_wrapper = dict(paramwise_cfg=_base_.sn_paramwise_cfg)
custom_hooks = _base_.sn_hooks
