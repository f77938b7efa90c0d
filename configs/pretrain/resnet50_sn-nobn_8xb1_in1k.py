# SN, (8, 1): 75.0% top-1 in the paper.
_base_ = ['_base_/resnet50_8xb1_in1k.py', '_base_/sn-nobn.py']

model = dict(backbone=dict(norm_cfg=_base_.norm_cfg))
