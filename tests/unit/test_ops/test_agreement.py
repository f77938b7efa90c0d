# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""The stand-in against mmcv's compiled operators: stored, and live."""

import importlib

import mmcv._ext
import numpy as np
import pytest
import torch
from mmcv.ops import batched_nms, nms, roi_align

from tests.unit.test_ops import cases
from tests.unit.test_ops.make_arrays import ARRAYS
from tests.utils import relative_error

CASES = cases.all_cases()
TOLERANCE = 2e-5  # of the largest value; coordinates are float32
COMPILED = mmcv._ext.__file__.endswith(('.so', '.pyd'))
needs_compiled = pytest.mark.skipif(
    not COMPILED, reason='mmcv has no compiled operators here'
)


@pytest.fixture(scope='module')
def stored():
    with np.load(ARRAYS) as arrays:
        return dict(arrays)


def assert_agrees(got: dict, want: dict, name: str) -> None:
    for key, value in got.items():
        expected = torch.as_tensor(want[key])
        assert value.shape == expected.shape, (name, key)
        assert value.dtype == expected.dtype, (name, key)
        if value.is_floating_point():
            assert relative_error(value, expected) < TOLERANCE, (name, key)
        else:
            assert torch.equal(value, expected), (name, key)


@pytest.mark.parametrize('name', CASES)
def test_as_compiled_mmcv_computed_it(name, stored, backend):
    prefix = f'{name}/'
    want = {
        key[len(prefix) :]: value
        for key, value in stored.items()
        if key.startswith(prefix)
    }
    got = CASES[name]()
    assert got.keys() == want.keys()
    assert_agrees(got, want, name)


def both_ways(function, monkeypatch, *modules):
    """What the compiled operators give, and what the stand-in gives."""
    import sn_mm.ops

    compiled = function()
    for name in modules:
        module = importlib.import_module(f'mmcv.ops.{name}')
        monkeypatch.setattr(module, 'ext_module', sn_mm.ops)
    return function(), compiled


@needs_compiled
@pytest.mark.parametrize('seed', range(6))
def test_nms_of_a_pyramid(seed, monkeypatch):
    """Levels as classes, many boxes, thresholds at random."""
    random = np.random.RandomState(seed)
    number = int(random.randint(1, 3000))
    found = cases.boxes(seed, number, size=float(random.uniform(50, 900)))
    levels = torch.from_numpy(random.randint(0, 5, number))
    config = dict(type='nms', iou_threshold=float(random.uniform(0.2, 0.9)))
    high = cases.scores(seed, number)
    got, want = both_ways(
        lambda: batched_nms(found, high, levels, config), monkeypatch, 'nms'
    )
    assert torch.equal(got[0], want[0]) and torch.equal(got[1], want[1])
    got, want = both_ways(
        lambda: nms(found, high, config['iou_threshold']), monkeypatch, 'nms'
    )
    assert torch.equal(got[1], want[1])


@needs_compiled
@pytest.mark.parametrize('seed', range(6))
def test_roi_align_of_a_level(seed, monkeypatch):
    random = np.random.RandomState(seed)
    size = tuple(int(n) for n in random.randint(1, 70, 2))
    options = dict(
        number=int(random.randint(3, 200)),
        channels=int(random.randint(1, 9)),
        size=size,
        spatial_scale=float(random.choice([1 / 4, 1 / 7, 1 / 32])),
        sampling_ratio=int(random.randint(0, 4)),
        pool_mode=str(random.choice(['avg', 'max'])),
        output_size=tuple(int(n) for n in random.randint(1, 15, 2)),
        aligned=bool(seed % 2),
    )
    got, want = both_ways(
        lambda: cases.roi_align_case(**options), monkeypatch, 'roi_align'
    )
    assert_agrees(got, want, str(options))


@needs_compiled
@pytest.mark.parametrize('modulated', [False, True])
def test_deformable_convolution(modulated, monkeypatch):
    options = dict(
        modulated=modulated,
        stride=3,
        padding=2,
        dilation=1,
        groups=2,
        deform_groups=2,
        bias=modulated,
    )
    got, want = both_ways(
        lambda: cases.deform_conv_case(**options),
        monkeypatch,
        'deform_conv',
        'modulated_deform_conv',
    )
    assert_agrees(got, want, str(options))


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_roi_align_in_half_precision(dtype, backend):
    """As near to float64 as rounding what goes in and out allows."""
    x = cases.features(1, 2, 3, 9, 11).to(dtype)
    found = cases.rois(2, 20, 11).to(dtype)
    found[:, 3:] = torch.maximum(found[:, 3:], found[:, 1:3])
    dy = cases.features(3, 20, 3, 4, 4).to(dtype)
    results = []
    for to in (dtype, torch.float64):
        leaf = x.detach().to(to).requires_grad_()
        y = roi_align(leaf, found.to(to), (4, 4), 1.0, 2, 'avg', True)
        y.backward(dy.to(to))
        assert y.dtype == leaf.grad.dtype == to
        results.append((y, leaf.grad))
    for got, want in zip(*results):
        assert relative_error(got, want) < torch.finfo(dtype).eps


def test_nms_in_half_precision(backend):
    found = cases.boxes(4, 60).half()
    high = cases.scores(5, 60)
    for offset in (0, 1):
        kept = nms(found, high, 0.5, offset)[1]
        want = nms(found.float(), high, 0.5, offset)[1]
        assert torch.equal(kept, want)
