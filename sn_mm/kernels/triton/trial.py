# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""A small run of every sweep, compared with PyTorch's kernels."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import aten
from . import sweeps

# Rows of several splits, and channels and positions that no tile divides.
# The kernels compiled for it are those that most layers of a backbone take.
_SHAPE = (2, 80, 64, 80)
_FORMATS = (torch.contiguous_format, torch.channels_last)


def difference(
    device: torch.device,
    dtype: torch.dtype,
    shape: tuple[int, int, int, int] = _SHAPE,
) -> str | None:
    """None if all sweeps agree with PyTorch's, or which one does not."""
    for memory_format in _FORMATS:
        x, dy = (
            _waves(shape, frequency, device)
            .to(dtype)
            .contiguous(memory_format=memory_format)
            for frequency in (0.37, 0.53)
        )
        for name, ours in _results(sweeps, dy, x).items():
            # in float32, so that only the kernels round to dtype
            theirs = _results(aten, dy.float(), x.float())[name]
            if not _is_close(ours, theirs, torch.finfo(dtype).eps):
                return f'{name} differ from what PyTorch computes'
    return None


def _results(module, dy: Tensor, x: Tensor) -> dict[str, Tensor]:
    """What the sweeps of one implementation give."""
    moments = module.moments(x)
    near = moments[0].float()
    scale, shift = near.cos(), near.sin()
    gate = (scale, shift)
    remeasured, sums = module.remeasure(dy, x)
    return {
        'moments': moments,
        'outputs': module.affine(x, near, scale, shift),
        'outputs with ReLU': module.affine(x, near, scale, shift, relu=True),
        'sums': module.products(dy, x, near),
        'sums behind ReLU': module.products(dy, x, near, gate),
        'gradients': module.combine(dy, x, scale, near, shift, shift),
        'gradients behind ReLU': module.combine(
            dy, x, scale, near, shift, shift, gate
        ),
        'moments for backward': remeasured,
        'sums for backward': sums,
    }


def _waves(shape, frequency: float, device: torch.device) -> Tensor:
    """Numbers without a random generator, whose state is the user's."""
    count = shape[0] * shape[1] * shape[2] * shape[3]
    t = torch.arange(count, device=device, dtype=torch.float64)
    t = (t * frequency).sin() + (t / 1e4).cos()
    return t.float().view(shape)


def _is_close(ours: Tensor, theirs: Tensor, eps: float) -> bool:
    """Whether they agree, but for rounding, beside the largest value."""
    off = (ours.double() - theirs.double()).abs().max()
    return bool(off <= max(4 * eps, 1e-4) * theirs.abs().max())
