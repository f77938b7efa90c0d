# BN, (8, 1): does not converge, says the paper.
_base_ = ['_base_/resnet50_8xb1_in1k.py', '_base_/bn.py']

model = dict(backbone=dict(norm_cfg=_base_.norm_cfg))
