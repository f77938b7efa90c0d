# The released Faster R-CNN C4: res5 is the RoI head, SN in both; nothing is
# frozen, images are not padded.
_base_ = [
    'mmdet::_base_/models/faster-rcnn_r50-caffe-c4.py',
    '_base_/coco_detectron.py', 'mmdet::_base_/schedules/schedule_2x.py',
    'mmdet::_base_/default_runtime.py'
]
custom_imports = dict(
    imports=['sn_mm', 'sn_mm.models.detectron'], allow_failed_imports=False)

norm_cfg = dict(
    _delete_=True,
    type='SN',
    requires_grad=True,
    unbiased=True,
    momentum=0.003)
model = dict(
    data_preprocessor=dict(
        type='DetectronDataPreprocessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_size_divisor=1),
    backbone=dict(
        norm_cfg=norm_cfg,
        norm_eval=False,
        frozen_stages=-1,
        style='pytorch',
        init_cfg=None),
    rpn_head=dict(
        anchor_generator=dict(type='DetectronAnchorGenerator'),
        bbox_coder=dict(type='DetectronBBoxCoder')),
    roi_head=dict(
        type='DetectronRoIHead',
        shared_head=dict(
            norm_cfg=norm_cfg,
            norm_eval=False,
            style='pytorch',
            init_cfg=None),
        bbox_roi_extractor=dict(
            roi_layer=dict(sampling_ratio=0, aligned=False)),
        bbox_head=dict(
            type='DetectronBBoxHead',
            bbox_coder=dict(type='DetectronBBoxCoder'))),
    train_cfg=dict(
        rpn=dict(
            assigner=dict(iou_calculator=dict(type='DetectronOverlaps2D'))),
        rpn_proposal=dict(nms=dict(offset=1), min_bbox_size=-1),
        rcnn=dict(
            assigner=dict(iou_calculator=dict(type='DetectronOverlaps2D')))),
    # The next smaller float32: see faster-rcnn_r50_fpn_detectron.py.
    test_cfg=dict(
        rpn=dict(
            nms=dict(iou_threshold=0.69999993, offset=1), min_bbox_size=-1),
        rcnn=dict(nms=dict(iou_threshold=0.49999997, offset=1))))
# each process has running statistics of its own: one average for all
custom_hooks = [dict(type='SyncBuffersHook')]
