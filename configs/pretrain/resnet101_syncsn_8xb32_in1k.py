# SyncSN, (8, 32), 101 layers: not in the paper.
_base_ = ['_base_/resnet101_8xb32_in1k.py', '_base_/syncsn.py']

model = dict(backbone=dict(norm_cfg=_base_.norm_cfg))
