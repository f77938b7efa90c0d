# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""HyperNormalization layers, and the LSTMs that several of them share."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from sn_mm.functional import normalize_rows
from sn_mm.functional.hyper import HyperRule
from sn_mm.utils import check_count
from sn_mm.utils.errors import CheckpointError

from .arguments import warn_of_momentum
from .base import RowNorm
from .registration import register_norm
from .sync import Synchronized

# of the LSTM, in the rule's order; in DIANet's state dicts
_PUBLIC = {
    'weight_ih_0': 'w_ih.0.seq.0.weight',
    'bias_ih_0': 'w_ih.0.seq.0.bias',
    'weight_ih_1': 'w_ih.0.seq.2.weight',
    'bias_ih_1': 'w_ih.0.seq.2.bias',
    'weight_hh_0': 'w_hh.0.seq.0.weight',
    'bias_hh_0': 'w_hh.0.seq.0.bias',
    'weight_hh_1': 'w_hh.0.seq.2.weight',
    'bias_hh_1': 'w_hh.0.seq.2.bias',
}
LSTM = tuple(_PUBLIC)


@register_norm('BHN', 'BHN2d')
class BHN(RowNorm):
    r"""HyperNormalization of input (N, C, \*spatial), of any rank.

    Batch norm whose scale and shift are the state of an LSTM, a pair for
    each sample, see :class:`sn_mm.functional.hyper.HyperRule`. The norms of
    a stage, or of another part of a network, share one LSTM and hand its
    state on from one to the next: ``sn_mm.models.bhn`` has backbones that do
    so, and :func:`sn_mm.share_lstm` lets necks and heads. By ``norm_cfg``
    alone each layer has an LSTM of its own, which takes one step from zero.

    Args:
        num_features: C.
        eps: added to the batch's variance, inside the root.
        momentum: PyTorch's: the weight of the new value in the running
            statistics; None averages over all calls.
        track_running_stats: keep running statistics for evaluation;
            without, evaluation uses the batch's.
        reduction: C over the width of the LSTM's bottlenecks, rounded down.
        bn_eval: normalize with the running statistics, and leave them
            alone, while training too.
        device, dtype: of parameters and buffers.

    Attributes:
        weight_ih_0, bias_ih_0, weight_ih_1, bias_ih_1: the bottleneck of the
            LSTM's input, (B, C), (B,), (4 C, B), (4 C,); gates in the order
            i, f, g, o.
        weight_hh_0, bias_hh_0, weight_hh_1, bias_hh_1: that of its state.
            All are None where another layer's are used. To optimizers they
            are a norm's parameters (``norm_decay_mult``).
        weight, bias: None.
        running_mean, running_var: (C,) buffers; the variance without an
            n / (n - 1) correction.
        num_batches_tracked: int64 scalar buffer.
        relay: of the call that is under way, where there is one: given and
            left are the LSTM's state, h and c (N, C), or None.

    Raises:
        ValueError, TypeError: for arguments out of range; in forward, for
            input of a wrong rank, channel count or dtype.
        RuntimeError: in forward, if norms that share an LSTM do not run one
            after the other.
        CheckpointError: in loading weights of a norm that has an affine pair
            of its own.

    Shape:
        Input and output: :math:`(N, C, *)`; N may be 0.
    """

    _abbr_ = 'bn'
    can_rectify = True
    settings = ('eps',)
    options = dict(reduction=4, bn_eval=False)
    public_names = {public: own for own, public in _PUBLIC.items()}
    chain = None

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        track_running_stats: bool = True,
        reduction: int = 4,
        bn_eval: bool = False,
        device=None,
        dtype=None,
    ) -> None:
        warn_of_momentum(momentum)
        check_count('reduction', reduction)
        super().__init__(
            *(num_features, eps, momentum, False, track_running_stats),
            bn_eval=bn_eval,
            device=device,
            dtype=dtype,
        )
        self.reduction = reduction
        self._lead: list[BHN] = []  # in a list, not to be registered twice
        self._followers: list[BHN] = []  # who use its LSTM
        like = torch.empty(0, device=device, dtype=dtype)
        for name, shape in self._lstm_shapes().items():
            self.add_parameter(name, *shape, like=like)
        self._reset_lstm()

    def reset_parameters(self) -> None:
        """As in a new layer; the LSTM's as in new layers of PyTorch."""
        super().reset_parameters()
        self._reset_lstm()

    @torch.no_grad()
    def _reset_lstm(self) -> None:
        for kind in ('ih', 'hh'):
            for number in (0, 1):
                weight = self._parameters.get(f'weight_{kind}_{number}')
                if weight is None:
                    return
                bound = 1 / math.sqrt(weight.shape[1])
                weight.uniform_(-bound, bound)
                own = self._parameters[f'bias_{kind}_{number}']
                own.uniform_(-bound, bound)

    def normalize(self, x: Tensor) -> Tensor:
        """The layer's output for an input that was checked."""
        relay, running = self.relay, self.running_moments()
        rule = HyperRule(
            self.eps, running=running, process_group=self.resolved_group()
        )
        y, h, c, *batch = normalize_rows(
            *(x, rule, *self._given_state(x), *self.lead().lstm()),
            relu=self.rectifies,
        )
        if batch:
            self.track(x, batch[0])
        if relay is not None:
            relay.left = h, c
        elif self.chain is not None:
            self.chain.leave(self, (h, c))
        return y

    def _given_state(self, x: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """h and c that the norm before left; None for zeros."""
        if self.relay is not None:
            return self.relay.given or (None, None)
        if self.chain is not None:
            return self.chain.take(self, len(x)) or (None, None)
        if self._lead:
            raise RuntimeError(
                'this BHN continues the LSTM of the norms before it in its '
                'stage, and was called on its own: call the stage or the '
                'backbone that it is part of'
            )
        return None, None

    # -- the LSTM ---------------------------------------------------------
    def lead(self) -> BHN:
        """The layer whose LSTM is used."""
        return self._lead[0] if self._lead else self

    def lstm(self) -> tuple[Tensor, ...]:
        """The LSTM's parameters, in the order of the rule's."""
        return tuple(self.own_tensor(name) for name in LSTM)

    def follow_(self, lead: BHN) -> None:
        """Use the LSTM of another layer, and give up the own one.

        Args:
            lead: of the same width and reduction. It alone has the LSTM's
                parameters, in state dicts too: whatever moves them, an
                optimizer or an average, meets them once.

        Raises:
            ValueError: if its LSTM does not fit.
        """
        lead = lead.lead()
        for name in ('num_features', 'reduction'):
            own, other = getattr(self, name), getattr(lead, name)
            if own != other:
                raise ValueError(
                    f'norms that share an LSTM need the same {name}, got '
                    f'{own} and {other}'
                )
        if lead is self:
            return
        for norm in (self, *self._followers):
            norm._lead = [lead]
            if not any(norm is known for known in lead._followers):
                lead._followers.append(norm)
        self._followers = []
        for name in LSTM:
            self._parameters[name] = None

    def _lstm_shapes(self) -> dict[str, tuple[int, ...]]:
        width = self.num_features
        inner = max(width // self.reduction, 1)
        shapes = ((inner, width), (inner,), (4 * width, inner), (4 * width,))
        return dict(zip(LSTM, 2 * shapes))

    # -- what it says of itself -------------------------------------------
    @property
    def uses_batch_statistics(self) -> bool:
        """Yes."""
        return True

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the tensors that are not (C,), by name."""
        return self._lstm_shapes()

    def parameters_in_use(self) -> dict[str, nn.Parameter]:
        """Those of the LSTM, another layer's or its own."""
        return dict(self.lead().named_parameters())

    def take_place_of(
        self,
        old: nn.Module,
        replaced: Mapping[nn.Module, nn.Module],
        is_chosen: bool,
    ) -> None:
        """Share an LSTM with those whom the layer before shared it with."""
        if not isinstance(old, BHN):
            return
        lead = replaced.get(old.lead(), old.lead())
        if isinstance(lead, BHN):
            self.follow_(lead)
        if old.chain is not None:
            old.chain.replace(old, self)

    def give_up_place(self, replaced: Mapping[nn.Module, nn.Module]) -> None:
        """The next layer has the LSTM then, and the chain goes on."""
        if self.chain is not None:
            self.chain.remove(self)
        for lead in self._lead:
            lead._followers = [
                replaced[norm] if norm is self else norm
                for norm in lead._followers
            ]
        heirs = [replaced[self]]
        heirs += [replaced.get(norm, norm) for norm in self._followers]
        heirs = [norm for norm in heirs if isinstance(norm, BHN)]
        if self._lead or not heirs:
            return
        first, *others = heirs
        if first is not replaced[self]:
            first._lead = []
            for name in LSTM:
                first._parameters[name] = self._parameters[name]
        for norm in others:
            norm.follow_(first)

    def _load_from_state_dict(self, state_dict, prefix, *args) -> None:
        if prefix + 'weight' in state_dict:
            raise CheckpointError(
                f'{prefix}weight is of another norm than BHN, whose scale and '
                'shift come from an LSTM: no weights of BN start it. Use '
                'weights that were trained with BHN, or train from scratch '
                '(init_cfg=None)'
            )
        super()._load_from_state_dict(state_dict, prefix, *args)


class Chain:
    """Norms that run one after the other and hand on an LSTM's state.

    For parts of a network whose code is a toolbox's own: the state waits
    here between two calls.

    Args:
        norms: by name, in the order in which they run.
    """

    def __init__(self, norms: Mapping[str, BHN]) -> None:
        self.names = list(norms)
        self.norms = list(norms.values())
        self._last, self._state = None, None
        for norm in self.norms:
            norm.follow_(self.norms[0])
            norm.chain = self

    def take(self, norm: BHN, samples: int) -> tuple[Tensor, Tensor] | None:
        """What the norm before has left; None for the first one.

        Raises:
            RuntimeError: if another norm ran before, or with another batch.
        """
        place = self._place(norm)
        state, last = self._state, self._last
        self._state = self._last = None
        if place == 0:
            return None
        if last != place - 1 or len(state[0]) != samples:
            self._refuse(place, last, state, samples)
        return state

    def leave(self, norm: BHN, state: tuple[Tensor, Tensor]) -> None:
        """Keep a state for the next norm, if there is one."""
        place = self._place(norm)
        if place < len(self.norms) - 1:
            self._last, self._state = place, state

    def replace(self, old: BHN, new: BHN) -> None:
        """Another layer in the place of one."""
        self.norms[self._place(old)] = new
        new.chain = self

    def remove(self, old: BHN) -> None:
        """Go on without a layer; others are never told of it."""
        for place, norm in enumerate(self.norms):
            if norm is old:
                del self.norms[place], self.names[place]
                return

    def _place(self, norm: BHN) -> int:
        return next(i for i, n in enumerate(self.norms) if n is norm)

    def _refuse(self, place, last, state, samples) -> None:
        name = self.names[place]
        if last is None:
            what = 'without the one before it'
        elif last != place - 1:
            what = f'right after {self.names[last]}'
        else:
            what = (
                f'on {samples} samples, the one before it on {len(state[0])}'
            )
        raise RuntimeError(
            f'{name} ran {what}. Norms that share an LSTM run one after the '
            f'other, {" -> ".join(self.names)}, on the same samples; '
            'activation checkpoints have to enclose all of them. Leave these '
            'layers out of share_lstm (exclude=...): each has an LSTM of its '
            'own then'
        )

    def __getstate__(self) -> dict:
        """Copies do not continue what is under way here."""
        return dict(self.__dict__, _last=None, _state=None)


def share_among(norms: Sequence[BHN]) -> None:
    """Let norms use the LSTM of the first, their caller relaying its state."""
    for norm in norms[1:]:
        norm.follow_(norms[0])


@register_norm('SyncBHN')
class SyncBHN(Synchronized, BHN):
    """:class:`BHN` whose batch is that of the processes of a group.

    State dicts are interchangeable with BHN's.

    Arguments, attributes and errors: :class:`Synchronized` and :class:`BHN`.
    """
