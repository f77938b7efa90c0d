# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""A rule's numbers: the factors of the sweeps, and their gradients.

:class:`AnyRule` calls the rule and lets autograd differentiate it. For a rule
whose small operations cost more than its sweeps, :func:`register_fused` names
kernels that compute the same numbers: by the rule's exact type, since a
subclass may mean something else.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from numbers import Real
from types import ModuleType
from typing import Optional

import torch
from torch import Tensor

from sn_mm import kernels
from sn_mm.distributed.gather import recording, replaying
from sn_mm.kernels.factors import Factors
from sn_mm.kernels.layout import cast, is_worth_keeping

Params = Sequence[Optional[Tensor]]


class AnyRule:
    """Numbers of any rule, in PyTorch's operations and autograd.

    Args:
        rule: see :func:`sn_mm.functional.normalize_rows`.
        size: S, positions of a row.
        dtype: of the sweeps' factors.
        between: what makes these of the rule's results, and the way back:
            :mod:`sn_mm.kernels.factors`, or functions that do the same.

    Everywhere, ``moments`` (2, N, C) are means and variances of the rows,
    ``brought`` what :meth:`forward` wants to find again in backward (what
    gathers brought, so that no second call communicates).
    """

    def __init__(
        self, rule, size: int, dtype: torch.dtype, between=kernels.factors
    ) -> None:
        self.rule, self.size, self.dtype = rule, size, dtype
        self.between = between

    def hold_statistics(self) -> None:
        """Keep the running statistics that the rule takes, for backward.

        The layer may move them before.
        """
        running = getattr(self.rule, 'running', None)
        if running is not None:
            self.rule = copy.copy(self.rule)
            self.rule.running = tuple(t.clone() for t in running)

    def normalize(
        self, sweeps: ModuleType, x: Tensor, params: Params, relu: bool
    ) -> tuple[Tensor, Tensor | None, Sequence[Tensor], Sequence[Tensor]]:
        """Both sweeps of a forward pass.

        Returns:
            y; x's moments, if they are worth keeping; extras; ``brought``.
        """
        moments = sweeps.moments(x)
        factors, extras, brought = self.forward(moments, params)
        y = sweeps.affine(x, *factors, relu)
        kept = moments if is_worth_keeping(x) else None
        return y, kept, extras, brought

    def differentiate(
        self,
        sweeps: ModuleType,
        dy: Tensor | None,
        x: Tensor,
        moments: Tensor | None,
        params: Params,
        brought: Sequence[Tensor],
        d_extras: Sequence[Tensor | None],
        needs: Sequence[bool],
        relu: bool,
    ) -> tuple[Tensor | None, list[Tensor | None]]:
        """Both sweeps of a backward pass.

        Args:
            dy: None if only extras were used.
            needs: whether x wants a gradient, and each of the params.

        Returns:
            d_x and d_params.
        """
        gate = None
        if dy is not None and moments is None and not relu:
            moments, sums = sweeps.remeasure(dy, x)
        else:
            if moments is None:
                moments = sweeps.moments(x)
            if relu:
                gate = self.factors(moments, params, brought)[1:]
            near = moments[0].to(self.dtype)
            if dy is None:  # but other processes may wait
                sums, dy = torch.zeros_like(moments), torch.zeros_like(x)
            else:
                sums = sweeps.products(dy, x, near, gate)
        (scale, slope, shift), d_params = self.backward(
            moments, sums, params, brought, d_extras, needs[1:]
        )
        if not needs[0]:
            return None, d_params
        near = moments[0].to(self.dtype)
        d_x = sweeps.combine(dy, x, scale, near, slope, shift, gate)
        return d_x, d_params

    def forward(
        self, moments: Tensor, params: Params
    ) -> tuple[Factors, Sequence[Tensor], Sequence[Tensor]]:
        """Factors near, scale and shift (N, C); extras; ``brought``."""
        with recording() as brought:
            results = self._results(moments, params)
        # not moments themselves, whose memory may be used again
        extras = [e.clone() for e in results[3:]]
        return self._of_output(moments, results), extras, brought

    def factors(
        self, moments: Tensor, params: Params, brought: Sequence[Tensor]
    ) -> Factors:
        """The factors of :meth:`forward` again."""
        with replaying(brought):
            return self._of_output(moments, self._results(moments, params))

    def backward(
        self,
        moments: Tensor,
        sums: Tensor,
        params: Params,
        brought: Sequence[Tensor],
        d_extras: Sequence[Tensor | None],
        needs: Sequence[bool],
    ) -> tuple[Factors, list[Tensor | None]]:
        """Factors of the input's gradient, and the params' gradients.

        Args:
            sums: (2, N, C), sum(dy) and sum(dy * (x - near)).
            d_extras: gradients of the extras.
            needs: which params want a gradient.

        Returns:
            scale, slope and shift (N, C) of dx = scale * dy + slope *
            (x - near) + shift; d_params.
        """
        measured = moments.detach().requires_grad_()
        given = [
            p.detach().requires_grad_() if need else _detached(p)
            for p, need in zip(params, needs)
        ]
        with replaying(brought):
            results = self._call(measured, given)
        d_results = self.between.cotangents(
            moments, sums, *results[:3], self.dtype
        )
        wanted = [p for p, need in zip(given, needs) if need]
        d_moments, *found = _vector_jacobian(
            results, (*d_results, *d_extras), [measured, *wanted]
        )
        factors = self.between.of_gradient(
            moments, results[1].detach(), d_moments, self.size, self.dtype
        )
        rest = iter(found)
        return factors, [next(rest) if need else None for need in needs]

    def _results(self, moments: Tensor, params: Params) -> list[Tensor]:
        """What the rule returns; without a graph, if it is as it should."""
        results = self._call(moments.detach(), [_detached(p) for p in params])
        if any(t.requires_grad for t in results):
            raise ValueError(
                f'the rule {self.rule!r} closes over a tensor that requires '
                'a gradient, which would get none: pass it to normalize_rows '
                'behind the rule, and take it as an argument of the rule'
            )
        return results

    def _call(self, moments: Tensor, params: Params) -> list[Tensor]:
        with torch.enable_grad(), _without_autocast(moments):
            m, v = moments.unbind()
            results = self.rule(m, v, self.size, *params)
            return checked_results(self.rule, results, m)

    def _of_output(self, moments: Tensor, results: list[Tensor]) -> Factors:
        return self.between.of_output(moments, *results[:3], self.dtype)


