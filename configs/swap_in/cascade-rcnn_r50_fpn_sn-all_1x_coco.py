# All three box heads become 4conv1fc: two fc have no place for a norm.
_base_ = [
    'mmdet::cascade_rcnn/cascade-rcnn_r50_fpn_1x_coco.py', '../_base_/sn.py'
]

custom_imports = dict(imports=['sn_mm'], allow_failed_imports=False)
norm_cfg = _base_.sn_norm_cfg
model = dict(
    backbone=dict(
        norm_cfg=norm_cfg,
        frozen_stages=-1,
        init_cfg=dict(checkpoint='bn2sn://torchvision://resnet50')),
    neck=dict(norm_cfg=norm_cfg),
    roi_head=dict(bbox_head=[
        dict(
            head,
            type='Shared4Conv1FCBBoxHead',
            conv_out_channels=256,
            norm_cfg=norm_cfg) for head in _base_.model.roi_head.bbox_head
    ]))
optim_wrapper = dict(paramwise_cfg=_base_.sn_paramwise_cfg)
custom_hooks = _base_.sn_hooks
