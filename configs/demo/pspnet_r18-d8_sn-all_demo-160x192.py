# PSPNet with SN in backbone, decode head and auxiliary head, from scratch.
# Half as wide as usual, to train in minutes on two CPU cores.
_base_ = [
    'mmseg::_base_/models/pspnet_r50-d8.py',
    'mmseg::_base_/default_runtime.py', '_base_/cityscapes_demo.py',
    '_base_/segmentation_schedule.py'
]
custom_imports = dict(imports=['sn_mm'], allow_failed_imports=False)

norm_cfg = dict(type='SN', requires_grad=True)
# A sum over the pixels: mmseg's weighted mean has no room for ignored ones.
loss = dict(class_weight=_base_.class_weight, reduction='sum')
model = dict(
    data_preprocessor=dict(size_divisor=32),
    pretrained=None,
    backbone=dict(
        depth=18,
        stem_channels=32,
        base_channels=32,
        zero_init_residual=False,
        norm_cfg=norm_cfg),
    decode_head=dict(
        in_channels=256,
        channels=64,
        norm_cfg=norm_cfg,
        loss_decode=dict(loss_weight=6e-5, **loss)),
    auxiliary_head=dict(
        in_channels=128,
        channels=32,
        norm_cfg=norm_cfg,
        loss_decode=dict(loss_weight=2.4e-5, **loss)))

# truth and prediction side by side, with the names of the digits
visualizer = dict(type='PictureVisualizer')
