# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
import pytest

from sn_mm.datasets.data_layouts import ADE20K, CITYSCAPES, COCO, LAYOUTS


@pytest.mark.parametrize(
    'layout, path, is_of',
    [
        (COCO, 'data/coco/annotations/instances_train2017.json', True),
        (COCO, 'data/own/instances_train.json', False),
        (CITYSCAPES, 'data/c/leftImg8bit/train', True),
        (CITYSCAPES, 'data/leftImg8bit_small', False),
        (ADE20K, 'images/training', True),
        (ADE20K, 'images/train', False),
    ],
)
def test_whose_paths_they_are(layout, path, is_of):
    assert layout.is_of(['elsewhere', path]) is is_of


@pytest.mark.parametrize('kind', LAYOUTS)
def test_descriptions_are_one_line_with_the_way_to_get_it(kind):
    layout = LAYOUTS[kind]
    text = layout.describe('my/root')
    assert '\n' not in text and '://' in text
    assert text.startswith(f'{layout.name} is expected in my/root as ')
    assert 'link it to my/root or set data_root' in text
    # its own tree has its marks
    assert any(m in ' '.join(layout.tree) for m in layout.marks)
