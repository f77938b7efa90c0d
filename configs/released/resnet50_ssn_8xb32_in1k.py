# The released ImageNet ResNet50 with sparse SN: its stem pools differently.
_base_ = 'resnet50_sn_8xb32_in1k.py'
custom_imports = dict(
    imports=['sn_mm', 'sn_mm.models.ssn_resnet'], allow_failed_imports=False)

model = dict(backbone=dict(type='SSNResNet', norm_cfg=dict(type='SSN')))
