# The released ImageNet ResNet101 with SN.
_base_ = 'resnet50_sn_8xb32_in1k.py'

model = dict(backbone=dict(depth=101))
