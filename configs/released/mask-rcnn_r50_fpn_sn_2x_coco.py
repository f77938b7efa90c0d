# Mask R-CNN + FPN with SN in backbone, neck, 4conv1fc box head, mask head.
_base_ = 'faster-rcnn_r50_fpn_sn_2x_coco.py'

norm_cfg = _base_.norm_cfg
model = dict(
    type='MaskRCNN',
    data_preprocessor=dict(pad_mask=True),
    roi_head=dict(
        bbox_head=dict(
            type='DetectronShared4Conv1FCBBoxHead', norm_cfg=norm_cfg),
        mask_roi_extractor=dict(
            type='DetectronRoIExtractor',
            roi_layer=dict(
                type='RoIAlign',
                output_size=14,
                sampling_ratio=2,
                aligned=False),
            out_channels=256,
            featmap_strides=[4, 8, 16, 32]),
        mask_head=dict(
            type='DetectronMaskHead',
            num_convs=4,
            in_channels=256,
            conv_out_channels=256,
            num_classes=80,
            norm_cfg=norm_cfg,
            loss_mask=dict(
                type='CrossEntropyLoss', use_mask=True, loss_weight=1.0))),
    train_cfg=dict(rcnn=dict(mask_size=28)),
    test_cfg=dict(rcnn=dict(mask_thr_binary=0.5)))

load_annotations = dict(
    type='LoadAnnotations', with_bbox=True, with_mask=True)
train_pipeline = list(_base_.train_pipeline)
train_pipeline[1] = load_annotations
test_pipeline = list(_base_.test_pipeline)
test_pipeline[2] = load_annotations
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(metric=['bbox', 'segm'])
test_evaluator = val_evaluator
