# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Class names and colours of the demo data, as dataset ``metainfo``."""

#: For mmdet's ``CocoDataset``. Label 0 to 9 is the digit; its COCO category
#: id is the label plus one, as COCO's ids start at one too.
METAINFO = dict(
    classes=(
        'zero',
        'one',
        'two',
        'three',
        'four',
        'five',
        'six',
        'seven',
        'eight',
        'nine',
    ),
    palette=[
        (230, 25, 75),
        (60, 180, 75),
        (255, 225, 25),
        (0, 130, 200),
        (245, 130, 48),
        (145, 30, 180),
        (70, 240, 240),
        (240, 50, 230),
        (210, 245, 60),
        (250, 190, 212),
    ],
)

#: The Cityscapes class that stands for each digit, by digit. Eight are the
#: 'thing' classes of Cityscapes, which number their instances; the other two
#: are its object-like 'stuff' classes, which do not.
CITYSCAPES_DIGITS = (
    'traffic light',
    'traffic sign',
    'person',
    'rider',
    'car',
    'truck',
    'bus',
    'train',
    'motorcycle',
    'bicycle',
)

#: The Cityscapes class of every pixel that shows no digit.
CITYSCAPES_BACKGROUND = 'building'

#: The eleven Cityscapes classes that occur, in Cityscapes' own order and
#: colours. mmseg's stock ``CityscapesDataset`` reads the demo data as it is,
#: with 19 classes; ``metainfo=CITYSCAPES_METAINFO`` makes it a compact task
#: of 11 classes.
CITYSCAPES_METAINFO = dict(
    classes=(CITYSCAPES_BACKGROUND, *CITYSCAPES_DIGITS),
    palette=[
        [70, 70, 70],
        [250, 170, 30],
        [220, 220, 0],
        [220, 20, 60],
        [255, 0, 0],
        [0, 0, 142],
        [0, 0, 70],
        [0, 60, 100],
        [0, 80, 100],
        [0, 0, 230],
        [119, 11, 32],
    ],
)
