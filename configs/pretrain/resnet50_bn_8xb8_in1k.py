# BN, (8, 8): 75.2% top-1 in the paper.
_base_ = ['_base_/resnet50_8xb8_in1k.py', '_base_/bn.py']

model = dict(backbone=dict(norm_cfg=_base_.norm_cfg))
