# Faster R-CNN + FPN with the public code's geometry; norms are set by the
# configs that inherit this.
_base_ = 'mmdet::_base_/models/faster-rcnn_r50_fpn.py'

model = dict(
    data_preprocessor=dict(type='DetectronDataPreprocessor'),
    rpn_head=dict(
        anchor_generator=dict(type='DetectronAnchorGenerator'),
        bbox_coder=dict(type='DetectronBBoxCoder')),
    roi_head=dict(
        type='DetectronRoIHead',
        bbox_roi_extractor=dict(
            type='DetectronRoIExtractor',
            roi_layer=dict(sampling_ratio=2, aligned=False)),
        bbox_head=dict(
            type='DetectronShared2FCBBoxHead',
            bbox_coder=dict(type='DetectronBBoxCoder'))),
    train_cfg=dict(
        rpn=dict(
            assigner=dict(iou_calculator=dict(type='DetectronOverlaps2D'))),
        rpn_proposal=dict(nms=dict(offset=1), min_bbox_size=-1),
        rcnn=dict(
            assigner=dict(iou_calculator=dict(type='DetectronOverlaps2D')))),
    # The public code suppresses at >= .7 and .5, mmcv above: thresholds are
    # the next smaller float32.
    test_cfg=dict(
        rpn=dict(
            nms=dict(iou_threshold=0.69999993, offset=1), min_bbox_size=-1),
        rcnn=dict(nms=dict(iou_threshold=0.49999997, offset=1))))
