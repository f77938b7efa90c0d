# Table VI: BN frozen in the backbone, GN in neck and heads.
_base_ = 'mask-rcnn_r50_fpn_4conv1fc_2x_coco.py'

norm_cfg = dict(type='GN', num_groups=32, requires_grad=True)
model = dict(
    neck=dict(norm_cfg=norm_cfg),
    roi_head=dict(
        bbox_head=dict(norm_cfg=norm_cfg), mask_head=dict(norm_cfg=norm_cfg)))
