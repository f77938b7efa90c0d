# Table IV: SN, from scratch.
_base_ = 'faster-rcnn_r50_c4_sn-all_4xb3-120k_coco.py'

model = dict(
    backbone=dict(init_cfg=None),
    roi_head=dict(shared_head=dict(init_cfg=None)))
