# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Numbers of other normalizers than SN that were computed elsewhere."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from tests.paths import DATA
from tests.utils import relative_error

# timm's FRN computes part in float32; the others are float64
PUBLIC = 1e-7


def fixture_of(name: str) -> dict[str, Tensor]:
    """The arrays of a file in tests/data/family; 'info' is left out."""
    with np.load(DATA / 'family' / f'{name}.npz') as file:
        return {
            key: torch.from_numpy(file[key])
            for key in file.files
            if key != 'info'
        }


def public_run(layer: nn.Module, arrays: dict[str, Tensor]) -> None:
    """What a public layer's fixture did, with ours; compares everything.

    Fill, forward and backward of x1, forward of x2 in training, forward and
    backward of x3 in evaluation. Buffers are compared as far as both have
    them; public running variances are unbiased, ours are not.

    Args:
        layer: in float64.
        arrays: of :func:`fixture_of`.
    """
    start = {
        key.partition('.')[2]: value
        for key, value in arrays.items()
        if key.startswith(('param.', 'buffer0.'))
    }
    layer.load_state_dict(start)
    names = {public: own for public, own in layer.public_names.items()}
    for mode, x, dy in (('train', 'x1', 'dy1'), ('eval', 'x3', 'dy3')):
        if mode == 'eval':
            _compare_buffers(layer, arrays)
        layer.train(mode == 'train').zero_grad()
        x = arrays[x].double().requires_grad_()
        y = layer(x)
        y.backward(arrays[dy].double())
        assert relative_error(y, arrays[f'{mode}.y']) < PUBLIC
        assert relative_error(x.grad, arrays[f'{mode}.dx']) < PUBLIC
        grads = [k for k in arrays if k.startswith(f'{mode}.grad.')]
        assert grads
        for key in grads:
            public = key[len(f'{mode}.grad.') :]
            got = layer.get_parameter(names.get(public, public)).grad
            want = arrays[key].view_as(got)
            assert relative_error(got, want) < PUBLIC, key
        if mode == 'train':
            y = layer(arrays['x2'].double())
            assert relative_error(y, arrays['train2.y']) < PUBLIC


def _compare_buffers(layer: nn.Module, arrays: dict[str, Tensor]) -> None:
    """After two batches; then evaluation takes the public ones."""
    if 'buffer2.running_mean' not in arrays:
        return
    want = arrays['buffer2.running_mean'], arrays['buffer2.running_var']
    assert relative_error(layer.running_mean, want[0]) < PUBLIC
    number = arrays['x1'][:, 0].numel()
    start = arrays['buffer0.running_var']
    kept = 0.9**2 * start
    ours = layer.running_var - kept
    theirs = (want[1] - kept) * (number - 1) / number
    assert relative_error(ours, theirs) < PUBLIC
    layer.running_mean.copy_(want[0])
    layer.running_var.copy_(want[1])
