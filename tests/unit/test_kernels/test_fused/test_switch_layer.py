# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""A layer of SN as C reads it: sizes, scratch and addresses."""

from __future__ import annotations

import pytest
import torch

from sn_mm.kernels.fused import switch_layer
from sn_mm.kernels.fused.switch_settings import Switch

N, C, GROUPS, SETS = 3, 12, 4, 2
SWITCH = Switch(('gn', 'in', 'bn'), GROUPS, True, 1.0, False, 1e-5)
DOUBLE = 8


def planned(given=False):
    return switch_layer.plan(SWITCH, N, C, 49, (SETS, 3), given, 1)


def params(dtype=torch.float32):
    return (
        torch.rand(SETS, 3, dtype=dtype),
        torch.rand(SETS, 3, dtype=dtype),
        torch.rand(C, dtype=dtype),
        None,
    )


def test_settings_are_written_down_once():
    assert planned() is planned() and planned() is not planned(given=True)
    layer = planned().forward(params(), [])
    assert (layer.samples, layer.channels, layer.size) == (N, C, 49)
    assert (layer.count, layer.ratio_groups) == (3, SETS)
    places = [getattr(layer, name) for name in ('gn', 'in', 'bn', 'ln')]
    assert places == [0, 1, 2, -1] and layer.num_groups == GROUPS


def test_parts_of_the_scratch_do_not_overlap():
    backward, _ = planned().backward(params(), [])
    layer = backward.of
    sizes = dict(
        ratios=2 * SETS * 3,
        by_channel=switch_layer.CHANNEL_ARRAYS * C,
        ln_pool=2 * N,
        gn_pool=2 * N * GROUPS,
        bn_pool=2 * C,
        ln_grad=2 * N,
        gn_grad=2 * N * GROUPS,
        bn_grad=2 * C,
    )
    parts = [(getattr(layer, name), n) for name, n in sizes.items()]
    parts += [(backward.grads, 2 * N * C), (backward.segments, 2 * N * C)]
    parts.sort()
    for (start, count), (following, _) in zip(parts, parts[1:]):
        assert start + DOUBLE * count <= following
    # what forward needs comes first, since it asks for no more
    forward = planned().forward(params(), [])
    assert forward.ratios == layer.ratios and not forward.ln_grad


def test_gradients_have_the_shapes_of_the_params():
    backward, grads = planned().backward(params(), [])
    assert [tuple(g.shape) for g in grads] == [(SETS, 3)] * 2 + [(C,)] * 2
    wanted = [
        backward.d_mean_weight,
        backward.d_var_weight,
        backward.d_weight,
        backward.d_bias,
    ]
    assert [g.data_ptr() for g in grads] == wanted


def test_copies_that_c_reads_are_kept():
    given, kept = params(torch.float64), []
    layer = planned().forward(given, kept)
    assert [t.dtype for t in kept] == [torch.float32] * 3
    assert layer.weight == kept[2].data_ptr() and not layer.bias
    ours = params()
    kept = []
    assert planned().forward(ours, kept).weight == ours[2].data_ptr()
    assert not kept


@pytest.mark.parametrize('shape', [(2, 1, C + 1), (4, 1, C), (2, C)])
def test_moments_from_outside_of_another_shape_are_refused(shape):
    layer = planned().forward(params(), [])
    with pytest.raises(ValueError, match="the pooled 'bn' has shape"):
        switch_layer.place_batch(layer, torch.zeros(shape).double(), [])


def test_groups_and_ratios_that_do_not_fit():
    odd = SWITCH._replace(num_groups=5)
    with pytest.raises(ValueError, match='num_groups=5 does not divide'):
        switch_layer.plan(odd, N, C, 49, (3,), False, 1)
    for logits in ((2,), (5, 3), (0, 3)):
        with pytest.raises(ValueError, match='mean_weight has shape'):
            switch_layer.plan(SWITCH, N, C, 49, logits, False, 1)
