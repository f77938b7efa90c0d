_base_ = 'deeplabv3_r50-d8_syncsn-8x32_8xb2-130k_cityscapes-713x713.py'

model = dict(
    backbone=dict(
        depth=101,
        init_cfg=dict(
            checkpoint='{{$SN_MM_CHECKPOINTS:checkpoints}}/'
            'resnet101_sn_8xb32_in1k.pth')))
