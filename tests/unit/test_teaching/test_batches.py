# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
from itertools import islice

import pytest
import torch
from mmdet.models import DetDataPreprocessor
from mmdet.structures import DetDataSample
from mmseg.models import SegDataPreProcessor
from mmseg.structures import SegDataSample
from torch import nn

from sn_mm.teaching.batches import endless, images_in, prepared

SETTINGS = dict(mean=[10.0, 20.0, 30.0], std=[2.0, 4.0, 5.0])
SIZES = [(20, 30), (25, 24)]


def model_with(preprocessor):
    model = nn.Conv2d(3, 1, 1)
    model.data_preprocessor = preprocessor
    return model


def batch_of(sample):
    inputs = [torch.full((3, *size), 50, dtype=torch.uint8) for size in SIZES]
    samples = [
        sample(metainfo=dict(img_shape=size, ori_shape=size)) for size in SIZES
    ]
    return dict(inputs=inputs, data_samples=samples)


@pytest.mark.parametrize(
    'preprocessor, sample, shape',
    [
        (DetDataPreprocessor, DetDataSample, (32, 32)),
        (SegDataPreProcessor, SegDataSample, (25, 30)),
    ],
)
def test_pictures_of_several_sizes(preprocessor, sample, shape):
    """Both toolboxes pad with zeros, at the right and the bottom."""
    options = dict(SETTINGS)
    if preprocessor is DetDataPreprocessor:
        options['pad_size_divisor'] = 32
    model = model_with(preprocessor(**options))
    batch = prepared(model, batch_of(sample))
    assert batch['inputs'].shape == (2, 3, *shape)
    assert images_in(batch) == 2
    for one, (height, width) in zip(batch['inputs'], SIZES):
        inside = one[:, :height, :width]
        assert torch.equal(inside[0], torch.full((height, width), 20.0))
        assert torch.equal(inside[2], torch.full((height, width), 4.0))
        assert one.abs().sum() == inside.abs().sum()


def test_segmentors_pad_to_a_multiple_too():
    model = model_with(
        SegDataPreProcessor(**SETTINGS, test_cfg=dict(size_divisor=32))
    )
    batch = prepared(model, batch_of(SegDataSample))
    assert batch['inputs'].shape == (2, 3, 32, 32)


def test_plain_batches():
    model, x = nn.Conv2d(3, 1, 1), torch.rand(2, 3, 4, 4)
    assert torch.equal(prepared(model, x), x)
    assert torch.equal(prepared(model, (x, torch.tensor([1, 2]))), x)
    assert images_in(x) == 2


def test_endless_goes_round():
    assert list(islice(endless([1, 2, 3], 2), 5)) == [3, 1, 2, 3, 1]

    class Iterable:
        def __iter__(self):
            return iter([1, 2, 3])

    assert list(islice(endless(Iterable(), 2), 5)) == [3, 1, 2, 3, 1]
    with pytest.raises(ValueError, match='batches is empty'):
        next(endless([]))
    once = endless(iter([1, 2]))
    assert [next(once), next(once)] == [1, 2]
    with pytest.raises(ValueError, match='ended after 2'):
        next(once)
