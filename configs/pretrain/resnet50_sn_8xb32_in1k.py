# SN, (8, 32): 76.9% top-1 in the paper.
_base_ = ['_base_/resnet50_8xb32_in1k.py', '_base_/sn.py']

model = dict(backbone=dict(norm_cfg=_base_.norm_cfg))
