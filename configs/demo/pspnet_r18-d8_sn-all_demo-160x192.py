# PSPNet with SN in backbone, decode head and auxiliary head, from scratch.
# Half as wide as the usual ResNet-18.
_base_ = [
    'mmseg::_base_/models/pspnet_r50-d8.py',
    'mmseg::_base_/default_runtime.py', '_base_/cityscapes_demo.py',
    '_base_/segmentation_schedule.py'
]
custom_imports = dict(imports=['sn_mm'], allow_failed_imports=False)

norm_cfg = dict(type='SN', requires_grad=True)
model = dict(
    data_preprocessor=dict(size_divisor=32),
    pretrained=None,
    backbone=dict(
        depth=18, stem_channels=32, base_channels=32, norm_cfg=norm_cfg),
    decode_head=dict(
        in_channels=256,
        channels=64,
        norm_cfg=norm_cfg),
    auxiliary_head=dict(in_channels=128, channels=32, norm_cfg=norm_cfg))
