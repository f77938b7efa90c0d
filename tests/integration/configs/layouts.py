# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Small data sets under the paths and in the layouts that configs expect.

Scenes are those of tools/demo. Digits play the first ten of COCO's 80
classes; ADE20K has Cityscapes' scenes, each train id plus one, 0 being
'other', as in its own annotations.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
from mmdet.datasets import CocoDataset

from demo.data_folder import make_demo_data
from demo.options import DemoOptions

SIZE = (64, 96)


def make_data(root: Path) -> Path:
    """``root/data`` with coco, cityscapes and ade/ADEChallengeData2016."""
    data = root / 'data'
    demo = root / 'demo'
    make_demo_data(demo, DemoOptions(train=6, val=2, size=SIZE))
    data.mkdir()
    shutil.move(demo / 'coco', data / 'coco')
    shutil.move(demo / 'cityscapes', data / 'cityscapes')
    for file in (data / 'coco/annotations').glob('*.json'):
        _name_categories(file)
    for split, long in (('train', 'training'), ('val', 'validation')):
        _write_ade(data, split, long)
    return data


def _name_categories(file: Path) -> None:
    """COCO's own 80 names, whose ids skip some numbers in the real data."""
    content = json.loads(file.read_text())
    ids = {old['id']: 2 * old['id'] for old in content['categories']}
    names = CocoDataset.METAINFO['classes']
    content['categories'] = [
        dict(id=2 * i, name=name) for i, name in enumerate(names, 1)
    ]
    for annotation in content['annotations']:
        annotation['category_id'] = ids[annotation['category_id']]
    file.write_text(json.dumps(content))


def _write_ade(data: Path, split: str, long: str) -> None:
    ade = data / 'ade/ADEChallengeData2016'
    images, labels = ade / 'images' / long, ade / 'annotations' / long
    images.mkdir(parents=True)
    labels.mkdir(parents=True)
    scenes = sorted((data / 'cityscapes/leftImg8bit' / split).rglob('*.png'))
    for number, scene in enumerate(scenes, 1):
        name = f'ADE_{split}_{number:08}'
        cv2.imwrite(str(images / f'{name}.jpg'), cv2.imread(str(scene)))
        label = Path(
            str(scene)
            .replace('leftImg8bit/', 'gtFine/')
            .replace('_leftImg8bit', '_gtFine_labelTrainIds')
        )
        train_ids = cv2.imread(str(label), cv2.IMREAD_UNCHANGED)
        # 255, which is no class, wraps to ADE20K's 0
        cv2.imwrite(
            str(labels / f'{name}.png'), (train_ids + 1).astype(np.uint8)
        )
