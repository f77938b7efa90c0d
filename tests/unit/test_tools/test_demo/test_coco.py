# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
import cv2
import numpy as np
import pytest
from mmdet.datasets import CocoDataset
from mmengine.registry import DefaultScope
from pycocotools import mask as mask_api
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from demo import METAINFO
from demo.coco import to_annotations
from demo.scenes import Instance, Scene, render_scene


@pytest.fixture(scope='module')
def coco(demo_data):
    return COCO(demo_data / 'coco/annotations/instances_val2017.json')


def scene_of(*masks):
    image = np.zeros((*masks[0].shape, 3), dtype=np.uint8)
    return Scene(image, tuple(Instance(4, mask, mask) for mask in masks))


def test_classes_and_files(coco, demo_data, options):
    categories = coco.loadCats(coco.getCatIds())
    assert [c['id'] for c in categories] == list(range(1, 11))
    assert tuple(c['name'] for c in categories) == METAINFO['classes']
    assert len(set(METAINFO['palette'])) == 10
    images = coco.loadImgs(coco.getImgIds())
    assert len(images) == options.val
    for image in images:
        picture = cv2.imread(
            str(demo_data / 'coco/val2017' / image['file_name'])
        )
        assert picture.shape == (*options.size, 3)
        assert (image['height'], image['width']) == options.size


def test_annotations_are_those_of_the_scenes(coco, options):
    for index, image_id in enumerate(coco.getImgIds()):
        scene = render_scene(options.seed, 'val', index, options.size)
        annotations = coco.imgToAnns[image_id]
        assert len(annotations) == len(scene.instances)
        for annotation, instance in zip(annotations, scene.instances):
            mask = coco.annToMask(annotation).astype(bool)
            np.testing.assert_array_equal(mask, instance.mask)
            rows, columns = np.nonzero(mask)
            x, y, width, height = annotation['bbox']
            assert (x, y) == (columns.min(), rows.min())
            assert x + width == columns.max() + 1
            assert y + height == rows.max() + 1
            assert annotation['area'] == mask.sum()
            assert annotation['category_id'] == instance.label + 1
            assert annotation['iscrowd'] == instance.crowd


def test_every_kind_of_annotation_occurs(coco):
    annotations = coco.loadAnns(coco.getAnnIds())
    crowds = [a for a in annotations if a['iscrowd']]
    kinds = {type(a['segmentation']) for a in annotations}
    assert crowds and kinds == {list, dict}
    assert all(isinstance(a['segmentation'], dict) for a in crowds)
    assert any(not coco.getAnnIds(imgIds=[i]) for i in coco.getImgIds())


def test_ids_are_unique_over_both_splits(coco, demo_data):
    train = COCO(demo_data / 'coco/annotations/instances_train2017.json')
    assert not set(coco.imgs) & set(train.imgs)
    assert not set(coco.anns) & set(train.anns)


def test_parts_are_polygons_and_holes_are_run_lengths():
    parts = np.zeros((8, 9), dtype=bool)
    parts[1:3, 1:8] = parts[5:7, 1:8] = True
    ring = np.zeros((8, 9), dtype=bool)
    ring[:7, :7] = True  # starts at the first pixel: first run is empty
    ring[2:4, 2:4] = False
    split, holed = to_annotations(scene_of(parts, ring), image_id=1)
    assert [len(polygon) for polygon in split['segmentation']] == [8, 8]
    assert holed['segmentation']['counts'][0] == 0
    rle = mask_api.frPyObjects(holed['segmentation'], 8, 9)
    np.testing.assert_array_equal(mask_api.decode(rle), ring)


@pytest.mark.parametrize('iou_type', ['bbox', 'segm'])
def test_perfect_predictions_have_perfect_precision(coco, iou_type):
    results = [
        dict(
            image_id=a['image_id'],
            category_id=a['category_id'],
            score=0.9,
            **(
                dict(bbox=a['bbox'])
                if iou_type == 'bbox'
                else dict(segmentation=coco.annToRLE(a))
            ),
        )
        for a in coco.loadAnns(coco.getAnnIds(iscrowd=False))
    ]
    evaluation = COCOeval(coco, coco.loadRes(results), iou_type)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    assert evaluation.stats[0] == pytest.approx(1)


def test_mmdet_reads_it(demo_data, options):
    with DefaultScope.overwrite_default_scope('mmdet'):
        dataset = CocoDataset(
            data_root=str(demo_data / 'coco'),
            ann_file='annotations/instances_train2017.json',
            data_prefix=dict(img='train2017/'),
            metainfo=METAINFO,
            filter_cfg=dict(filter_empty_gt=True),
            pipeline=[
                dict(type='LoadImageFromFile'),
                dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
            ],
        )
    assert len(dataset) == options.train - 1  # without the empty image
    labels = set()
    for sample in dataset:
        index = sample['img_id'] - 1
        scene = render_scene(options.seed, 'train', index, options.size)
        assert sample['img'].shape == (*options.size, 3)
        np.testing.assert_array_equal(
            sample['gt_masks'].masks.astype(bool),
            [instance.mask for instance in scene.instances],
        )
        np.testing.assert_array_equal(
            sample['gt_ignore_flags'], [i.crowd for i in scene.instances]
        )
        expected = [i.label for i in scene.instances]
        np.testing.assert_array_equal(sample['gt_bboxes_labels'], expected)
        labels.update(expected)
    assert len(labels) > 4
