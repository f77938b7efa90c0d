# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""IBN layers: instance and batch normalization side by side."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from sn_mm.distributed.groups import SyncGroup
from sn_mm.functional import normalize_rows
from sn_mm.functional.ibn import InstanceBatchRule
from sn_mm.functional.running import update_running
from sn_mm.utils.errors import CheckpointError

from .arguments import warn_of_momentum
from .base import RowNorm
from .registration import register_norm
from .sync import Synchronized


@register_norm('IBN', 'IBN2d')
class IBN(RowNorm):
    r"""IBN over (N, C, \*spatial), of any rank.

    Instance norm of the first channels, batch norm of the others ("Two at
    Once: Enhancing Learning and Generalization Capacities via IBN-Net", ECCV
    2018). Parameters and buffers are those of the modules ``IN`` and ``BN``,
    as in the released networks; one pass normalizes both.

    Args:
        num_features: C, at least 2.
        eps: added to variances, inside the root.
        momentum: PyTorch's, of the running statistics of ``BN``; None
            averages over all calls.
        affine: learn ``weight`` and ``bias``.
        track_running_stats: keep running statistics for the BN half.
        ratio: share of the channels that get instance norm, int(C ratio) of
            them.
        instance_first: False puts BN on the first int(C (1 - ratio))
            channels and IN on the rest, as in the released DenseNets.
        device, dtype: of parameters and buffers.

    Attributes:
        IN: nn.InstanceNorm2d, without running statistics.
        BN: nn.BatchNorm2d. As of torch's, the running variance is unbiased,
            and ``BN.training`` decides what its half normalizes with: a
            backbone's ``norm_eval=True`` freezes that half alone. Batches
            that are not finite do not count.
        is_placed: it stands where the method has it, as whoever built it
            says. Others say once that they may not.

    Raises:
        ValueError, TypeError: for arguments out of range, or of a wrong
            type; in forward, for input of a wrong rank, channel count or
            dtype.
        CheckpointError: in loading the tensors of another norm.
    """

    _abbr_ = 'bn'
    can_rectify = True
    running_names = ('BN.running_mean', 'BN.running_var')
    settings = ('eps', 'instance_first')
    options = dict(ratio=0.5, instance_first=True)
    is_placed = False

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        ratio: float = 0.5,
        instance_first: bool = True,
        device=None,
        dtype=None,
    ) -> None:
        warn_of_momentum(momentum)
        super().__init__(num_features, eps, momentum, False, False)
        instance = _instance_channels(num_features, ratio, instance_first)
        self.affine = affine
        self.track_running_stats = track_running_stats
        self.ratio = ratio
        self.instance_first = instance_first
        made = dict(eps=eps, affine=affine, device=device, dtype=dtype)
        parts = [
            ('IN', nn.InstanceNorm2d(instance, **made)),
            (
                'BN',
                nn.BatchNorm2d(
                    num_features - instance,
                    momentum=momentum,
                    track_running_stats=track_running_stats,
                    **made,
                ),
            ),
        ]
        for name, part in parts if instance_first else parts[::-1]:
            self.add_module(name, part)
        self._warned = False

    # as SyncIBN's, for a BN half that sync_bn has turned into SyncBN
    forward = Synchronized.forward

    def normalize(self, x: Tensor) -> Tensor:
        """The layer's output for an input that was checked."""
        self._warn_single_position(x)
        instance, batch = self.IN, self.BN
        keeps = batch.running_mean is not None
        running = None
        if keeps and not batch.training:
            running = batch.running_mean.detach(), batch.running_var.detach()
        rule = InstanceBatchRule(
            instance.num_features,
            self.eps,
            instance_first=self.instance_first,
            running=running,
            process_group=self.resolved_group(),
        )
        result = normalize_rows(
            *(x, rule, instance.weight, instance.bias),
            *(batch.weight, batch.bias),
            relu=self.rectifies,
        )
        if running is not None:
            return result
        y, extra = result
        if keeps and batch.training:
            self.track(x, _unbiased(extra, x))
        return y

    def move_running_(self, batch: Tensor) -> None:
        """Move the running statistics of the BN half."""
        own = self.BN
        update_running(
            own.running_mean,
            own.running_var,
            own.num_batches_tracked,
            batch,
            own.momentum,
        )

    @torch.no_grad()
    def set_running_(self, mean: Tensor, var: Tensor) -> None:
        """Take given running statistics of the BN half, in place."""
        self.BN.running_mean.copy_(mean)
        self.BN.running_var.copy_(var)

    def reset_running_stats(self) -> None:
        """Running statistics as in a new layer: mean 0, variance 1."""
        if 'BN' in self._modules:  # not while torch's constructor runs
            self.BN.reset_running_stats()

    def reset_parameters(self) -> None:
        """Parameters and buffers as in a new layer."""
        for part in self.children():
            part.reset_parameters()

    # -- what it says of itself -------------------------------------------
    @property
    def uses_batch_statistics(self) -> bool:
        """Always: half of the channels do."""
        return True

    @property
    def takes_batch(self) -> bool:
        """As BN's own mode says, which ``norm_eval`` sets alone."""
        return self.BN.training

    def why_not_averaged(self) -> str | None:
        """Why batch average leaves its running statistics alone."""
        if self.training and not self.BN.training:
            return 'frozen in evaluation mode'
        return super().why_not_averaged()

    def caveat(self) -> str | None:
        """Of a layer that nobody says was placed as published."""
        if self.is_placed:
            return None
        return (
            'IBN by norm_cfg alone stands at every norm, which is not the '
            'published placement: the first norm of each block of the first '
            "three stages (IBN-a). Use the backbone IBNResNet, variant='a' "
            '(sn_mm.models.ibn_resnet)'
        )

    def take_place_of(
        self,
        old: nn.Module,
        replaced: Mapping[nn.Module, nn.Module],
        is_chosen: bool,
    ) -> None:
        """Places that were chosen are taken for the method's."""
        self.is_placed = is_chosen or getattr(old, 'is_placed', False)

    def as_batch_norm(self) -> dict[str, Tensor]:
        """What BN in its place would hold; 0 and 1 where IN tracks none."""
        own, batch = self.IN, self.BN
        found = {}
        if self.affine:
            found['weight'] = self._join(own.weight, batch.weight)
            found['bias'] = self._join(own.bias, batch.bias)
        if batch.running_mean is not None:
            shape = own.num_features
            mean, var = batch.running_mean, batch.running_var
            found['running_mean'] = self._join(mean.new_zeros(shape), mean)
            found['running_var'] = self._join(var.new_ones(shape), var)
        return found

    @torch.no_grad()
    def take_batch_norm_(self, tensors: dict[str, Tensor]) -> None:
        """Copy what BN in its place held, each half its part."""
        for name, value in tensors.items():
            for part, own in zip(self.children(), self._split(value)):
                place = getattr(part, name, None)
                if place is not None:
                    place.copy_(own)

    def check_state(self) -> None:
        """Raise an error that names a tensor of another length."""
        for name, part in self._modules.items():
            for tensors in (part._parameters, part._buffers):
                for leaf, t in tensors.items():
                    wanted = (part.num_features,)
                    if t is None or leaf == 'num_batches_tracked':
                        continue
                    if t.numel() != wanted[0]:
                        self._refuse_shape(f'{name}.{leaf}', t, wanted)
        total = self.IN.num_features + self.BN.num_features
        if total != self.num_features:
            raise ValueError(
                f'IN and BN of this {type(self).__name__} have {total} '
                f'channels, but num_features={self.num_features}: change '
                'them together, or build a new layer'
            )

    # -- halves ------------------------------------------------------------
    def _join(self, instance: Tensor, batch: Tensor) -> Tensor:
        """(C,) of what both halves have."""
        parts = [instance.detach(), batch.detach()]
        return torch.cat(parts if self.instance_first else parts[::-1])

    def _split(self, t: Tensor) -> list[Tensor]:
        """(C,) as the parts of the children, in their order."""
        return list(
            t.detach().split([p.num_features for p in self.children()])
        )

    def resolved_group(self):
        """The group that ``sync_bn`` gave the BN half, if it did."""
        batch = self.BN
        if isinstance(batch, nn.SyncBatchNorm) and batch.training:
            return SyncGroup(batch.process_group).resolve()
        return None

    def _warn_single_position(self, x: Tensor) -> None:
        if self._warned or math.prod(x.shape[2:]) != 1:
            return
        self._warned = True
        warnings.warn(
            f'{type(self).__name__} on a map of a single position, which has '
            'no instance variance: the channels of IN are constant there, '
            'their bias. Choose another norm for such layers',
            stacklevel=4,
        )

    def _load_from_state_dict(self, state_dict, prefix, *args) -> None:
        if f'{prefix}weight' in state_dict:
            raise CheckpointError(
                f'{prefix}weight is of another norm than IBN, whose tensors '
                f'are {prefix}IN.weight and {prefix}BN.weight. Released '
                'IBN-Nets load as ibn://FILE; to start from another network, '
                "load it as it is and call sn_mm.convert_norm(model, 'IBN', "
                'include=...)'
            )
        super()._load_from_state_dict(state_dict, prefix, *args)


