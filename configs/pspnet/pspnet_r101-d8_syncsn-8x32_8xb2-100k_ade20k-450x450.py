_base_ = 'pspnet_r50-d8_syncsn-8x32_8xb2-100k_ade20k-450x450.py'

model = dict(
    backbone=dict(
        depth=101,
        init_cfg=dict(
            checkpoint='{{$SN_MM_CHECKPOINTS:checkpoints}}/'
            'resnet101_sn_8xb32_in1k.pth')))
