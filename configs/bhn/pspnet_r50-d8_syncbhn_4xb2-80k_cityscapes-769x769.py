# SyncBHN beside the base's SyncBN, on the 7x7 stem that ImageNet training
# leaves.
_base_ = 'mmseg::pspnet/pspnet_r50-d8_4xb2-80k_cityscapes-769x769.py'

custom_imports = dict(
    imports=['sn_mm', 'sn_mm.models.bhn'], allow_failed_imports=False)
model = dict(
    pretrained=None,
    backbone=dict(
        type='BHNResNet',
        init_cfg=dict(
            type='Pretrained',
            checkpoint='{{$SN_MM_CHECKPOINTS:checkpoints}}/'
            'resnet50_bhn_8xb32_in1k.pth',
            prefix='backbone.')))
optim_wrapper = dict(paramwise_cfg=dict(norm_decay_mult=0.))
