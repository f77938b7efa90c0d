_base_ = 'deeplabv3plus_r50-d8_ibn-b_4xb2-40k_gta5-769x769_cityscapes.py'

model = dict(
    backbone=dict(
        variant='a', init_cfg=dict(checkpoint='ibn://resnet50_ibn_a')))
