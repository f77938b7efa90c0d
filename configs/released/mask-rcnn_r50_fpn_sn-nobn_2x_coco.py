# The released Mask R-CNN + FPN whose SN has no BN: two ratios.
_base_ = 'mask-rcnn_r50_fpn_sn_2x_coco.py'

norm_cfg = dict(statistics=('in', 'ln'))
model = dict(
    backbone=dict(norm_cfg=norm_cfg),
    neck=dict(norm_cfg=norm_cfg),
    roi_head=dict(
        bbox_head=dict(norm_cfg=norm_cfg), mask_head=dict(norm_cfg=norm_cfg)))
