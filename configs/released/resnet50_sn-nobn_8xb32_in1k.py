# The released ResNet50 whose SN has no BN, trained with (8, 1).
_base_ = 'resnet50_sn_8xb32_in1k.py'

model = dict(backbone=dict(norm_cfg=dict(statistics=('in', 'ln'))))