@register_norm('SyncIBN', 'SyncIBN2d')
class SyncIBN(Synchronized, IBN):
    """:class:`IBN` whose BN half spans a process group.

    Arguments, attributes and errors: :class:`.Synchronized` and
    :class:`IBN`. State dicts are interchangeable with IBN's.
    """


def _instance_channels(channels: int, ratio: float, first: bool) -> int:
    """How many channels get instance norm."""
    if not (isinstance(ratio, (int, float)) and 0 < ratio < 1):
        raise ValueError(
            f'ratio must lie between 0 and 1, the share of IN, got {ratio!r};'
            " dict(type='IN') and dict(type='BN') are the ends"
        )
    if first:
        instance = int(channels * ratio)
    else:
        instance = channels - int(channels * (1 - ratio))
    if not 0 < instance < channels:
        raise ValueError(
            f'ratio={ratio} of num_features={channels} channels leaves '
            f'{instance} for IN and {channels - instance} for BN; both need '
            'at least one: choose another ratio, or BN'
        )
    return instance


def _unbiased(batch: Tensor, x: Tensor) -> Tensor:
    """The batch's variance as torch's BN tracks it."""
    mean, var, *count = batch.unbind(0)
    positions = count[0] if count else x.numel() // max(x.shape[1], 1)
    if count:
        factor = positions / (positions - 1).clamp(min=1)
    else:
        factor = positions / max(positions - 1, 1)
    return torch.stack([mean, var * factor, *count])
