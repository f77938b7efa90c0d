# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Configs of the experiment's trainings, as text.

Small, so that a CPU core trains each in minutes: MobileNetV2 from ImageNet
weights, with a narrow FPN and Faster R-CNN's heads for blood cells (BCCD, 320
x 240), or with a narrow FCN head for nuclei (256 x 256).
"""

from __future__ import annotations

from pathlib import Path

from .runs import SERIES, STARTS, Run

# as many steps with few labelled pictures as with all
_EPOCHS = 4
_PICTURES = 205
_STEPS = 1600

_DETECTION = """\
_base_ = [
    'mmdet::_base_/models/faster-rcnn_r50_fpn.py',
    'mmdet::_base_/default_runtime.py'
]
custom_imports = dict(imports=['sn_mm'], allow_failed_imports=False)

model = dict(
    backbone=dict(
        _delete_=True,
        type='MobileNetV2',
        out_indices=(1, 2, 4, 7),
        norm_cfg={norm_cfg},
        norm_eval={norm_eval},
        init_cfg=dict(type='Pretrained', checkpoint={start!r})),
    neck=dict(in_channels=[24, 32, 96, 1280], out_channels=64),
    rpn_head=dict(in_channels=64, feat_channels=64),
    roi_head=dict(
        bbox_roi_extractor=dict(
            roi_layer=dict(sampling_ratio=2), out_channels=64),
        bbox_head=dict(
            in_channels=64, fc_out_channels=256, num_classes=3)),
    train_cfg=dict(
        rpn_proposal=dict(nms_pre=500, max_per_img=250),
        rcnn=dict(sampler=dict(num=128))),
    test_cfg=dict(
        rpn=dict(nms_pre=500, max_per_img=250),
        rcnn=dict(max_per_img=50)))

metainfo = dict(classes=('RBC', 'WBC', 'Platelets'))
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='Resize', scale=(320, 240), keep_ratio=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs')
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(320, 240), keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='PackDetInputs')
]
train_dataloader = dict(
    batch_size={batch},
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        type='CocoDataset',
        data_root={data!r},
        ann_file={ann_file!r},
        data_prefix=dict(img='train/'),
        metainfo=metainfo,
        filter_cfg=dict(filter_empty_gt=True),
        pipeline=train_pipeline))
val_dataloader = dict(
    batch_size=1,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='CocoDataset',
        data_root={data!r},
        ann_file='val.json',
        data_prefix=dict(img='val/'),
        metainfo=metainfo,
        test_mode=True,
        pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(
    type='CocoMetric', ann_file={data!r} + '/val.json', metric='bbox')
test_evaluator = val_evaluator

train_cfg = dict(
    type='EpochBasedTrainLoop', max_epochs={epochs},
    val_interval={interval})
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='SGD', lr=0.01, momentum=0.9, weight_decay=1e-4),
    paramwise_cfg=dict(norm_decay_mult=0, custom_keys={custom_keys}),
    clip_grad=dict(max_norm=10))
param_scheduler = [
    dict(
        type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(
        type='CosineAnnealingLR',
        eta_min=0,
        by_epoch=True,
        begin=0,
        end={epochs},
        convert_to_iter_based=True)
]
default_hooks = dict(checkpoint=dict(interval={interval}, max_keep_ckpts=1))
randomness = dict(seed={seed})
"""

_SEGMENTATION = """\
_base_ = [
    'mmseg::_base_/models/fcn_r50-d8.py', 'mmseg::_base_/default_runtime.py'
]
custom_imports = dict(imports=['sn_mm'], allow_failed_imports=False)

norm_cfg = {norm_cfg}
model = dict(
    data_preprocessor=dict(size=None, size_divisor=32,
                           test_cfg=dict(size_divisor=32)),
    pretrained=None,
    backbone=dict(
        _delete_=True,
        type='mmdet.MobileNetV2',
        out_indices=(2, 4, 7),
        norm_cfg=norm_cfg,
        norm_eval={norm_eval},
        init_cfg=dict(type='Pretrained', checkpoint={start!r})),
    neck=dict(
        type='FPN',
        in_channels=[32, 96, 1280],
        out_channels=64,
        num_outs=3),
    decode_head=dict(
        in_channels=64,
        in_index=0,
        channels=64,
        num_classes=3,
        norm_cfg=None),
    auxiliary_head=None)

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackSegInputs')
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs')
]
dataset = dict(
    type='BaseSegDataset',
    data_root={data!r},
    img_suffix='.jpg',
    seg_map_suffix='.png',
    metainfo=dict(
        classes=('background', 'nucleus', 'rim'),
        palette=[[0, 0, 0], [0, 158, 115], [230, 159, 0]]))
train_dataloader = dict(
    batch_size={batch},
    num_workers=0,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(
        data_prefix=dict(img_path='img/train', seg_map_path='seg/train'),
        pipeline=train_pipeline,
        **dataset))
val_dataloader = dict(
    batch_size=1,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        data_prefix=dict(img_path='img/val', seg_map_path='seg/val'),
        pipeline=test_pipeline,
        **dataset))
test_dataloader = val_dataloader
val_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU'])
test_evaluator = val_evaluator

train_cfg = dict(
    type='IterBasedTrainLoop', max_iters={steps},
    val_interval={steps} // 4)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='SGD', lr=0.01, momentum=0.9, weight_decay=1e-4),
    paramwise_cfg=dict(norm_decay_mult=0, custom_keys={custom_keys}),
    clip_grad=dict(max_norm=10))
param_scheduler = [
    dict(
        type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(
        type='PolyLR', eta_min=0, power=0.9, by_epoch=False, begin=50,
        end={steps})
]
default_hooks = dict(
    checkpoint=dict(
        type='CheckpointHook', by_epoch=False, interval={steps} // 4,
        max_keep_ckpts=1))
log_processor = dict(by_epoch=False)
randomness = dict(seed={seed})
"""


def config_text(run: Run, start: Path, data: Path, ann_file: str) -> str:
    """The config of a run.

    Args:
        run: which one.
        start: checkpoint of the backbone, as init_cfg takes it.
        data: folder of the pictures.
        ann_file: of the labelled training pictures, for detection.
    """
    series, how = SERIES[run.series], STARTS[run.start]
    rounds = 1
    if series.labelled:
        rounds = round(_PICTURES / series.labelled)
    rates = {}
    if how.ratio_rate != 1:
        one = dict(lr_mult=how.ratio_rate, decay_mult=0)
        rates = dict(mean_weight=one, var_weight=one)
    text = _DETECTION if series.task == 'detection' else _SEGMENTATION
    return text.format(
        norm_cfg=how.norm_cfg,
        norm_eval=how.norm_eval,
        start=str(start),
        batch=series.batch,
        data=str(data),
        ann_file=ann_file,
        epochs=_EPOCHS * rounds,
        interval=rounds,
        steps=_STEPS // series.batch,
        custom_keys=rates,
        seed=run.seed,
    )
