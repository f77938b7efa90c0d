_base_ = 'faster-rcnn_r50_fpn_sn-all_1x_coco.py'

model = dict(
    backbone=dict(
        depth=101,
        init_cfg=dict(
            checkpoint='{{$SN_MM_CHECKPOINTS:checkpoints}}/'
            'resnet101_sn_8xb32_in1k.pth')))
