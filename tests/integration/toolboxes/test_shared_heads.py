# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""RetinaNet's head: one norm layer, called once for every pyramid level."""

import copy

import pytest
import torch

from tests.builders import (
    SN_CFG,
    build,
    outputs_and_grads,
    randomize_norms,
    reference_copy,
    retinanet_config,
    switch_norms,
)
from tests.utils import assert_close

LEVELS = [(12, 9), (6, 5), (3, 3), (2, 2), (1, 1)]


@pytest.fixture(params=['SN', 'SyncSN'])
def head(request):
    cfg = retinanet_config(dict(SN_CFG, type=request.param)).model
    head = randomize_norms(build('mmdet', cfg.bbox_head)).train()
    assert len(switch_norms(head)) == 2 * 2  # cls and reg, stacked_convs=2
    return head


@pytest.fixture
def pyramid():
    gen = torch.Generator().manual_seed(1)
    # every level on another scale: its statistics are its own
    return [
        torch.randn(2, 16, *size, generator=gen) * (i + 1) + i
        for i, size in enumerate(LEVELS)
    ]


@pytest.mark.filterwarnings('ignore:SN on a map of a single position')
def test_running_statistics_count_calls(head, pyramid):
    inputs = {name: [] for name in switch_norms(head)}
    for name, layer in switch_norms(head).items():
        layer.register_forward_pre_hook(
            lambda m, args, seen=inputs[name]: seen.append(args[0].double())
        )
    before = copy.deepcopy(head.state_dict())
    head(pyramid)
    head(pyramid[:2])
    for name, layer in switch_norms(head).items():
        assert len(inputs[name]) == len(LEVELS) + 2
        mean = before[name + '.running_mean'].double()
        var = before[name + '.running_var'].double()
        for x in inputs[name]:
            mean = 0.9 * mean + 0.1 * x.mean((0, 2, 3))
            var = 0.9 * var + 0.1 * x.var((0, 2, 3), unbiased=False)
        assert int(layer.num_batches_tracked) == len(LEVELS) + 2
        torch.testing.assert_close(
            layer.running_mean.double(), mean, rtol=1e-5, atol=1e-5
        )
        torch.testing.assert_close(
            layer.running_var.double(), var, rtol=1e-5, atol=1e-5
        )


@pytest.mark.filterwarnings('ignore:SN on a map of a single position')
@pytest.mark.parametrize('training', [True, False])
def test_outputs_and_gradients_of_all_levels(head, pyramid, training):
    head.train(training)
    pyramid = [x.double() for x in pyramid]
    want = outputs_and_grads(reference_copy(head), pyramid)
    got = outputs_and_grads(head.double(), pyramid)
    parameters = len(list(head.parameters()))
    assert len(got) == 3 * len(LEVELS) + parameters  # cls, reg, input
    assert_close(got, want, 1e-9)
