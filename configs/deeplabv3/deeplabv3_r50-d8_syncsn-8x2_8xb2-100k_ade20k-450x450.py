# Table VII: SyncSN, from SN's (8, 2).
_base_ = 'deeplabv3_r50-d8_syncsn-8x32_8xb2-100k_ade20k-450x450.py'

model = dict(
    backbone=dict(
        init_cfg=dict(
            checkpoint='{{$SN_MM_CHECKPOINTS:checkpoints}}/'
            'resnet50_sn_8xb2_in1k.pth')))
