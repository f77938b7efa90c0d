# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""The base of all layers: a norm whose mathematics is a rule."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.instancenorm import _InstanceNorm

from sn_mm.functional.running import update_running
from sn_mm.functional.traced import is_recorded
from sn_mm.utils import check_count

from . import state
from .blame import blame_tensor
from .script import called_from_script, prepare_to_script


class RowNorm(_InstanceNorm):
    r"""A normalizer of rows (n, c) of its input (N, C, \*spatial).

    A subclass implements :meth:`normalize`, usually by
    :func:`sn_mm.functional.normalize_rows` and a rule of its own, and says in
    the attributes and methods below what the tools want to know of it. This
    class has the checks, the affine parameters, the running statistics and
    the loading of state dicts.

    Derived from torch's ``_InstanceNorm``: the toolboxes then treat it as a
    norm (weight decay), but never as a batch norm (``norm_eval``, fusion,
    conversion to SyncBN).

    Args:
        num_features: C.
        eps: added to variances, inside the root.
        momentum: PyTorch's, the weight of the new value in the running
            statistics; None averages over all calls.
        affine: learn ``weight`` and ``bias``.
        track_running_stats: keep ``running_mean`` and ``running_var``.
        device, dtype: of parameters and buffers.

    Attributes:
        statistics: names of what is mixed, in the order of the ratios.
        bn_eval: normalizes with running statistics while training too.
        hard_ratios: its ratios are fixed, and one-hot.
        rectifies: gives max(y, 0), in the same sweeps: set by
            :func:`sn_mm.fuse_relu` where a ReLU follows.
        can_rectify: whether :meth:`normalize` heeds that.
        is_synchronized: whether the batch may be that of several processes.
        running_names: where its state dict has the running mean and what it
            keeps of the variance.
        recorder: called with what :meth:`track` is given, instead of moving
            the running statistics (batch average).
        initial: value of each tensor, by name, in a new layer.
        settings: names of attributes that decide what the layer computes
            from its parameters: state dicts carry and check them.

    Raises:
        TypeError, ValueError: if ``num_features`` is no positive int; in
            forward, for an input of another rank, channel count or dtype,
            and for parameters or buffers of another length than C.
    """

    # without annotations, which torch.jit.script would read
    statistics = ()
    bn_eval = False
    hard_ratios = False
    is_synchronized = False
    rectifies = False
    can_rectify = False
    running_names = ('running_mean', 'running_var')
    recorder = None
    initial = {}
    settings = ()
    _ranks = None  # any from 2 on
    __jit_unused_properties__ = [
        'uses_batch_statistics',
        'can_fold',
        'bn_eval',
    ]

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device=None,
        dtype=None,
    ) -> None:
        check_count('num_features', num_features)
        super().__init__(
            num_features,
            eps,
            momentum,
            affine,
            track_running_stats,
            device=device,
            dtype=dtype,
        )

    @called_from_script
    def forward(self, input: Tensor) -> Tensor:
        """Normalize input (N, C, *spatial); same shape, dtype, layout."""
        if isinstance(input, torch.fx.Proxy):
            if input.tracer.root is not self:
                return self._as_node(input)
        self.check_input(input)
        self.check_state()
        if is_recorded():
            return self.normalize(input)
        try:
            return self.normalize(input)
        except Exception as error:
            blame_tensor(self, input, error)
            raise

    def normalize(self, x: Tensor) -> Tensor:
        """The layer's output for an input that was checked."""
        raise NotImplementedError

    def track(self, x: Tensor, batch: Tensor) -> None:
        """Move the running statistics towards a batch's.

        For :meth:`normalize` to call in training, once for each input.

        Args:
            x: the input.
            batch: (2, 1, C), its mean and variance as they are to be
                tracked, without gradient; or (3, 1, C), with the number of
                positions in all processes.
        """
        if batch.shape[0] == 2 and not x.numel():
            return  # not synchronized, so nobody else has data
        if self.recorder is not None:
            self.recorder(batch)
        else:
            self.move_running_(batch)

    def move_running_(self, batch: Tensor) -> None:
        """Move the running statistics; ``batch`` as for :meth:`track`."""
        update_running(
            self.running_mean,
            self.running_var,
            self.num_batches_tracked,
            batch,
            self.momentum,
        )

    @torch.no_grad()
    def set_running_(self, mean: Tensor, var: Tensor) -> None:
        """Take given running statistics, in place.

        Args:
            mean, var: of as many channels as the layer tracks.
        """
        self.running_mean.copy_(mean)
        self.running_var.copy_(var)

    def __prepare_scriptable__(self) -> RowNorm:
        """What torch.jit.script calls before it compiles a model."""
        prepare_to_script(self)
        return self

    def reset_parameters(self) -> None:
        """Parameters and buffers as in a new layer."""
        super().reset_parameters()
        own = {**self._parameters, **self._buffers}
        with torch.no_grad():
            for name, value in self.initial.items():
                if own.get(name) is not None:
                    own[name].fill_(value)

    # -- what it says of itself -------------------------------------------
    @property
    def uses_batch_statistics(self) -> bool:
        """Whether BN's statistics are among those that it normalizes with."""
        return False

    @property
    def can_fold(self) -> bool:
        """Whether it is, in evaluation, what BN is: a map of each channel.

        That map is then BN's of :meth:`as_batch_norm`.
        """
        return False

    def uses_setting(self, name: str) -> bool:
        """Whether the output depends on one of ``settings``."""
        return True

    def ratios(self) -> dict[str, Tensor]:
        """Shares of the statistics in 'mean' and 'var', (K,) or (G, K)."""
        return {}

    def choices(self) -> dict[str, tuple[str, ...]] | None:
        """The statistics that mean and variance use alone, if they do."""
        return None

    def why_not_averaged(self) -> str | None:
        """Why batch average leaves its running statistics alone, or None."""
        if not self.track_running_stats:
            return 'has no running statistics'
        if self.bn_eval:
            return 'bn_eval'
        return None if self.training else 'frozen in evaluation mode'

    # -- beside batch norm --------------------------------------------------
    def as_batch_norm(self) -> dict[str, Tensor]:
        """What BN in its place would hold, as far as the layer has it.

        Returns:
            'weight', 'bias', 'running_mean' and 'running_var', all (C,).
        """
        own = {**self._parameters, **self._buffers}
        return {
            name: own[name]
            for name in state.ONE_FOR_EACH_CHANNEL
            if own.get(name) is not None
        }

    def take_batch_norm_(self, tensors: dict[str, Tensor]) -> None:
        """Copy what BN in its place held.

        Args:
            tensors: some of what :meth:`as_batch_norm` returns. Those that
                have no place here are passed over.
        """
        own = {**self._parameters, **self._buffers}
        for name, value in tensors.items():
            if own.get(name) is not None:
                own[name].data.copy_(value)

    # -- checks -----------------------------------------------------------
    def check_input(self, x: Tensor) -> None:
        """Raise an error that names what is wrong with x, and the fix."""
        ranks = self._ranks
        if x.dim() < 2 or (ranks is not None and x.dim() not in ranks):
            text = (
                '2 or more' if ranks is None else ' or '.join(map(str, ranks))
            )
            raise ValueError(
                f'{type(self).__name__} expects input of rank {text} '
                f'(N, C, ...), got shape {tuple(x.shape)}'
            )
        if x.shape[1] != self.num_features:
            raise ValueError(
                f'{type(self).__name__}(num_features={self.num_features}) '
                f'got input with {x.shape[1]} channels, shape '
                f'{tuple(x.shape)}; build the layer with num_features='
                f'{x.shape[1]}'
            )
        if not x.is_floating_point():
            raise TypeError(
                f'{type(self).__name__} expects a floating-point input, got '
                f'{x.dtype}; convert it with .float()'
            )

    def check_state(self) -> None:
        """Raise an error that names a parameter or buffer of other length.

        Pruning tools leave such layers; no kernel may read past their ends.
        """
        channels = self.num_features
        for tensors, names in (
            (self._parameters, ('weight', 'bias')),
            (self._buffers, self.running_names),
        ):
            for name in names:
                t = tensors.get(name)
                if t is not None and t.numel() != channels:
                    self._refuse_shape(name, t, (channels,))

    def _refuse_shape(self, name: str, t: Tensor, wanted: tuple) -> None:
        raise ValueError(
            f'{name} of this {type(self).__name__} has shape '
            f'{tuple(t.shape)}, but num_features={self.num_features} needs '
            f'{wanted}: change both, or build a new layer'
        )

    def _as_node(self, x: torch.fx.Proxy) -> torch.fx.Proxy:
        """One node of an fx graph, as torch's own norms are.

        Fusion passes (mmengine's ``efficient_conv_bn_eval``, torch's
        ``fuse``) then see a module that is no batch norm.
        """
        name = x.tracer.path_of_module(self)
        return x.tracer.create_proxy('call_module', name, (x,), {})

    # -- state dicts ------------------------------------------------------
    def _save_to_state_dict(self, destination, prefix, keep_vars) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        state.write_settings(self, destination, prefix)

    def _load_from_state_dict(
        self,
        state_dict,
        prefix,
        local_metadata,
        strict,
        missing_keys,
        unexpected_keys,
        error_msgs,
    ) -> None:
        state.check_settings(self, prefix, local_metadata)
        state.flatten_public(self, state_dict, prefix)
        # torch's own loaders refuse running statistics without version
        # metadata, which are plain unexpected keys here, and add a count.
        super(_NormBase, self)._load_from_state_dict(
            state_dict,
            prefix,
            local_metadata,
            strict,
            missing_keys,
            unexpected_keys,
            error_msgs,
        )
