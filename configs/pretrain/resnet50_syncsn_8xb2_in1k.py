# SyncSN, (8, 2): not in the paper.
_base_ = ['_base_/resnet50_8xb2_in1k.py', '_base_/syncsn.py']

model = dict(backbone=dict(norm_cfg=_base_.norm_cfg))
