# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""The base of all layers: a norm whose mathematics is a rule."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.instancenorm import _InstanceNorm

from sn_mm.functional.rows import normalize_rows
from sn_mm.functional.running import update_running
from sn_mm.functional.traced import is_recorded, is_traced
from sn_mm.kernels.layout import accumulation_dtype
from sn_mm.utils import check_count

from . import state
from .blame import blame_tensor, check_matrices
from .script import called_from_script, prepare_to_script
from .signature import signature_of

# Caveats that this program has been told of: one layer speaks for all.
_SPOKEN: set[str] = set()


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
        bn_eval: normalize with the running statistics, and leave them
            alone, while training too.
        device, dtype: of parameters and buffers.

    Attributes:
        norm_type: what a config calls it.
        statistics: names of what is mixed, in the order of the ratios.
        running_names: where its state dict has the running mean, and what
            it keeps of the variance.
        measures: None, or while batch average is at work a function for
            :meth:`track` to call: the training forward normalizes with the
            batch's moments and tracks them, whatever it does else.
        hard_ratios: its ratios are fixed, and one-hot.
        rectifies: gives max(y, 0), in the same sweeps: set by
            :func:`sn_mm.fuse_relu` where a ReLU follows.
        can_rectify: whether :meth:`normalize` heeds that.
        needs_hook: the Runner's hook without which training does not work.
        is_synchronized: whether the batch may be that of several processes.
        initial: value of each tensor, by name, in a new layer.
        ratio_tensors: names in a state dict of what ratios follow from, by
            :meth:`ratios_of`, where that is not SN's ``mean_weight`` and
            ``var_weight``.
        settings: names of attributes that decide what the layer computes
            from its parameters: state dicts carry and check them.
        own_settings: names of arguments that :func:`sn_mm.convert_norm` does
            not take from the old layer.
        options: default of each argument that the layer's text shows where
            it is another.
        public_names: names of tensors in the state dicts of the method's
            public code, and ours: both are loaded.
        relay: of the call that is under way, where a layer takes or leaves
            more than its input and output, see :mod:`.relay`.

    Raises:
        TypeError, ValueError: if ``num_features`` is no positive int, or
            ``bn_eval`` has no running statistics to normalize with; in
            forward, for an input of another rank, channel count or dtype,
            and for parameters or buffers of another shape.
    """

    # without annotations, which torch.jit.script would read
    norm_type = ''
    statistics = ()
    bn_eval = False
    measures = None
    running_names = ('running_mean', 'running_var')
    hard_ratios = False
    needs_hook = None
    is_synchronized = False
    rectifies = False
    can_rectify = False
    initial = {}
    ratio_tensors = ()
    settings = ()
    own_settings = ()
    options = dict(bn_eval=False)
    public_names = {}
    relay = None
    _ranks = None  # any from 2 on
    _has_spoken = False  # of its caveat
    __jit_unused_properties__ = ['uses_batch_statistics', 'takes_batch']

    def __init_subclass__(cls, **kwargs) -> None:
        super().__init_subclass__(**kwargs)
        cls.__signature__ = signature_of(cls)

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        bn_eval: bool = False,
        device=None,
        dtype=None,
    ) -> None:
        check_count('num_features', num_features)
        if bn_eval and not track_running_stats:
            raise ValueError(
                'bn_eval=True normalizes with running statistics, which this '
                f'{type(self).__name__} does not keep: set '
                'track_running_stats=True, or leave bn_eval out'
            )
        super().__init__(
            num_features,
            eps,
            momentum,
            affine,
            track_running_stats,
            device=device,
            dtype=dtype,
        )
        self.bn_eval = bn_eval

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
        check_matrices(self, input)
        if self.training and not self._has_spoken:
            self._speak()
        try:
            return self.normalize(input)
        except Exception as error:
            blame_tensor(self, input, error)
            raise

    def normalize(self, x: Tensor) -> Tensor:
        """The layer's output for an input that was checked."""
        raise NotImplementedError

    def by_rule(self, x: Tensor, rule, *params: Tensor | None) -> Tensor:
        """The output by a rule, whose batch, if it took one, is tracked.

        Args:
            x: the input.
            rule, params: see :func:`sn_mm.functional.normalize_rows`; its
                only extra is :func:`.statistics.batch_extra`'s.
        """
        result = normalize_rows(x, rule, *params, relu=self.rectifies)
        if not isinstance(result, tuple):
            return result
        y, batch = result
        self.track(x, batch)
        return y

    def __prepare_scriptable__(self) -> RowNorm:
        """What torch.jit.script calls before it compiles a model."""
        prepare_to_script(self)
        return self

    def own_tensor(self, name: str) -> Tensor | None:
        """A parameter or buffer, in less time than as an attribute.

        Unless it is an attribute alone: DataParallel's replicas, pruning and
        parametrizations take it out of the module's dictionaries.
        """
        for own in (self._parameters, self._buffers):
            if name in own:
                return own[name]
        return getattr(self, name)

    def add_parameter(self, name: str, *shape: int, like: Tensor) -> None:
        """Register a parameter, for :meth:`reset_parameters` to fill.

        Args:
            like: a tensor of the device and dtype that it is to have.
        """
        empty = torch.empty(shape, device=like.device, dtype=like.dtype)
        self.register_parameter(name, nn.Parameter(empty))

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
    def takes_batch(self) -> bool:
        """Whether training normalizes with moments of its batch."""
        return self.uses_batch_statistics and not self.bn_eval

    def inference_moments(self) -> tuple[Tensor, Tensor] | None:
        """What evaluation normalizes any input with, mean and variance (C,).

        With ``weight``, ``bias`` and ``eps`` it is then a constant map of
        each channel, which can be folded. None where it depends on x.
        """
        return None

    def native_norm(self) -> nn.Module | None:
        """A layer of PyTorch that computes the same in evaluation, if any.

        It shares ``weight`` and ``bias``.
        """
        return None

    def uses_setting(self, name: str) -> bool:
        """Whether the output depends on one of ``settings``."""
        return True

    def ratios(self) -> dict[str, Tensor]:
        """Shares of the statistics in 'mean' and 'var', (K,) or (G, K)."""
        return {}

    @classmethod
    def ratios_of(cls, *tensors: Tensor) -> dict[str, Tensor]:
        """:meth:`ratios`, of the ``ratio_tensors`` of a state dict."""
        raise NotImplementedError

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

    def parameters_in_use(self) -> dict[str, nn.Parameter]:
        """Its parameters by name, or those of the layer that it shares."""
        return dict(self.named_parameters())

    def take_place_of(
        self,
        old: nn.Module,
        replaced: Mapping[nn.Module, nn.Module],
        is_chosen: bool,
    ) -> None:
        """Take over what the model around has made of a layer.

        Args:
            old: the norm in whose place this one is put.
            replaced: new norms by old ones, of the whole model.
            is_chosen: whoever converts has said which places to take.
        """

    def give_up_place(self, replaced: Mapping[nn.Module, nn.Module]) -> None:
        """Leave to layers that stay what they have of this one.

        Args:
            replaced: new norms by old ones, this one's among them.
        """

    def caveat(self) -> str | None:
        """What a layer that was built like this one is not, if anything.

        A training says so once, and so does print_norms.
        """
        return None

    def _speak(self) -> None:
        self._has_spoken = True
        text = self.caveat()
        if text is not None and text not in _SPOKEN:
            _SPOKEN.add(text)
            warnings.warn(text, stacklevel=5)

    def constant_map(self, x: Tensor) -> Tensor:
        """The output of ``inference_moments``: x is not read for moments."""
        return self._batch_norm(x, *self.constant_moments())

    def if_constant_map(self, x: Tensor) -> Tensor | None:
        """:meth:`constant_map` where it may stand for the rule, else None.

        Not where operations are followed one by one, nor in half precision,
        in which the rule is more exact, nor for x and tensors that PyTorch's
        batch norm does not take.
        """
        is_half = x.dtype is not accumulation_dtype(x.dtype)
        if is_half or x.layout is not torch.strided or is_traced(x):
            return None
        *moments, eps = self.constant_moments()
        for t in (*moments, self.weight, self.bias):
            if t is not None and (t.dtype is not x.dtype or t.dim() != 1):
                return None
        return self._batch_norm(x, *moments, eps)

    def constant_moments(self) -> tuple[Tensor, Tensor, float]:
        """``inference_moments`` and the eps that is added to the variance."""
        return *self.inference_moments(), self.eps

    def _batch_norm(
        self, x: Tensor, mean: Tensor, var: Tensor, eps: float
    ) -> Tensor:
        # PyTorch's backward of a single position reads them as contiguous.
        own = [
            None if t is None else t.contiguous()
            for t in (mean, var, self.weight, self.bias)
        ]
        y = nn.functional.batch_norm(x, *own, eps=eps)
        return y.relu_() if self.rectifies else y

    # -- statistics of the batch ------------------------------------------
    def running_moments(self) -> tuple[Tensor, Tensor] | None:
        """Running mean and variance (C,), where the mode takes them.

        None: the batch's moments are to be taken.
        """
        if not self.track_running_stats:
            return None
        if self.training and not self.bn_eval:
            return None
        mean, var = self.running_mean, self.running_var
        if mean.requires_grad or var.requires_grad:
            mean, var = mean.detach(), var.detach()
        return mean, var

    def track(self, x: Tensor, batch: Tensor) -> None:
        """Move the running statistics, in training, towards the batch's.

        Args:
            x: the input.
            batch: what :func:`sn_mm.functional.statistics.batch_extra` made
                of its moments.
        """
        if not (self.training and self.track_running_stats):
            return
        if batch.shape[0] == 2 and not x.numel():
            return  # not synchronized, so nobody else has data
        if self.measures is not None:
            self.measures(batch.detach())
        else:
            self.move_running_(batch)

    def move_running_(self, batch: Tensor) -> None:
        """Move the running statistics; ``batch`` as for :meth:`track`."""
        update_running(
            self.own_tensor('running_mean'),
            self.own_tensor('running_var'),
            self.own_tensor('num_batches_tracked'),
            batch,
            self.momentum,
        )

    @torch.no_grad()
    def set_running_(self, mean: Tensor, var: Tensor) -> None:
        """Take running statistics, in place.

        Args:
            mean, var: of as many channels as the layer tracks, the variance
                as :meth:`track` is given it.
        """
        self.running_mean.copy_(mean)
        self.running_var.copy_(var)

    def resolved_group(self):
        """The process group whose batch counts as one; None: no group."""
        return None

    # -- beside batch norm ------------------------------------------------
    def as_batch_norm(self) -> dict[str, Tensor]:
        """What BN in its place would hold, as far as the layer has it.

        Returns:
            Some of 'weight', 'bias', 'running_mean' and 'running_var', (C,).
        """
        own = {**self._parameters, **self._buffers}
        return {
            name: own[name]
            for name in state.ONE_FOR_EACH_CHANNEL
            if own.get(name) is not None and name not in self.shapes()
        }

    @torch.no_grad()
    def take_batch_norm_(self, tensors: dict[str, Tensor]) -> None:
        """Copy what BN in its place held.

        Args:
            tensors: some of what :meth:`as_batch_norm` returns; what has no
                place here is passed over.
        """
        own = {**self._parameters, **self._buffers}
        for name, value in tensors.items():
            if own.get(name) is not None and name not in self.shapes():
                own[name].copy_(value)

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
        """Raise an error that names a parameter or buffer of other shape.

        Pruning tools leave such layers; no kernel may read past their ends.
        """
        channels = self.num_features
        own_shapes = self.shapes()
        for name, wanted in own_shapes.items():
            t = getattr(self, name)
            if t is not None and tuple(t.shape) != wanted:
                self._refuse_shape(name, t, wanted)
        buffers = self._buffers
        for name in ('weight', 'bias', *self.running_names):
            tracked = name in self.running_names
            t = buffers.get(name) if tracked else self.own_tensor(name)
            if t is not None and t.numel() != channels:
                if name not in own_shapes:
                    self._refuse_shape(name, t, (channels,))

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the tensors that are not (C,), by name."""
        return {}

    def extra_repr(self) -> str:
        """The arguments that make this layer."""
        text = super().extra_repr()
        for name, default in self.options.items():
            value = getattr(self, name)
            if value != default:
                text += f', {name}={value}'
        return text

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
        if self.relay is not None:
            raise RuntimeError(
                f'{type(self).__name__} takes and leaves more than x here, '
                'which an fx graph cannot have: leave this part of the model '
                'out of what is traced (efficient_conv_bn_eval)'
            )
        name = x.tracer.path_of_module(self)
        return x.tracer.create_proxy('call_module', name, (x,), {})

    # -- state dicts ------------------------------------------------------
    def check_loading(
        self, state_dict: dict[str, Tensor], prefix: str, errors: list[str]
    ) -> None:
        """Refuse a state dict of another layer, before anything is loaded.

        Args:
            prefix: of the layer's keys in ``state_dict``.
            errors: texts put here become torch's error about the model.

        Raises:
            CheckpointError: if the layer would compute another function.
        """

    def after_loading(
        self, state_dict: dict[str, Tensor], prefix: str
    ) -> None:
        """Heed what a state dict brought; tensors that fit are loaded."""

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
        self.check_loading(state_dict, prefix, error_msgs)
        state.check_settings(self, prefix, local_metadata)
        state.take_public(self, state_dict, prefix)
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
        self.after_loading(state_dict, prefix)
