# Table VII: SN, from (8, 4).
_base_ = 'fcn-c1_r50-d8_sn-8x32_8xb2-100k_ade20k-450x450.py'

model = dict(
    backbone=dict(
        init_cfg=dict(
            checkpoint='{{$SN_MM_CHECKPOINTS:checkpoints}}/'
            'resnet50_sn_8xb4_in1k.pth')))
