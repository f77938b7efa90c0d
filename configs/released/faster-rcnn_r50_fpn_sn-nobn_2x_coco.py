# The released Faster R-CNN + FPN whose SN has no BN: two ratios.
_base_ = 'faster-rcnn_r50_fpn_sn_2x_coco.py'

norm_cfg = dict(statistics=('in', 'ln'))
model = dict(
    backbone=dict(norm_cfg=norm_cfg), neck=dict(norm_cfg=norm_cfg))
