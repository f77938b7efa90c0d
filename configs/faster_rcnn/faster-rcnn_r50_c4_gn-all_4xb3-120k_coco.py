# Table IV: GN, from Detectron's weights, which see BGR in 0..255.
_base_ = 'faster-rcnn_r50_c4_frozen-bn_4xb3-120k_coco.py'

norm_cfg = dict(type='GN', num_groups=32, requires_grad=True)
pretrained = dict(checkpoint='open-mmlab://detectron/resnet50_gn')
model = dict(
    data_preprocessor=dict(
        mean=[103.530, 116.280, 123.675],
        std=[1.0, 1.0, 1.0],
        bgr_to_rgb=False),
    backbone=dict(norm_cfg=norm_cfg, norm_eval=False, init_cfg=pretrained),
    roi_head=dict(
        shared_head=dict(
            norm_cfg=norm_cfg, norm_eval=False, init_cfg=pretrained)))
