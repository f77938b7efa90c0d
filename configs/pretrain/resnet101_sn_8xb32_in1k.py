# SN, (8, 32), 101 layers: 78.6% top-1 in the paper.
_base_ = ['_base_/resnet101_8xb32_in1k.py', '_base_/sn.py']

model = dict(backbone=dict(norm_cfg=_base_.norm_cfg))
