# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Filter Response Normalization layers."""

from __future__ import annotations

import torch
from torch import Tensor

from sn_mm.functional import normalize_rows
from sn_mm.functional.filter_response import FilterResponseRule, raise_by
from sn_mm.kernels.layout import widen

from .arguments import own_eps
from .base import RowNorm
from .registration import register_norm

_EPS = 1e-6


@register_norm('FRN')
class FRN(RowNorm):
    r"""Filter Response Normalization over (N, C, \*spatial), and its TLU.

    y = max(weight x / sqrt(mean of x^2 + eps) + bias, tau): see
    :mod:`sn_mm.functional.filter_response`. No statistic of the batch, and
    no mean is taken out. The thresholded linear unit takes the place of a
    ReLU: where the toolbox puts one behind it, thresholds below 0 have no
    effect.

    Args:
        num_features: C.
        eps: added to the mean square, inside the root. 1e-6 in configs, too.
        affine: learn ``weight`` and ``bias``.
        tlu: threshold the output from below. It is computed as a ReLU of
            the output less tau, and rounds as such sums do: where it is to
            have no effect, say False, and not a very low tau.
        device, dtype: of parameters.

    Attributes:
        weight, bias: (C,).
        tau: (C,) thresholds, initially 0; None without ``tlu``.

    Raises:
        TypeError, ValueError, CheckpointError: see :class:`.RowNorm`.
    """

    _abbr_ = 'bn'
    settings = ('eps', 'tlu')
    own_settings = ('eps',)
    options = dict(tlu=True)
    initial = dict(tau=0)

    def __init__(
        self,
        num_features: int,
        eps: float = _EPS,
        affine: bool = True,
        tlu: bool = True,
        device=None,
        dtype=None,
    ) -> None:
        super().__init__(
            *(num_features, own_eps(eps, _EPS), None, affine, False),
            device=device,
            dtype=dtype,
        )
        self.tlu = tlu
        self.register_parameter('tau', None)
        if tlu:
            like = torch.empty(0, device=device, dtype=dtype)
            self.add_parameter('tau', num_features, like=like)
        self.reset_parameters()

    def normalize(self, x: Tensor) -> Tensor:
        """The layer's output for an input that was checked."""
        rule, tau = FilterResponseRule(self.eps), self.tau
        if tau is None:
            return self.by_rule(x, rule, self.weight, self.bias)
        if x.is_mkldnn:
            return self.normalize(x.to_dense()).to_mkldnn()
        # Its gradient is a difference of two sums, which would cancel in
        # lower precision.
        tau = widen(tau)
        y = normalize_rows(x, rule, *(self.weight, self.bias, tau), relu=True)
        return raise_by(y, tau)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the tensors that are not those of an affine pair."""
        return dict(tau=(self.num_features,))
