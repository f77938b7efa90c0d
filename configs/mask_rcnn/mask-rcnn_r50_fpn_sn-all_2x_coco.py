# Table VI: SN throughout, from (8, 2).
_base_ = ['mask-rcnn_r50_fpn_4conv1fc_2x_coco.py', '../_base_/paper_sn.py']

norm_cfg = _base_.sn_norm_cfg
model = dict(
    backbone=dict(
        norm_cfg=norm_cfg,
        norm_eval=False,
        init_cfg=dict(
            checkpoint='{{$SN_MM_CHECKPOINTS:checkpoints}}/'
            'resnet50_sn_8xb2_in1k.pth',
            prefix='backbone.')),
    neck=dict(norm_cfg=norm_cfg),
    roi_head=dict(
        bbox_head=dict(norm_cfg=norm_cfg), mask_head=dict(norm_cfg=norm_cfg)))
