# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""ASPP's image pooling and PSP's 1 x 1 bin: a norm on a 1 x 1 map."""

import warnings

import pytest
import torch

from tests.builders import (
    build,
    outputs_and_grads,
    randomize_norms,
    reference_copy,
    seg_inputs,
    segmentor_config,
    switch_norms,
)
from tests.utils import assert_close

# the one layer of each head that sees a 1 x 1 map
POOLED = {'deeplabv3': 'image_pool.1.sn', 'pspnet': 'psp_modules.0.1.sn'}
HEADS = pytest.mark.parametrize('name', POOLED)
STATISTICS = pytest.mark.parametrize(
    'statistics',
    [('in', 'ln', 'bn'), ('in', 'ln'), ('in', 'bn'), ('in',)],
    ids='-'.join,
)
QUIET = pytest.mark.filterwarnings('ignore:SN on a map of a single position')


def decode_head(name, statistics=('in', 'ln', 'bn'), norm='SN'):
    norm_cfg = dict(type=norm, statistics=statistics)
    model = segmentor_config(name, norm_cfg).model
    model.decode_head.dropout_ratio = 0
    return randomize_norms(build('mmseg', model.decode_head))


def features(images, dtype=torch.float):
    """Four stages; the head takes the last, 64 channels."""
    gen = torch.Generator().manual_seed(images)
    x = torch.randn(images, 64, 7, 5, generator=gen, dtype=dtype)
    return [x[:, :8], x[:, :16], x[:, :32], x + 1]


@QUIET
@HEADS
@STATISTICS
@pytest.mark.parametrize('training', [True, False], ids=['train', 'eval'])
@pytest.mark.parametrize('images', [1, 2])
def test_values_and_gradients(name, statistics, training, images):
    head = decode_head(name, statistics).train(training)
    inputs = features(images, torch.double)
    want = outputs_and_grads(reference_copy(head), inputs)
    got = outputs_and_grads(head.double(), inputs)
    shape = (images, 4, 7, 5)
    assert got['output 0'].shape == shape
    assert_close(got, want, 1e-8)


@QUIET
@HEADS
@STATISTICS
@pytest.mark.parametrize('images', [1, 2])
def test_finite_in_float32(name, statistics, images):
    head = decode_head(name, statistics).train()
    values = outputs_and_grads(head, features(images))
    assert {n for n, _ in head.named_parameters()} - set(values) <= {
        'conv_seg.weight',
        'conv_seg.bias',
    }
    for key, value in values.items():
        assert torch.isfinite(value).all(), key
    for key, buffer in head.named_buffers():
        assert torch.isfinite(buffer).all(), key


@QUIET
@HEADS
def test_the_instance_ratio_gets_no_gradient_there(name):
    head = decode_head(name).train()
    values = outputs_and_grads(head, features(2))
    for kind in ('mean_weight', 'var_weight'):
        grad = values[f'{POOLED[name]}.{kind}']
        assert grad[0] == 0 and grad[1:].any()
        assert values[f'bottleneck.sn.{kind}'].all()


@HEADS
def test_warned_once_by_that_layer_alone(name):
    head = decode_head(name).train()
    assert POOLED[name] in switch_norms(head)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        for _ in range(3):
            head(features(2))
        head.eval()
        head(features(1))
    texts = [str(w.message) for w in caught]
    assert len([t for t in texts if 'single position' in t]) == 1
    assert [n for n, m in switch_norms(head).items() if m._warned] == [
        POOLED[name]
    ]


@QUIET
@pytest.mark.parametrize('name', POOLED)
def test_a_whole_segmentor_trains_with_one_image(name):
    model = build('mmseg', segmentor_config(name).model).train()
    data = model.data_preprocessor(seg_inputs(1), training=True)
    losses, _ = model.parse_losses(model(**data, mode='loss'))
    losses.backward()
    for key, p in model.named_parameters():
        assert p.grad is not None and torch.isfinite(p.grad).all(), key
