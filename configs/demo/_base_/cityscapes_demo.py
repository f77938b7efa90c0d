# Data of the segmentation demos, made by `python tools/make_demo_data.py` in
# the layout of Cityscapes. Ten of its classes play the digits, 'building' is
# the background, and the other eight do not occur. Pictures keep their size,
# 160 x 192 pixels, and are not flipped: a mirrored digit is no digit.
dataset_type = 'CityscapesDataset'
data_root = '{{$SN_MM_DEMO_DATA:data/demo}}/cityscapes/'

# Most pixels are background ('building', the third class). At full weight, a
# net from scratch stays for long with telling digits from background only.
class_weight = [1.0] * 19
class_weight[2] = 0.1

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs')
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs')
]

# Pictures this small are loaded faster than they are handed between
# processes.
train_dataloader = dict(
    batch_size=2,
    num_workers=0,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        data_prefix=dict(
            img_path='leftImg8bit/train', seg_map_path='gtFine/train'),
        pipeline=train_pipeline))
val_dataloader = dict(
    batch_size=1,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        data_prefix=dict(
            img_path='leftImg8bit/val', seg_map_path='gtFine/val'),
        pipeline=test_pipeline))
test_dataloader = val_dataloader

val_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU'])
test_evaluator = val_evaluator

# as the pictures are, and in mirror image
tta_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(
        type='TestTimeAug',
        transforms=[[
            dict(type='RandomFlip', prob=0., direction='horizontal'),
            dict(type='RandomFlip', prob=1., direction='horizontal')
        ], [dict(type='LoadAnnotations')], [dict(type='PackSegInputs')]])
]
