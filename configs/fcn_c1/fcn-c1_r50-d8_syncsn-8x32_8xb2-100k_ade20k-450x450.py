# Table VII: SyncSN, from SN's (8, 32).
_base_ = 'fcn-c1_r50-d8_sn-8x32_8xb2-100k_ade20k-450x450.py'

norm_cfg = dict(type='SyncSN')
model = dict(
    backbone=dict(norm_cfg=norm_cfg),
    decode_head=dict(norm_cfg=norm_cfg),
    auxiliary_head=dict(norm_cfg=norm_cfg))
