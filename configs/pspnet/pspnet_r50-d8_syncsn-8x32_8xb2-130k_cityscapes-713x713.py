# Table VIII: SyncSN, from SN's (8, 32).
_base_ = 'pspnet_r50-d8_sn-8x32_8xb2-130k_cityscapes-713x713.py'

norm_cfg = dict(type='SyncSN')
model = dict(
    backbone=dict(norm_cfg=norm_cfg),
    decode_head=dict(norm_cfg=norm_cfg),
    auxiliary_head=dict(norm_cfg=norm_cfg))
