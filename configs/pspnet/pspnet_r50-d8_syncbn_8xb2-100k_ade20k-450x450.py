# PSPNet on ADE20K with SyncBN.
_base_ = [
    '../_base_/models/pspnet_r50-d8.py',
    '../_base_/datasets/ade20k_450x450.py',
    'mmseg::_base_/default_runtime.py',
    '../_base_/schedules/poly_100k.py'
]
custom_imports = dict(imports=['sn_mm'], allow_failed_imports=False)

model = dict(
    data_preprocessor=dict(size=(450, 450)),
    backbone=dict(
        init_cfg=dict(
            type='Pretrained', checkpoint='torchvision://resnet50')),
    decode_head=dict(num_classes=150),
    auxiliary_head=dict(num_classes=150))
