# The base's stem of three convolutions (ResNetV1c), its heads as they are.
_base_ = 'mmseg::pspnet/pspnet_r50-d8_4xb2-80k_cityscapes-769x769.py'

custom_imports = dict(
    imports=['sn_mm', 'sn_mm.models.kn_resnet'], allow_failed_imports=False)
model = dict(
    backbone=dict(
        type='KNResNet',
        deep_stem=True,
        norm_cfg=dict(type='SyncKN', requires_grad=True)))
optim_wrapper = dict(paramwise_cfg=dict(norm_decay_mult=0.))