_fused: dict[tuple[type, str], type[AnyRule]] = {}


def register_fused(
    rule: type, implementation: str, numbers: type[AnyRule]
) -> None:
    """Let kernels compute the numbers of a rule of exactly this type.

    Args:
        implementation: name of the sweeps beside which they run.
        numbers: has the methods of :class:`AnyRule`, and
            ``is_usable(device)``, whether the kernels work there.
    """
    _fused[rule, implementation] = numbers


def numbers_of(
    rule,
    sweeps: ModuleType,
    size: int,
    dtype: torch.dtype,
    device: torch.device,
) -> AnyRule:
    """Who computes the rule's numbers beside these sweeps.

    Args:
        rule, size, dtype: as for :class:`AnyRule`.
        device: of the input.
    """
    made = _fused.get((type(rule), sweeps.name))
    if made is None or not made.is_usable(device):
        made = AnyRule
    return made(rule, size, dtype, sweeps.factors)


def checked_results(rule, results, m: Tensor) -> list[Tensor]:
    """A rule's centre, scale and bias as tensors like m, and its extras.

    Raises:
        TypeError: if they are not what a rule must return.
        ValueError: if they do not broadcast to m (N, C), or are on another
            device.
    """
    if not isinstance(results, (tuple, list)) or len(results) < 3:
        raise TypeError(
            f'the rule {rule!r} must return centre, scale and bias (and '
            f'extras), got {results!r}'
        )
    for t in results[3:]:
        if not isinstance(t, Tensor):
            raise TypeError(
                f'the rule {rule!r} returned an extra, behind centre, scale '
                f'and bias, that is a {type(t).__name__}, and no tensor: use '
                'm.new_tensor(value), or leave it out'
            )
    named = zip(('centre', 'scale', 'bias'), results)
    return [*(_like_rows(rule, *pair, m) for pair in named), *results[3:]]


def _like_rows(rule, name: str, t: Tensor | float, m: Tensor) -> Tensor:
    if not isinstance(t, Tensor):
        if not isinstance(t, Real):
            raise TypeError(
                f'the rule {rule!r} returned a {name} that is a '
                f'{type(t).__name__}: return a tensor, or a number (0.0 for '
                'no bias)'
            )
        t = m.new_full((1, 1), t)
    sizes = zip(reversed(t.shape), reversed(m.shape))
    if t.dim() > 2 or any(own not in (1, wanted) for own, wanted in sizes):
        raise ValueError(
            f'the rule {rule!r} returned a {name} of shape '
            f'{tuple(t.shape)}, which does not broadcast to (N, C) = '
            f'{tuple(m.shape)}'
        )
    if t.is_complex() or t.layout is not torch.strided:
        raise TypeError(
            f'the rule {rule!r} returned a {name} of {t.dtype}, {t.layout}: '
            'return dense real numbers'
        )
    if t.device != m.device:
        raise ValueError(
            f'the rule {rule!r} returned a {name} on {t.device}, but the '
            f'input is on {m.device}: move what the rule holds there'
        )
    return cast(t, m.dtype)


def _vector_jacobian(
    results: Sequence[Tensor],
    d_results: Sequence[Tensor | None],
    inputs: Sequence[Tensor],
) -> Sequence[Tensor | None]:
    pairs = [
        (t, cast(d, t.dtype))
        for t, d in zip(results, d_results)
        if d is not None and t.requires_grad
    ]
    if not pairs:
        return [None] * len(inputs)
    outputs, grads = zip(*pairs)
    return torch.autograd.grad(outputs, inputs, grads, allow_unused=True)


def _detached(p: Tensor | None) -> Tensor | None:
    return p.detach() if isinstance(p, Tensor) else p


def _without_autocast(t: Tensor) -> AbstractContextManager:
    """Numbers keep their precision, forward and backward alike."""
    kind = t.device.type
    if _has_autocast(kind):
        return torch.autocast(kind, enabled=False)
    return nullcontext()


def _has_autocast(kind: str) -> bool:
    try:
        return torch.is_autocast_enabled(kind)
    except TypeError:  # before torch 2.4
        if kind == 'cpu':
            return torch.is_autocast_cpu_enabled()
        return torch.is_autocast_enabled()
