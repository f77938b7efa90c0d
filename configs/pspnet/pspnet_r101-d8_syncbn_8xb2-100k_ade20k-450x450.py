_base_ = 'pspnet_r50-d8_syncbn_8xb2-100k_ade20k-450x450.py'

model = dict(
    backbone=dict(
        depth=101,
        init_cfg=dict(checkpoint='torchvision://resnet101')))
