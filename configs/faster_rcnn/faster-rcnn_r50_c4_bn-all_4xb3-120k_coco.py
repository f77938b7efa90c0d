# Table IV: BN that learns, and takes its statistics from three images.
_base_ = 'faster-rcnn_r50_c4_frozen-bn_4xb3-120k_coco.py'

norm_cfg = dict(type='BN', requires_grad=True)
model = dict(
    backbone=dict(norm_cfg=norm_cfg, norm_eval=False),
    roi_head=dict(shared_head=dict(norm_cfg=norm_cfg, norm_eval=False)))
