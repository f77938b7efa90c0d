# ImageNet, as the SN papers train it: the poster does not give its settings.
_base_ = ['../pretrain/_base_/resnet50_8xb32_in1k.py']

custom_imports = dict(
    imports=['sn_mm', 'sn_mm.models.bhn'], allow_failed_imports=False)
model = dict(
    backbone=dict(
        type='BHNResNet', norm_cfg=dict(type='BN', requires_grad=True)))
