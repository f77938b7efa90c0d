# The released ADE20K encoder and c1_deepsup decoder: output stride 8, one
# 3x3 convolution with norm, deep supervision on layer3.
_base_ = [
    'mmseg::_base_/models/fcn_r50-d8.py', 'mmseg::_base_/datasets/ade20k.py',
    'mmseg::_base_/default_runtime.py',
    'mmseg::_base_/schedules/schedule_160k.py'
]
custom_imports = dict(
    imports=['sn_mm', 'sn_mm.models.c1_deepsup'], allow_failed_imports=False)

norm_cfg = dict(type='SN', requires_grad=True, unbiased=True, momentum=0.003)
model = dict(
    pretrained=None,
    data_preprocessor=dict(
        mean=[102.9801, 115.9465, 122.7717],
        std=[1.0, 1.0, 1.0],
        bgr_to_rgb=False),
    backbone=dict(type='ResNet', norm_cfg=norm_cfg),
    decode_head=dict(
        type='DirectFCNHead',
        num_convs=1,
        concat_input=False,
        dropout_ratio=0,
        num_classes=150,
        norm_cfg=norm_cfg),
    auxiliary_head=dict(
        channels=512, dropout_ratio=0, num_classes=150, norm_cfg=norm_cfg))

crop_size = (450, 450)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', reduce_zero_label=True),
    dict(
        type='RandomResize',
        scale=(2048, 450),
        ratio_range=(0.5, 2.0),
        keep_ratio=True),
    dict(type='RandomCrop', crop_size=crop_size, cat_max_ratio=0.75),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackSegInputs')
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='ResizeToStride', short=450),
    dict(type='LoadAnnotations', reduce_zero_label=True),
    dict(type='PackSegInputs')
]
# tools/test.py --tta: softmax averaged over the public code's scales
tta_model = dict(type='SegTTAModel')
tta_pipeline = [
    dict(type='LoadImageFromFile', backend_args=None),
    dict(
        type='TestTimeAug',
        transforms=[[
            dict(type='ResizeToStride', short=short)
            for short in (300, 400, 500, 600)
        ], [dict(type='LoadAnnotations', reduce_zero_label=True)],
                    [dict(type='PackSegInputs')]])
]
model['data_preprocessor']['size'] = crop_size
train_dataloader = dict(batch_size=2, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader

optim_wrapper = dict(
    optimizer=dict(lr=0.02, weight_decay=1e-4),
    paramwise_cfg=dict(norm_decay_mult=0., bias_decay_mult=0.))
param_scheduler = [
    dict(type='PolyLR', power=0.9, eta_min=0, end=100000, by_epoch=False)
]
train_cfg = dict(max_iters=100000)
# each process has running statistics of its own: one average for all
custom_hooks = [dict(type='SyncBuffersHook')]
