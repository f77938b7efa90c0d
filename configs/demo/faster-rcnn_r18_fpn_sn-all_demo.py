# Faster R-CNN + FPN with SN in backbone, neck and box head, from scratch.
# A quarter as wide as usual, to train in minutes on two CPU cores.
_base_ = [
    'mmdet::_base_/models/faster-rcnn_r50_fpn.py',
    'mmdet::_base_/default_runtime.py', '_base_/coco_demo.py',
    '_base_/detection_schedule.py'
]
custom_imports = dict(imports=['sn_mm'], allow_failed_imports=False)

norm_cfg = dict(type='SN', requires_grad=True)
model = dict(
    backbone=dict(
        depth=18,
        base_channels=16,
        frozen_stages=-1,
        norm_cfg=norm_cfg,
        norm_eval=False,
        init_cfg=None),
    neck=dict(
        in_channels=[16, 32, 64, 128],
        out_channels=64,
        norm_cfg=norm_cfg),
    rpn_head=dict(
        in_channels=64,
        feat_channels=64,
        # sides of 16, 32, 64, ... pixels; the digits have 10 to 72
        anchor_generator=dict(scales=[4])),
    roi_head=dict(
        bbox_roi_extractor=dict(
            roi_layer=dict(sampling_ratio=2), out_channels=64),
        bbox_head=dict(
            type='Shared4Conv1FCBBoxHead',
            in_channels=64,
            conv_out_channels=64,
            fc_out_channels=256,
            num_classes=10,
            reg_class_agnostic=True,
            norm_cfg=norm_cfg)),
    # few objects to a picture: few proposals do
    train_cfg=dict(
        rpn_proposal=dict(nms_pre=500, max_per_img=250),
        rcnn=dict(sampler=dict(num=32, pos_fraction=0.5))),
    test_cfg=dict(
        rpn=dict(nms_pre=500, max_per_img=100), rcnn=dict(max_per_img=50)))

# small pictures: enlarged, with labels beside the boxes
visualizer = dict(type='PictureVisualizer')
