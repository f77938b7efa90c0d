# The public code's detector whose SN has no BN, from (8, 1).
_base_ = 'faster-rcnn_r50_fpn_2fc_sn_2x_coco.py'

norm_cfg = dict(statistics=('in', 'ln'))
model = dict(
    backbone=dict(
        norm_cfg=norm_cfg,
        init_cfg=dict(
            checkpoint='{{$SN_MM_CHECKPOINTS:checkpoints}}/'
            'resnet50_sn-nobn_8xb1_in1k.pth')),
    neck=dict(norm_cfg=norm_cfg))
