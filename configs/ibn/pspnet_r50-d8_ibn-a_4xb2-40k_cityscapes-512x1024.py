# PSPNet on IBN-Net-50-a, whose stem is one 7 x 7 convolution.
_base_ = 'mmseg::pspnet/pspnet_r50-d8_4xb2-40k_cityscapes-512x1024.py'

custom_imports = dict(
    imports=['sn_mm', 'sn_mm.models.ibn_resnet'], allow_failed_imports=False)
model = dict(
    pretrained=None,
    backbone=dict(
        type='IBNResNet',
        variant='a',
        init_cfg=dict(
            type='Pretrained', checkpoint='ibn://resnet50_ibn_a')))
optim_wrapper = dict(paramwise_cfg=dict(norm_decay_mult=0.))
