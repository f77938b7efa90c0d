# Data of the segmentation demos, made by `python tools/make_demo_data.py` in
# the layout of Cityscapes. Ten of its classes play the digits, 'building' is
# the background, and the other eight do not occur (their names are in
# brackets). Scores and pictures name what is to be seen. Pictures keep their
# size, 160 x 192 pixels, and are not flipped: a mirrored digit is no digit.
dataset_type = 'BaseSegDataset'
data_root = '{{$SN_MM_DEMO_DATA:data/demo}}/cityscapes/'
metainfo = dict(
    classes=('(road)', '(sidewalk)', 'background', '(wall)', '(fence)',
             '(pole)', 'zero', 'one', '(vegetation)', '(terrain)', '(sky)',
             'two', 'three', 'four', 'five', 'six', 'seven', 'eight', 'nine'),
    palette=[[0, 0, 0], [0, 0, 0], [70, 70, 70], [0, 0, 0], [0, 0, 0],
             [0, 0, 0], [230, 25, 75], [60, 180, 75], [0, 0, 0], [0, 0, 0],
             [0, 0, 0], [255, 225, 25], [0, 130, 200], [245, 130, 48],
             [145, 30, 180], [70, 240, 240], [240, 50, 230], [210, 245, 60],
             [250, 190, 212]])

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
        img_suffix='_leftImg8bit.png',
        seg_map_suffix='_gtFine_labelTrainIds.png',
        metainfo=metainfo,
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
        img_suffix='_leftImg8bit.png',
        seg_map_suffix='_gtFine_labelTrainIds.png',
        metainfo=metainfo,
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
