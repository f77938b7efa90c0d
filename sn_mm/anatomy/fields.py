# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Receptive fields: how each operation widens them.

A :class:`Field` travels with every tensor that depends on the image; what an
operation does to it follows from its kernel, stride and dilation, as called.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Field:
    """What one position of a map sees of the image, an entry for each axis.

    Attributes:
        size: pixels; infinite where it is the whole image, whatever its size.
        stride: pixels between neighbouring positions.
    """

    size: tuple[float, ...]
    stride: tuple[float, ...]

    def window(
        self,
        kernel: Sequence[int],
        stride: Sequence[float],
        dilation: Sequence[int] = (1,),
    ) -> Field:
        """After a sliding window; one entry stands for all axes."""
        axes = len(self.size)
        kernel, stride, dilation = (
            tuple(v) * (axes if len(v) == 1 else 1)
            for v in (kernel, stride, dilation)
        )
        if len(kernel) != axes:
            return self
        return Field(
            tuple(
                s + (k - 1) * d * j
                for s, k, d, j in zip(self.size, kernel, dilation, self.stride)
            ),
            tuple(j * s for j, s in zip(self.stride, stride)),
        )

    def everything(self) -> Field:
        """After a window that is the whole map."""
        return Field((math.inf,) * len(self.size), self.stride)

    def joined(self, other: Field) -> Field:
        """Where two paths meet, such as a residual branch and its shortcut."""
        if len(other.size) != len(self.size):
            return max(self, other, key=lambda field: max(field.size))
        return Field(
            tuple(map(max, self.size, other.size)),
            tuple(map(max, self.stride, other.stride)),
        )


def image_field(axes: int) -> Field:
    """Of the image itself."""
    return Field((1,) * axes, (1,) * axes)


def output_field(
    operation: str, args: Sequence, field: Field, output: Tensor
) -> Field:
    """The field after an operation whose input has ``field``.

    Args:
        operation: its name in ATen, without overload.
        args: as it was called.
        field: of the input, or of all inputs joined.
        output: what came out.
    """
    rule = _RULES.get(operation)
    return field if rule is None else rule(args, field, output)


def _convolution(args: Sequence, field: Field, output: Tensor) -> Field:
    _, weight, _, stride, _, dilation, transposed = args[:7]
    kernel = tuple(weight.shape[2:])
    if not transposed:
        return field.window(kernel, stride, dilation)
    spread = [math.ceil(k / s) for k, s in zip(kernel, stride)]
    return field.window(spread, [1 / s for s in stride])


def _pool(args: Sequence, field: Field, output: Tensor) -> Field:
    kernel = args[1]
    stride = args[2] if len(args) > 2 and args[2] else kernel
    return field.window(kernel, stride)


def _max_pool(args: Sequence, field: Field, output: Tensor) -> Field:
    kernel = args[1]
    stride = args[2] if len(args) > 2 and args[2] else kernel
    dilation = args[4] if len(args) > 4 else (1,)
    return field.window(kernel, stride, dilation)


def _adaptive(args: Sequence, field: Field, output: Tensor) -> Field:
    same = output.shape[2:] == args[0].shape[2:]
    return field if same else field.everything()


def _reduction(args: Sequence, field: Field, output: Tensor) -> Field:
    x = args[0]
    dims = args[1] if len(args) > 1 and args[1] is not None else range(x.dim())
    dims = [dims] if isinstance(dims, int) else dims
    spatial = any(d % x.dim() >= 2 for d in dims) and x.dim() > 2
    return field.everything() if spatial else field


def _resize(taps: int) -> Callable:
    def resize(args: Sequence, field: Field, output: Tensor) -> Field:
        scales = [
            old / new for old, new in zip(args[0].shape[2:], output.shape[2:])
        ]
        kernel = [taps if scale != 1 else 1 for scale in scales]
        return field.window(kernel, scales)

    return resize


def _attention(args: Sequence, field: Field, output: Tensor) -> Field:
    return field.everything()


_RULES: dict[str, Callable[[Sequence, Field, Tensor], Field]] = {
    'convolution': _convolution,
    'mean': _reduction,
    'sum': _reduction,
    'amax': _reduction,
    'bmm': _attention,
    '_scaled_dot_product_flash_attention_for_cpu': _attention,
    '_scaled_dot_product_flash_attention': _attention,
    '_scaled_dot_product_efficient_attention': _attention,
    **{f'avg_pool{n}d': _pool for n in (1, 2, 3)},
    **{f'max_pool{n}d': _max_pool for n in (1, 2, 3)},
    **{f'max_pool{n}d_with_indices': _max_pool for n in (2, 3)},
    **{f'_adaptive_avg_pool{n}d': _adaptive for n in (2, 3)},
    **{f'adaptive_max_pool{n}d': _adaptive for n in (2, 3)},
    **{f'upsample_nearest{n}d': _resize(1) for n in (1, 2, 3)},
    'upsample_linear1d': _resize(2),
    'upsample_bilinear2d': _resize(2),
    'upsample_trilinear3d': _resize(2),
    'upsample_bicubic2d': _resize(4),
}
