_base_ = 'deeplabv3_r50-d8_gn_8xb2-100k_ade20k-450x450.py'

model = dict(
    backbone=dict(
        depth=101,
        init_cfg=dict(checkpoint='open-mmlab://detectron/resnet101_gn')))
