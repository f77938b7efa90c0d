# SN, (8, 32), warm-up and cosine.
_base_ = ['_base_/resnet50_8xb32-coslr_in1k.py', '_base_/sn.py']

model = dict(backbone=dict(norm_cfg=_base_.norm_cfg))
