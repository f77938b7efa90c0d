# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
import numpy as np
import pytest

from demo import scans
from demo.scenes import render_scene

SIZE = (96, 128)
COUNT = 20


@pytest.fixture(scope='module')
def scenes():
    return [render_scene(0, 'train', i, SIZE) for i in range(COUNT)]


def test_picture_and_masks_have_the_size(scenes):
    for scene in scenes:
        assert scene.image.shape == (*SIZE, 3)
        assert scene.image.dtype == np.uint8
        for instance in scene.instances:
            assert instance.mask.shape == instance.full.shape == SIZE
            assert instance.mask.dtype == instance.full.dtype == bool
            assert 0 <= instance.label <= 9


def test_front_hides_back(scenes):
    overlaps = 0
    for scene in scenes:
        in_front = np.zeros(SIZE, dtype=bool)
        for instance in reversed(scene.instances):
            visible = instance.full & ~in_front
            np.testing.assert_array_equal(instance.mask, visible)
            overlaps += (instance.full & in_front).any()
            in_front |= instance.full
    assert overlaps > 5  # the task is to have occlusion


def test_each_instance_shows_enough_of_itself(scenes):
    for scene in scenes:
        for instance in scene.instances:
            visible = instance.mask.sum()
            assert visible >= 0.4 * instance.full.sum()
            assert visible >= 0.005 * min(SIZE) ** 2


def test_digits_stand_out(scenes):
    """Pixels of a digit differ from those around it."""
    contrasts = []
    for scene in scenes:
        gray = scene.image.mean(axis=-1)
        background = ~np.any([i.full for i in scene.instances], axis=0)
        for instance in scene.instances:
            if not instance.crowd:
                contrasts.append(
                    abs(gray[instance.mask].mean() - gray[background].mean())
                )
    assert np.median(contrasts) > 40


def test_empty_and_crowd_scenes_are_at_fixed_indices(scenes):
    empty = [i for i, s in enumerate(scenes) if not s.instances]
    crowd = [
        i for i, s in enumerate(scenes) if any(x.crowd for x in s.instances)
    ]
    assert empty == [5]
    assert crowd == [2, 12]


def test_scene_depends_on_seed_split_and_index_only(scenes):
    again = render_scene(0, 'train', 7, SIZE)
    np.testing.assert_array_equal(again.image, scenes[7].image)
    for other in [(1, 'train', 7), (0, 'val', 7), (0, 'train', 8)]:
        scene = render_scene(*other, SIZE)
        assert (scene.image != scenes[7].image).any()


def test_train_and_val_share_no_scan_and_no_photo():
    for digit in range(10):
        train = scans.digit_scans('train')[digit]
        val = scans.digit_scans('val')[digit]
        assert len(train) > 100 and len(val) > 35
        differences = np.abs(train[:, None, ::8, ::8] - val[None, :, ::8, ::8])
        assert differences.sum(axis=(-1, -2)).min() > 0
    widths = [scans.photos(split)[0].shape[1] for split in scans.SPLITS]
    assert sum(widths) == 640  # of which every column is in one split


def test_unknown_split():
    with pytest.raises(ValueError, match="got 'test'"):
        scans.digit_scans('test')


def test_missing_scikit_learn_names_the_package(monkeypatch):
    scans.photos.cache_clear()
    # None in sys.modules makes the import fail as if it were not installed.
    monkeypatch.setitem(__import__('sys').modules, 'sklearn', None)
    with pytest.raises(ImportError, match='pip install scikit-learn'):
        scans.photos('train')
