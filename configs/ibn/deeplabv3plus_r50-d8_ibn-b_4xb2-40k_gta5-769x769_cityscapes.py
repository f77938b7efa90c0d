# Domain generalization: DeepLabV3+ on IBN-Net-50-b learns on GTA5 and is
# evaluated on Cityscapes. The other settings are the base's.
_base_ = (
    'mmseg::deeplabv3plus/'
    'deeplabv3plus_r50-d8_4xb2-40k_cityscapes-769x769.py'
)

custom_imports = dict(
    imports=['sn_mm', 'sn_mm.models.ibn_resnet', 'sn_mm.datasets.gta5'],
    allow_failed_imports=False)
model = dict(
    pretrained=None,
    backbone=dict(
        type='IBNResNet',
        variant='b',
        init_cfg=dict(
            type='Pretrained', checkpoint='ibn://resnet50_ibn_b')))
optim_wrapper = dict(paramwise_cfg=dict(norm_decay_mult=0.))
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(
        type='RandomResize',
        scale=(1914, 1052),
        ratio_range=(0.5, 2.0),
        keep_ratio=True),
    dict(type='RandomCrop', crop_size=(769, 769), cat_max_ratio=0.75),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackSegInputs')
]
train_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type='GTA5Dataset',
        data_root='data/gta5',
        pipeline=train_pipeline))
