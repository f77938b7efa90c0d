# Table VI: BN frozen in the backbone, none in neck and heads.
_base_ = [
    'mmdet::_base_/models/mask-rcnn_r50_fpn.py',
    '../_base_/datasets/coco_instance.py',
    '../_base_/schedules/detectron_2x.py',
    '../_base_/runtimes/det_iterations.py'
]
custom_imports = dict(imports=['sn_mm'], allow_failed_imports=False)

model = dict(
    backbone=dict(norm_cfg=dict(requires_grad=False)),
    roi_head=dict(
        bbox_head=dict(type='Shared4Conv1FCBBoxHead', conv_out_channels=256)))
