# Table VI: GN in the backbone, SN in neck and heads.
_base_ = ['mask-rcnn_r50_fpn_gn-all_2x_coco.py', '../_base_/paper_sn.py']

norm_cfg = dict(_delete_=True, **_base_.sn_norm_cfg)
model = dict(
    neck=dict(norm_cfg=norm_cfg),
    roi_head=dict(
        bbox_head=dict(norm_cfg=norm_cfg), mask_head=dict(norm_cfg=norm_cfg)))
