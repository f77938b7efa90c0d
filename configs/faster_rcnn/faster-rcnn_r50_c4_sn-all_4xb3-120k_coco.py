# Table IV: SN, from (8, 2).
_base_ = [
    'faster-rcnn_r50_c4_frozen-bn_4xb3-120k_coco.py',
    '../_base_/paper_sn.py'
]

norm_cfg = _base_.sn_norm_cfg
pretrained = dict(
    checkpoint='{{$SN_MM_CHECKPOINTS:checkpoints}}/'
    'resnet50_sn_8xb2_in1k.pth',
    prefix='backbone.')
model = dict(
    backbone=dict(norm_cfg=norm_cfg, norm_eval=False, init_cfg=pretrained),
    roi_head=dict(
        shared_head=dict(
            norm_cfg=norm_cfg, norm_eval=False, init_cfg=pretrained)))
