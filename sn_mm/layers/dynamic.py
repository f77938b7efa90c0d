# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Dynamic Normalization layers."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from sn_mm.functional import normalize_rows
from sn_mm.functional.dynamic import (
    DynamicRule,
    binary_gates,
    factors_of,
    pool_by_gates,
)

from .base import RowNorm
from .registration import register_norm
from .sync import Synchronized

# What a layer may have chosen: channels apart, all pooled, or in groups; by
# sample, or over the batch.
_BY_SAMPLE = ('in', 'ln', 'gn')
_BY_BATCH = ('bn', 'bln', 'bgn')
# how far from 0 a gate starts
_START = 1e-8


@register_norm('DN')
class DN(RowNorm):
    r"""Dynamic Normalization over (N, C, \*spatial), of any rank.

    Learns which channels to pool, and whether to pool the batch, by one gate
    for each factor of C and one for the batch: see
    :mod:`sn_mm.functional.dynamic`, which says what is the paper's and what
    is not. It can become IN, LN, BN and GN of any number of groups that is a
    power of two, GN's kin with strided groups, and each of these over the
    batch. N is free, since the batch is pooled whole or not at all. Where
    the batch is pooled, evaluation takes the running moments of the channels,
    and pools them as the gates say.

    State dicts fit those of a BN but for the gates, and layers have BN's
    names, so that weights of a network with BN are a start.

    Args:
        num_features: C, any number; its odd factor has one gate of its own,
            the innermost.
        others: see :class:`.RowNorm`.

    Attributes:
        gates_c: what the gates of the channels are made of, the outermost
            first: open where above 0. Start at 1e-8 or -1e-8, at random.
        gates_n: (1,) of the batch, likewise.
        weight, bias: (C,).
        running_mean, running_var: (C,) buffers: moments of the batch,
            biased, tracked whether the gate is open or not.
        num_batches_tracked: int64 scalar buffer.

    Raises:
        TypeError, ValueError, CheckpointError: see :class:`.RowNorm`.
    """

    _abbr_ = 'bn'
    can_rectify = True
    statistics = _BY_SAMPLE + _BY_BATCH
    ratio_tensors = ('gates_c', 'gates_n')
    settings = ('eps',)

    def __init__(self, num_features: int, *args, **kwargs) -> None:
        super().__init__(num_features, *args, **kwargs)
        like = torch.empty(
            0, device=kwargs.get('device'), dtype=kwargs.get('dtype')
        )
        self.add_parameter('gates_c', len(factors_of(num_features)), like=like)
        self.add_parameter('gates_n', 1, like=like)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """As in a new layer: every gate open or closed at random."""
        super().reset_parameters()
        for name in ('gates_c', 'gates_n'):
            gates = self._parameters.get(name)
            if gates is not None:
                with torch.no_grad():
                    start = torch.rand_like(gates) - 0.5
                    gates.copy_(_START * start.sign())

    def normalize(self, x: Tensor) -> Tensor:
        """The layer's output for an input that was checked."""
        rule = DynamicRule(
            self.eps,
            whole_batch=True,
            running=self.running_moments(),
            process_group=self.resolved_group(),
        )
        result = normalize_rows(
            *(x, rule, binary_gates(self.gates_c), binary_gates(self.gates_n)),
            *(self.weight, self.bias),
            relu=self.rectifies,
        )
        if not isinstance(result, tuple):
            return result
        y, batch = result
        self.track(x, batch)
        return y

    # -- what it says of itself -------------------------------------------
    @property
    def uses_batch_statistics(self) -> bool:
        """In training always: the gate of the batch may open."""
        return True

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the tensors that are not (C,), by name."""
        number = len(factors_of(self.num_features))
        return dict(gates_c=(number,), gates_n=(1,))

    def open_gates(self) -> tuple[tuple[bool, ...], bool]:
        """Which gates of the channels are open, and whether the batch's is."""
        both = torch.cat([self.gates_c.detach(), self.gates_n.detach()])
        *channels, batch = (both > 0).tolist()
        return tuple(channels), batch

    def choices(self) -> dict[str, tuple[str, ...]]:
        """What mean and variance use: one of ``statistics``, the same.

        'gn' stands for every way to pool some of the channels; 'bln' and
        'bgn' are 'ln' and 'gn' over the batch.
        """
        channels, batch = self.open_gates()
        names = _BY_BATCH if batch else _BY_SAMPLE
        kind = 2 if any(channels) else 0
        if channels and all(channels):
            kind = 1
        return dict(mean=(names[kind],), var=(names[kind],))

    def ratios(self) -> dict[str, Tensor]:
        """1 for what the layer has chosen, 0 for the others, (6,)."""
        return self.ratios_of(self.gates_c.detach(), self.gates_n.detach())

    @classmethod
    def ratios_of(cls, gates_c: Tensor, gates_n: Tensor) -> dict[str, Tensor]:
        """:meth:`ratios`, of a layer's gates."""
        is_open = gates_c > 0
        some = is_open.any().long()
        kind = some * (2 - is_open.all().long())
        chosen = kind + len(_BY_SAMPLE) * (gates_n[0] > 0).long()
        ratio = nn.functional.one_hot(chosen, len(cls.statistics))
        return dict.fromkeys(('mean', 'var'), ratio.to(gates_c.dtype))

    @torch.no_grad()
    def set_ratios_(self, ratios: Mapping[str, Tensor]) -> None:
        """Choose the statistic with the largest share of the mean.

        Args:
            ratios: as :meth:`ratios` returns them.

        Raises:
            ValueError: for 'gn' and 'bgn', which leave groups open.
        """
        chosen = self.statistics[int(ratios['mean'].argmax())]
        if chosen in ('gn', 'bgn'):
            raise ValueError(
                f'{chosen!r} does not say which channels to pool: set the '
                'signs of gates_c'
            )
        for gates, is_open in (
            (self.gates_c, chosen in ('ln', 'bln')),
            (self.gates_n, chosen in _BY_BATCH),
        ):
            size = gates.abs().clamp(min=_START)
            gates.copy_(size if is_open else -size)

    def groups(self) -> Tensor:
        """The group of each channel, (C,): channels of one are pooled."""
        channels, _ = self.open_gates()
        groups = torch.zeros(1, dtype=torch.long)
        for size, is_open in zip(factors_of(self.num_features), channels):
            own = 1 if is_open else size
            inner = torch.arange(size) % own
            groups = (groups[:, None] * own + inner).flatten()
        return groups

    def inference_moments(self) -> tuple[Tensor, Tensor] | None:
        """The running moments as the gates pool them, if they take them."""
        channels, batch = self.open_gates()
        if not (batch and self.track_running_stats):
            return None
        gates = self.running_mean.new_tensor(channels, dtype=torch.double)
        moments = pool_by_gates(
            (
                self.running_mean.double()[None],
                self.running_var.double()[None],
            ),
            gates,
            1,
        )
        return tuple(t[0].to(self.running_mean.dtype) for t in moments)

    def native_norm(self) -> nn.Module | None:
        """GroupNorm, where groups of a sample consist of neighbours."""
        channels, batch = self.open_gates()
        if batch or sorted(channels) != list(channels):
            return None
        number = int(self.groups().max()) + 1
        norm = nn.GroupNorm(number, self.num_features, self.eps, self.affine)
        norm.weight, norm.bias = self.weight, self.bias
        return norm


@register_norm('SyncDN')
class SyncDN(Synchronized, DN):
    """:class:`DN` whose batch is that of the processes of a group.

    Arguments: :class:`.Synchronized` and :class:`DN`.
    """
