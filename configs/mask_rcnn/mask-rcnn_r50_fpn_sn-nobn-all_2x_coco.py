# SN without BN throughout, from (8, 1).
_base_ = 'mask-rcnn_r50_fpn_sn-all_2x_coco.py'

norm_cfg = dict(statistics=('in', 'ln'))
model = dict(
    backbone=dict(
        norm_cfg=norm_cfg,
        init_cfg=dict(
            checkpoint='{{$SN_MM_CHECKPOINTS:checkpoints}}/'
            'resnet50_sn-nobn_8xb1_in1k.pth')),
    neck=dict(norm_cfg=norm_cfg),
    roi_head=dict(
        bbox_head=dict(norm_cfg=norm_cfg), mask_head=dict(norm_cfg=norm_cfg)))
