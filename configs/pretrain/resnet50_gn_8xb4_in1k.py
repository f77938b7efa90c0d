# GN, (8, 4): 75.8% top-1 in the paper.
_base_ = ['_base_/resnet50_8xb4_in1k.py', '_base_/gn.py']

model = dict(backbone=dict(norm_cfg=_base_.norm_cfg))
