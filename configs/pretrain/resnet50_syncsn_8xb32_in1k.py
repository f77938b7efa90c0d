# SyncSN, (8, 32): not in the paper.
_base_ = ['_base_/resnet50_8xb32_in1k.py', '_base_/syncsn.py']

model = dict(backbone=dict(norm_cfg=_base_.norm_cfg))
