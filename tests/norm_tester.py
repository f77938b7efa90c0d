# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""One tester for every normalizer, and the table of them.

A normalizer is a row of :data:`NORMS`: what a config says, and an oracle,
which is what the layer means in plain operations. :class:`NormTester` does
with each row what users and toolboxes do with a norm. What takes long runs
once for each class that computes in its own way, and is marked ``slow`` for
:data:`REPEATS`; what takes longer and is hardly the norm's own affair runs
for :data:`REPRESENTATIVES` alone.
"""

from __future__ import annotations

import copy
import functools
import pickle
import types
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import mmcv.cnn
import mmengine.utils.dl_utils.misc as mmengine_misc
import pytest
import torch
from mmcv.cnn import build_norm_layer, fuse_conv_bn
from mmengine.model import (
    ExponentialMovingAverage,
    MMDistributedDataParallel,
    StochasticWeightAverage,
)
from mmengine.model.efficient_conv_bn_eval import (
    turn_on_efficient_conv_bn_eval_for_single_model,
)
from mmengine.optim import build_optim_wrapper
from mmengine.runner.checkpoint import load_state_dict
from mmengine.utils import digit_version
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.autograd import forward_ad
from torch.func import functional_call
from torch.fx.experimental.optimization import fuse
from torch.optim.swa_utils import AveragedModel
from torch.utils.checkpoint import checkpoint

from sn_mm.functional import reference
from sn_mm.functional.reference import (
    batch_renorm_reference,
    dynamic_norm_reference,
    exemplar_norm_reference,
    hyper_norm_reference,
    instance_batch_norm_reference,
    kalman_norm_reference,
    population_norm_reference,
    switchable_norm_reference,
)
from sn_mm.functional.sparsestmax import sparsestmax
from sn_mm.layers.hyper import LSTM
from tests.builders import Toy, resnet, toy_runner
from tests.distributed import run_processes
from tests.utils import (
    assert_close,
    needs_compile,
    randomize,
    relative_error,
    run,
    usable_backends,
)

CHANNELS = 8
SHAPES = {
    2: (6, CHANNELS),
    3: (3, CHANNELS, 7),
    4: (3, CHANNELS, 5, 4),
    5: (2, CHANNELS, 3, 4, 2),
    6: (2, CHANNELS, 2, 1, 3, 2),
}
ANY_RANK = (4, 2, 3, 5, 6)


class Norm(NamedTuple):
    """A row of the table.

    Attributes:
        name: of the row.
        cfg: as in ``norm_cfg`` of a toolbox's config.
        oracle: ``oracle(layer, x)`` is the output in plain operations over
            the axes that define it, differentiable, for x of rank 3 or more.
        ranks: of inputs, the usual one first.
        start: gives a new layer weights as a training would.
        stops_gradients: whether it holds some numbers constant for the
            gradient: differences of its outputs are not its derivatives.
        steps: parameters that pass through a step, whose gradient is not
            the derivative.
    """

    name: str
    cfg: dict[str, Any]
    oracle: Callable[[nn.Module, Tensor], Tensor]
    ranks: Sequence[int] = ANY_RANK
    start: Callable[[nn.Module], nn.Module] = randomize
    stops_gradients: bool = False
    steps: Sequence[str] = ()

    def build(self, channels: int = CHANNELS) -> nn.Module:
        """A new layer, as the toolboxes build it; the same every time."""
        with seeded():
            return build_norm_layer(self.cfg, channels)[1]

    def layer(self, training: bool = True) -> nn.Module:
        """A layer in the middle of a training."""
        return self.start(self.build()).train(training)

    def input(self, rank: int | None = None, seed: int = 0) -> Tensor:
        """Rows on different levels; of the usual rank, if not told."""
        shape = SHAPES[rank or self.ranks[0]]
        gen = torch.Generator().manual_seed(seed)
        level = torch.randn(*shape[:2], *[1] * (len(shape) - 2), generator=gen)
        return 2 * torch.randn(shape, generator=gen) + level

    def reference(self, layer: nn.Module) -> nn.Module:
        """A copy in float64 that computes with the oracle."""
        layer = copy.deepcopy(layer).double()
        layer.forward = types.MethodType(_forward_of(self.oracle), layer)
        return layer


@contextmanager
def seeded() -> Iterator[None]:
    """Random numbers that are always the same."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def _forward_of(oracle: Callable) -> Callable:
    def forward(self: nn.Module, x: Tensor) -> Tensor:
        if x.dim() > 2:
            return oracle(self, x)
        return oracle(self, x[..., None])[..., 0]

    return forward


# -- oracles -------------------------------------------------------------
def switch_oracle(layer: nn.Module, x: Tensor) -> Tensor:
    """Switchable Normalization with softmax ratios, hard or not."""
    return _switch(layer, x, layer.mean_weight, layer.var_weight)


def sparse_oracle(layer: nn.Module, x: Tensor) -> Tensor:
    """The same with SparsestMax ratios, whose softmax is undone."""
    logits = [
        sparsestmax(weight, float(layer.radius)).clamp(min=1e-300).log()
        for weight in (layer.mean_weight, layer.var_weight)
    ]
    return _switch(layer, x, *logits)


def _switch(layer, x, mean_weight, var_weight) -> Tensor:
    return switchable_norm_reference(
        x,
        mean_weight,
        var_weight,
        *affine_and_running(layer),
        statistics=layer.statistics,
        unbiased=layer.unbiased,
        num_groups=layer.num_groups,
        eps=layer.eps,
    )


def renorm_oracle(layer: nn.Module, x: Tensor) -> Tensor:
    """Batch Renormalization, its limits where a schedule has them."""
    r_max, d_max = map(float, layer.limits())
    return batch_renorm_reference(
        x,
        layer.running_mean,
        layer.running_std,
        layer.weight,
        layer.bias,
        r_max=r_max,
        d_max=d_max,
        evaluates=not layer.training or layer.bn_eval,
        eps=layer.eps,
    )


def dynamic_oracle(layer: nn.Module, x: Tensor) -> Tensor:
    """Dynamic Normalization; gradients pass the gates as they are."""
    gates = [
        (g > 0).to(g) + g - g.detach() for g in (layer.gates_c, layer.gates_n)
    ]
    return dynamic_norm_reference(
        *(x, *gates, *affine_and_running(layer)),
        whole_batch=True,
        eps=layer.eps,
    )


def ibn_oracle(layer: nn.Module, x: Tensor) -> Tensor:
    """Instance and batch normalization, each of its channels."""
    parts = list(layer.children())
    running = (None, None)
    if not layer.BN.training:
        running = (layer.BN.running_mean, layer.BN.running_var)
    return instance_batch_norm_reference(
        x,
        layer.IN.num_features,
        torch.cat([part.weight for part in parts]),
        torch.cat([part.bias for part in parts]),
        *running,
        instance_first=layer.instance_first,
        eps=layer.eps,
    )


def exemplar_oracle(layer: nn.Module, x: Tensor) -> Tensor:
    """Exemplar Normalization."""
    return exemplar_norm_reference(
        *(x, layer.embed_weight, layer.ratio_weight, layer.ratio_bias),
        *affine_and_running(layer),
        statistics=layer.statistics,
        num_groups=layer.num_groups,
        eps=layer.eps,
    )


def kalman_oracle(layer: nn.Module, x: Tensor) -> Tensor:
    """Kalman Normalization of a layer for which nothing is predicted."""
    return kalman_norm_reference(x, *affine_and_running(layer))[0]


def hyper_oracle(layer: nn.Module, x: Tensor) -> Tensor:
    """HyperNormalization of a layer with an LSTM of its own."""
    _, _, *running = affine_and_running(layer)
    lstm = dict(zip(LSTM, layer.lstm()))
    return hyper_norm_reference(x, lstm, *running)[0]


def filter_response_oracle(layer: nn.Module, x: Tensor) -> Tensor:
    """Filter Response Normalization."""
    return reference.filter_response_norm_reference(
        x, layer.weight, layer.bias, layer.tau, eps=layer.eps
    )


def instance_enhancement_oracle(layer: nn.Module, x: Tensor) -> Tensor:
    """Instance Enhancement Batch Normalization."""
    return reference.instance_enhancement_reference(
        *(x, layer.weight_readjust, layer.bias_readjust),
        *affine_and_running(layer),
        eps=layer.eps,
    )


def attentive_oracle(layer: nn.Module, x: Tensor) -> Tensor:
    """Attentive Normalization."""
    return reference.attentive_norm_reference(
        *(x, layer.attention_weight, layer.attention_bias),
        *affine_and_running(layer),
        num_groups=layer.num_groups if layer.norm == 'gn' else None,
        eps=layer.eps,
    )


def instance_level_meta_oracle(layer: nn.Module, x: Tensor) -> Tensor:
    """Instance-Level Meta Normalization."""
    return reference.instance_level_meta_reference(
        *(x, layer.embed_weight, layer.scale_weight, layer.shift_weight),
        *(layer.weight, layer.bias),
        norm=layer.norm,
        num_groups=layer.num_groups,
        key_group_size=layer.key_group_size,
        eps=layer.eps,
    )


def batch_group_oracle(layer: nn.Module, x: Tensor) -> Tensor:
    """Batch Group Normalization."""
    return reference.batch_group_norm_reference(
        *(x, *affine_and_running(layer)),
        num_groups=layer.num_groups,
        eps=layer.eps,
    )


def ghost_oracle(layer: nn.Module, x: Tensor) -> Tensor:
    """Ghost Batch Normalization."""
    return reference.ghost_batch_norm_reference(
        *(x, *affine_and_running(layer)),
        virtual_batch_size=layer.virtual_batch_size,
        eps=layer.eps,
    )


def affine_and_running(layer: nn.Module) -> tuple[Tensor | None, ...]:
    """weight, bias and, where they are in use, the running statistics."""
    running = (None, None)
    if layer.running_mean is not None and not layer.training:
        running = (layer.running_mean, layer.running_var)
    return layer.weight, layer.bias, *running


def population_oracle(layer: nn.Module, x: Tensor) -> Tensor:
    """Population Normalization: the same in both modes."""
    return population_norm_reference(
        *(x, layer.running_mean, layer.running_var),
        *(layer.weight, layer.bias),
        eps=layer.eps,
    )


# -- starts --------------------------------------------------------------
def mild_ratios(layer: nn.Module) -> nn.Module:
    """As :func:`randomize`, without a choice of SparsestMax."""
    randomize(layer)
    with torch.no_grad():
        layer.mean_weight.mul_(0.3)
        layer.var_weight.mul_(0.3)
    layer.radius.fill_(0.2)
    return layer


def in_mid_schedule(layer: nn.Module) -> nn.Module:
    """As :func:`randomize`, some steps on."""
    layer.num_batches_tracked.fill_(4)
    return randomize(layer)


def chosen_ratios(layer: nn.Module) -> nn.Module:
    """Weights of a soft training, loaded into hard ratios."""
    soft = build_norm_layer(dict(type='SN'), CHANNELS)[1]
    layer.load_state_dict(randomize(soft).state_dict())
    return layer


GATES = ('gates_c', 'gates_n')
NORMS = (
    Norm('SN', dict(type='SN'), switch_oracle),
    Norm('SN1d', dict(type='SN1d'), switch_oracle, ranks=(3, 2)),
    Norm('SN3d', dict(type='SN3d'), switch_oracle, ranks=(5,)),
    Norm('SyncSN', dict(type='SyncSN'), switch_oracle),
    Norm('SSN', dict(type='SSN'), sparse_oracle, start=mild_ratios),
    Norm('SyncSSN', dict(type='SyncSSN'), sparse_oracle, start=mild_ratios),
    Norm(
        'hard SN',
        dict(type='SN', hard_ratios=True),
        switch_oracle,
        start=chosen_ratios,
    ),
    Norm('group SN', dict(type='SN', ratio_groups=4), switch_oracle),
    Norm('in, ln', dict(type='SN', statistics=('in', 'ln')), switch_oracle),
    Norm('unbiased', dict(type='SN', unbiased=True), switch_oracle),
    Norm(
        'gn',
        dict(type='SN', statistics=('in', 'gn', 'bn'), num_groups=4),
        switch_oracle,
    ),
    Norm('IBN', dict(type='IBN'), ibn_oracle),
    Norm('SyncIBN', dict(type='SyncIBN', ratio=0.3), ibn_oracle),
    Norm(
        'BN, then IN',
        dict(type='IBN', ratio=0.4, instance_first=False),
        ibn_oracle,
    ),
    Norm('BRN', dict(type='BRN'), renorm_oracle, stops_gradients=True),
    Norm('SyncBRN', dict(type='SyncBRN'), renorm_oracle, stops_gradients=True),
    Norm(
        'BRN by schedule',
        dict(type='BRN', renorm_schedule=dict(start=0, r_end=9, d_end=7)),
        renorm_oracle,
        start=in_mid_schedule,
        stops_gradients=True,
    ),
    Norm('DN', dict(type='DN'), dynamic_oracle, steps=GATES),
    Norm('SyncDN', dict(type='SyncDN'), dynamic_oracle, steps=GATES),
    Norm('PN', dict(type='PN'), population_oracle),
    Norm('EN', dict(type='EN'), exemplar_oracle),
    Norm('SyncEN', dict(type='SyncEN'), exemplar_oracle),
    Norm(
        'EN of in, gn',
        dict(type='EN', statistics=('in', 'gn'), num_groups=4),
        exemplar_oracle,
    ),
    Norm('FRN', dict(type='FRN'), filter_response_oracle),
    Norm('IEBN', dict(type='IEBN'), instance_enhancement_oracle),
    Norm('SyncIEBN', dict(type='SyncIEBN'), instance_enhancement_oracle),
    Norm('AN', dict(type='AN', k=3), attentive_oracle),
    Norm('SyncAN', dict(type='SyncAN'), attentive_oracle),
    Norm(
        'AN of gn', dict(type='AN', norm='gn', num_groups=4), attentive_oracle
    ),
    Norm(
        'ILM',
        dict(type='ILM', num_groups=4, key_group_size=2),
        instance_level_meta_oracle,
    ),
    Norm(
        'ILM of in',
        dict(type='ILM', norm='in', key_group_size=4),
        instance_level_meta_oracle,
    ),
    Norm('BGN', dict(type='BGN', num_groups=4), batch_group_oracle),
    Norm('SyncBGN', dict(type='SyncBGN', num_groups=2), batch_group_oracle),
    Norm('GhostBN', dict(type='GhostBN', virtual_batch_size=2), ghost_oracle),
    Norm('KN', dict(type='KN', p=0.9), kalman_oracle),
    Norm('SyncKN', dict(type='SyncKN'), kalman_oracle),
    Norm('BHN', dict(type='BHN', reduction=2), hyper_oracle),
    Norm('SyncBHN', dict(type='SyncBHN'), hyper_oracle),
)
# rows of classes that other rows have too: synchronized without processes to
# exchange with, of another rank, with another option
REPEATS = (
    *('SN1d', 'SN3d', 'group SN', 'unbiased', 'gn', 'SyncSSN'),
    *('SyncIBN', 'BN, then IN', 'SyncBRN', 'BRN by schedule', 'SyncDN'),
    *('SyncEN', 'EN of in, gn', 'SyncIEBN', 'SyncAN', 'AN of gn'),
    *('ILM of in', 'SyncBGN', 'SyncKN', 'SyncBHN'),
)
# rows that differ in what a toolbox or an exporter gets to see
REPRESENTATIVES = ('SN', 'SyncSN', 'SSN', 'hard SN', 'in, ln', 'IBN', 'BRN')

FLOAT32, FLOAT64 = 2e-4, 1e-9
LAST = {4: torch.channels_last, 5: torch.channels_last_3d}
CONVOLUTIONS = {3: nn.Conv1d, 4: nn.Conv2d, 5: nn.Conv3d}
OLD_EXPORT = digit_version(torch.__version__) < digit_version('2.4')
MODES = pytest.mark.parametrize(
    'training', [True, False], ids=['train', 'eval']
)
HALVES = pytest.mark.parametrize(
    'dtype', [torch.float16, torch.bfloat16], ids=['float16', 'bfloat16']
)
# one that is frozen, and one that is not
TWO_STAGES = dict(
    num_stages=2, strides=(1, 2), dilations=(1, 1), out_indices=(0, 1)
)
once_per_class = pytest.mark.once_per_class


def repeats(norm: Norm) -> bool:
    """Whether another row is of the same class."""
    return norm.name in REPEATS


def efficient_eval(model: nn.Module) -> nn.Module:
    """mmengine's ``efficient_conv_bn_eval`` of a Runner's config."""
    model = copy.deepcopy(model)
    turn_on_efficient_conv_bn_eval_for_single_model(model)
    return model


FUSIONS = {
    'mmcv fuse_conv_bn': lambda m: fuse_conv_bn(copy.deepcopy(m)),
    'torch.fx fuse': fuse,
    'mmengine efficient_conv_bn_eval': efficient_eval,
}


def block(norm: Norm, layer: nn.Module) -> nn.Module:
    """Convolution and norm, as fusion passes look for them."""
    torch.manual_seed(0)
    conv = CONVOLUTIONS[norm.ranks[0]](CHANNELS, CHANNELS, 1)
    return nn.Sequential(conv, layer, nn.ReLU())


def gradient_of(x: Tensor) -> Tensor:
    """What comes back to a layer's output, shaped like it."""
    gen = torch.Generator().manual_seed(9)
    return torch.randn(x.shape, generator=gen).to(x.dtype)


def state_of(layer: nn.Module) -> dict[str, Tensor]:
    return {n: t.clone() for n, t in layer.state_dict().items()}


def assert_same_state(layer: nn.Module, state: dict[str, Tensor]) -> None:
    got = layer.state_dict()
    assert got.keys() == state.keys()
    for name, value in state.items():
        assert torch.equal(got[name], value), name


def tensors_of(layer: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers with at least one axis."""
    own = {**dict(layer.named_parameters()), **dict(layer.named_buffers())}
    return {n: t for n, t in own.items() if t.dim()}


def as_pure(layer: nn.Module) -> tuple[Callable, tuple[Tensor, ...]]:
    """The layer as a function of (x, *parameters), and these."""
    names, params = zip(*layer.named_parameters())
    buffers = dict(layer.named_buffers())

    def function(x, *params):
        own = {n: b.clone() for n, b in buffers.items()}
        return functional_call(layer, {**own, **dict(zip(names, params))}, x)

    return function, tuple(p.detach() for p in params)


def second_derivatives(
    function: Callable, inputs: Sequence[Tensor]
) -> dict[str, Tensor]:
    """Gradients of the squared gradients of a loss."""
    y = function(*inputs)
    grads = torch.autograd.grad(
        (y * gradient_of(y)).sum(), inputs, create_graph=True
    )
    total = sum(g.square().sum() for g in grads)
    second = torch.autograd.grad(total, inputs, allow_unused=True)
    return {
        str(i): torch.zeros_like(t) if d is None else d
        for i, (t, d) in enumerate(zip(inputs, second))
    }


def negated_view(t: Tensor) -> Tensor:
    """The same values, of a tensor with the negative bit."""
    return torch.complex(torch.zeros_like(t), -t).conj().imag


# what happens to tensors: pruned, moved, viewed, shared, of other kinds
HOSTILE = {
    'longer': lambda t: torch.cat([t, t]),
    'shorter': lambda t: t[:-1].clone(),
    'empty': lambda t: t[:0].clone(),
    'on another device': lambda t: t.to('meta'),
    'a negative view': negated_view,
    'strided': lambda t: torch.stack([t, t], -1)[..., 0],
    'expanded': lambda t: t[:1].clone().expand(t.shape),
    'without storage': lambda t: torch._efficientzerotensor(t.shape),
    'float64': lambda t: t.double(),
    'float16': lambda t: t.half(),
    'sparse': lambda t: t.to_sparse(),
    'mkldnn': lambda t: t.to_mkldnn(),
    'of another rank': lambda t: t[None],
}
HOSTILE_INPUTS = {
    'a negative view': negated_view,
    'without storage': lambda t: torch._efficientzerotensor(t.shape),
    'expanded': lambda t: t[:1, :, :1].clone().expand(t.shape),
    'transposed': lambda t: t.transpose(0, -1).contiguous().transpose(0, -1),
    'mkldnn': lambda t: t.to_mkldnn(),
    'sparse': lambda t: t.to_sparse(),
    'on another device': lambda t: t.to('meta'),
    'complex': lambda t: torch.complex(t, t).conj(),
}


def plain(t: Tensor) -> Tensor:
    """The same numbers in memory of their own, nothing special about it."""
    t = t.to_dense() if t.layout is not torch.strided else t
    return t.resolve_neg().clone()


@pytest.mark.filterwarnings('ignore:.*on a map of a single position')
class NormTester:
    """Inherit it in a test file: every test runs for every row.

    Attributes:
        rows: of the table, or a table of one's own.
    """

    rows: Sequence[Norm] = NORMS

    def pytest_generate_tests(self, metafunc) -> None:
        """Rows of ``norm``, and of ``representative``."""
        if 'norm' in metafunc.fixturenames:
            once = metafunc.definition.get_closest_marker('once_per_class')
            rows = [
                pytest.param(
                    row,
                    id=row.name,
                    marks=[pytest.mark.slow] if once and repeats(row) else [],
                )
                for row in self.rows
            ]
            metafunc.parametrize('norm', rows)
        if 'representative' in metafunc.fixturenames:
            rows = [r for r in self.rows if r.name in REPRESENTATIVES]
            metafunc.parametrize(
                'representative', rows, ids=lambda row: row.name
            )

    # -- values ----------------------------------------------------------
    @MODES
    @pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
    def test_is_its_oracle(self, norm, dtype, training):
        for rank in norm.ranks:
            layer, x = norm.layer(training), norm.input(rank)
            dy = gradient_of(x)
            want = run(norm.reference(layer), x.double(), dy.double())
            got = run(layer.to(dtype), x.to(dtype), dy.to(dtype))
            assert got['y'].dtype == dtype
            assert_close(got, want, FLOAT32 if dtype.itemsize < 8 else FLOAT64)

    @once_per_class
    @MODES
    @pytest.mark.parametrize('backend', usable_backends())
    def test_on_every_backend(self, norm, backend, training, monkeypatch):
        monkeypatch.setenv('SN_MM_BACKEND', backend)
        layer, x = norm.layer(training), norm.input()
        dy = gradient_of(x)
        want = run(norm.reference(layer), x.double(), dy.double())
        assert_close(run(layer, x, dy), want, FLOAT32)

    @HALVES
    @MODES
    def test_half_precision(self, norm, dtype, training):
        """Half in, half out; what is between is float32."""
        layer, x = norm.layer(training), norm.input().to(dtype)
        dy = gradient_of(x)
        want = run(norm.reference(layer), x.double(), dy.double())
        for name, value in run(layer, x, dy).items():
            is_half = name in ('y', 'x')
            assert value.dtype == (dtype if is_half else torch.float32), name
            allowed = FLOAT32 + is_half * torch.finfo(dtype).eps
            assert relative_error(value, want[name]) < allowed, name
        assert norm.layer(training).to(dtype)(x).dtype == dtype

    def test_memory_formats_are_kept(self, norm):
        for rank in set(norm.ranks) & set(LAST):
            x = norm.input(rank)
            dy = gradient_of(x)
            reference = norm.reference(norm.layer())
            want = run(reference, x.double(), dy.double())
            for form in (LAST[rank], torch.contiguous_format):
                got = run(norm.layer(), x.contiguous(memory_format=form), dy)
                assert got['y'].is_contiguous(memory_format=form)
                assert got['x'].is_contiguous(memory_format=form)
                assert_close(got, want, FLOAT32)

    @MODES
    def test_empty_input(self, norm, training):
        for axis in (0, -1):
            shape = list(norm.input().shape)
            shape[axis] = 0
            layer = norm.layer(training)
            before = state_of(layer)
            got = run(layer, torch.randn(shape), torch.randn(shape))
            assert got['y'].shape == tuple(shape)
            assert not any(t.any() for t in got.values())
            assert_same_state(layer, before)

    @MODES
    @pytest.mark.parametrize('samples', [1, 2])
    def test_one_position(self, norm, samples, training):
        for rank in norm.ranks:
            x = norm.input(rank)[(slice(samples), slice(None))]
            x = x[(..., *[slice(1)] * (rank - 2))].double()
            layer = norm.layer(training).double()
            want = run(norm.reference(layer), x, gradient_of(x))
            assert_close(run(layer, x, gradient_of(x)), want, FLOAT64)
            got = run(layer.float(), x.float(), gradient_of(x.float()))
            assert all(t.isfinite().all() for t in got.values())

    @MODES
    def test_one_sample(self, norm, training):
        x = norm.input()[:1]
        layer = norm.layer(training)
        want = run(norm.reference(layer), x.double(), gradient_of(x).double())
        assert_close(run(layer, x, gradient_of(x)), want, FLOAT32)

    @pytest.mark.parametrize('reentrant', [True, False])
    def test_recomputed_in_the_backward(self, norm, reentrant):
        """``with_cp``: the forward runs again, after buffers have moved."""
        x = norm.input()
        dy = gradient_of(x)
        want = run(norm.layer(), x, dy)
        layer, leaf = norm.layer(), x.clone().requires_grad_()
        y = checkpoint(layer, leaf, use_reentrant=reentrant)
        y.backward(dy)
        grads = {n: p.grad for n, p in layer.named_parameters()}
        assert_close(dict(y=y.detach(), x=leaf.grad, **grads), want, 1e-6)

    def test_by_keyword_and_in_place_activations(self, norm):
        x = norm.input().requires_grad_()
        y = norm.layer()(input=x)
        torch.relu_(y).sum().backward()
        assert x.grad.shape == x.shape

    def test_bad_input(self, norm):
        layer, x = norm.layer(), norm.input()
        name = type(layer).__name__
        with pytest.raises(ValueError, match=f'{name} expects input of rank'):
            layer(x.flatten())
        with pytest.raises(ValueError, match=f'{name}.*got input with 5 chan'):
            layer(x[:, :5])
        with pytest.raises(TypeError, match=f'{name}.*floating-point'):
            layer(x.long())

    # -- buffers ---------------------------------------------------------
    def test_evaluation_changes_nothing(self, norm):
        layer = norm.layer(training=False)
        before = state_of(layer)
        run(layer, norm.input(), gradient_of(norm.input()))
        assert_same_state(layer, before)

    def test_buffers_are_never_rebound(self, norm):
        """Averages of models keep references to them."""
        layer = norm.layer()
        before = {n: b.data_ptr() for n, b in layer.named_buffers()}
        held = dict(layer.named_buffers())
        for training in (True, False, True):
            layer.train(training)(norm.input()).sum().backward()
            layer.load_state_dict(state_of(layer))
        layer.reset_running_stats()
        for name, buffer in layer.named_buffers():
            assert buffer is held[name], name
            assert buffer.data_ptr() == before[name], name

    @pytest.mark.parametrize('value', [float('inf'), float('nan')])
    @pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
    def test_a_bad_batch_does_not_count(self, norm, dtype, value):
        layer = norm.layer().to(dtype)
        x = norm.input().to(dtype)
        before = {n: b.clone() for n, b in layer.named_buffers()}
        bad = x.clone()
        bad[0, [1, -1]] = value
        layer(bad)
        for name, buffer in layer.named_buffers():
            assert torch.equal(buffer, before[name]), name
        layer(x)
        assert layer.eval()(x).isfinite().all()

    # -- copies and states -----------------------------------------------
    def test_repr_names_the_arguments(self, norm):
        layer = norm.layer()
        text = repr(layer)
        assert text.startswith(type(layer).__name__)
        assert str(CHANNELS) in text
        for name, value in norm.cfg.items():
            assert name == 'type' or f'{name}={value}' in text, name
        assert repr(copy.deepcopy(layer)) == text

    def test_copies(self, norm, tmp_path):
        layer, x = norm.layer(), norm.input()
        torch.save(layer, tmp_path / 'layer.pth')
        others = [
            copy.deepcopy(layer),
            pickle.loads(pickle.dumps(layer)),
            torch.load(tmp_path / 'layer.pth', weights_only=False),
        ]
        before = state_of(layer)
        memory = {t.data_ptr() for t in tensors_of(layer).values()}
        for other in others:
            assert type(other) is type(layer) and other.training
            assert not memory & {
                t.data_ptr() for t in tensors_of(other).values()
            }
            layer.load_state_dict(before)
            assert torch.equal(other(x), layer(x))
            assert_same_state(other, state_of(layer))

    @pytest.mark.parametrize('metadata', [True, False])
    def test_state_there_and_back(self, norm, metadata, tmp_path):
        layer, x = norm.layer(), norm.input()
        layer(x)
        state = layer.state_dict()
        torch.save(state, tmp_path / 'state.pth')
        loaded = torch.load(tmp_path / 'state.pth', weights_only=True)
        if not metadata:
            state, loaded = OrderedDict(state), dict(loaded)
        for load in (
            lambda other: other.load_state_dict(loaded, strict=True),
            lambda other: load_state_dict(other, state, strict=True),
        ):
            other = norm.build()
            load(other)
            assert_same_state(other, dict(state))
            own = copy.deepcopy(layer)
            for mode in (False, True):
                assert torch.equal(other.train(mode)(x), own.train(mode)(x))

    def test_a_missing_tensor_is_named(self, norm):
        state = norm.layer().state_dict()
        name, _ = next(norm.build().named_parameters())
        state.pop(name)
        with pytest.raises(RuntimeError, match=name):
            norm.build().load_state_dict(state)

    def test_made_on_no_device(self, norm):
        """meta-device construction, and what fills such layers."""
        layer, x = norm.layer(), norm.input()
        with torch.device('meta'):
            assigned, emptied = norm.build(), norm.build()
        assert all(t.is_meta for t in emptied.state_dict().values())
        assigned.load_state_dict(layer.state_dict(), assign=True)
        assert not any(t.is_meta for t in assigned.state_dict().values())
        assert torch.equal(assigned.eval()(x), layer.eval()(x))
        emptied.to_empty(device='cpu')
        for t in emptied.state_dict().values():
            t.fill_(7)
        with seeded():
            emptied.reset_parameters()
        assert_same_state(emptied, norm.build().state_dict())

    def test_another_default_device(self, norm):
        layer, x = norm.layer(), norm.input()
        dy = gradient_of(x)
        want = run(copy.deepcopy(layer), x, dy)
        leaf = x.clone().requires_grad_()
        with torch.device('meta'):
            y = layer(leaf)
            y.backward(dy)
        assert torch.equal(y, want['y']) and torch.equal(leaf.grad, want['x'])

    # -- hostile state ---------------------------------------------------
    @once_per_class
    @MODES
    @pytest.mark.parametrize('change', HOSTILE)
    def test_hostile_state(self, norm, change, training):
        """Right, or an error that names the tensor; never a crash."""
        x = norm.input()
        for name in tensors_of(norm.layer()):
            layer = norm.layer(training)
            before = tensors_of(layer)[name].detach()
            after = HOSTILE[change](before)
            value = plain(after)  # before training moves it
            put(layer, name, after)
            try:
                got = layer(x.clone().requires_grad_())
                got.backward(gradient_of(x))
            except Exception as error:
                assert name in str(error), (name, error)
                continue
            assert after.numel() == before.numel(), name
            want = norm.layer(training)
            put(want, name, value.view_as(before).float())
            assert relative_error(got, want(x)) < FLOAT32, name

    @once_per_class
    @MODES
    @pytest.mark.parametrize('change', HOSTILE_INPUTS)
    def test_hostile_input(self, norm, change, training):
        layer, x = norm.layer(training), HOSTILE_INPUTS[change](norm.input())
        before = state_of(layer)
        try:
            got = layer(x)
        except (TypeError, ValueError, RuntimeError) as error:
            assert change in ('sparse', 'on another device', 'complex')
            assert 'input' in str(error)
            assert_same_state(layer, before)
            return
        want = norm.layer(training)(plain(x))
        assert got.layout is x.layout
        assert relative_error(plain(got), want) < FLOAT32

    @pytest.mark.parametrize('change', ['a negative view', 'without storage'])
    def test_hostile_gradient(self, norm, change):
        layer, x = norm.layer(), norm.input()
        dy = HOSTILE_INPUTS[change](gradient_of(x))
        want = run(norm.layer(), x, plain(dy))
        assert_close(run(layer, x, dy), want, FLOAT32)

    def test_attributes_changed_after_construction(self, norm):
        layer = norm.layer()
        layer.num_features = CHANNELS + 1
        with pytest.raises(ValueError, match='num_features'):
            layer(norm.input())

    # -- derivatives and transforms --------------------------------------
    @MODES
    def test_second_derivatives(self, norm, training):
        function, params = as_pure(norm.layer(training).double())
        x = norm.input().double()[:2, ..., :2]
        names = ['x', *(n for n, _ in norm.build().named_parameters())]
        inputs = [
            t.clone().requires_grad_(n not in norm.steps)
            for n, t in zip(names, (x, *params))
        ]
        if norm.stops_gradients:
            reference = as_pure(norm.reference(norm.layer(training)))[0]
            got, want = (
                second_derivatives(f, inputs) for f in (function, reference)
            )
            assert_close(got, want, FLOAT64)
            return
        assert torch.autograd.gradcheck(function, inputs, fast_mode=True)
        assert torch.autograd.gradgradcheck(function, inputs, fast_mode=True)

    def test_torch_func(self, norm):
        layer, x = norm.layer().double(), norm.input().double()
        function, params = as_pure(layer)
        dy = gradient_of(x)
        want = run(norm.reference(layer), x, dy)
        every = tuple(range(1 + len(params)))
        grads = torch.func.grad(
            lambda *inputs: (function(*inputs) * dy).sum(), argnums=every
        )(x, *params)
        names = ['x', *(n for n, _ in layer.named_parameters())]
        assert_close(
            dict(zip(names, grads)), {n: want[n] for n in names}, FLOAT64
        )

    @once_per_class
    def test_vmap_and_jacobians_in_evaluation(self, norm):
        layer = norm.layer(training=False).double()
        reference = norm.reference(layer)
        xs = torch.stack([norm.input(seed=i).double() for i in range(3)])
        got = torch.func.vmap(layer)(xs)
        for y, x in zip(got, xs):
            assert relative_error(y, reference(x)) < FLOAT64
        x, direction = xs[0], xs[1]
        for way in (torch.func.jacrev, torch.func.jacfwd):
            small = x[:1, ..., :1]
            got, want = (way(m)(small) for m in (layer, reference))
            assert relative_error(got, want) < FLOAT64

        for a, b in zip(
            torch.func.jvp(layer, (x,), (direction,)),
            torch.func.jvp(reference, (x,), (direction,)),
        ):
            assert relative_error(a, b) < FLOAT64

    @MODES
    def test_forward_mode(self, norm, training):
        layer = norm.layer(training).double()
        x, direction = (norm.input(seed=i).double() for i in range(2))
        tangents = []
        for module in (norm.reference(layer), layer):
            with forward_ad.dual_level():
                y = module(forward_ad.make_dual(x, direction))
                tangents.append(forward_ad.unpack_dual(y).tangent)
        assert relative_error(*reversed(tangents)) < FLOAT64

    @MODES
    def test_tensors_without_data(self, norm, training):
        x = norm.input()
        y = norm.layer(training).to('meta')(x.to('meta'))
        assert y.is_meta and y.shape == x.shape and y.dtype == x.dtype
        layer = norm.layer(training)
        with FakeTensorMode(allow_non_fake_inputs=True):
            y = layer(torch.randn(x.shape))
        assert type(y) is not Tensor and y.shape == x.shape

    # -- graphs ----------------------------------------------------------
    def test_fx_keeps_it_as_one_node(self, norm):
        graph = torch.fx.symbolic_trace(block(norm, norm.layer())).graph
        nodes = [(n.op, n.target) for n in graph.nodes][1:4]
        assert nodes == [('call_module', name) for name in '012']

    @once_per_class
    @pytest.mark.parametrize('fusion', FUSIONS)
    def test_is_not_fused(self, norm, fusion):
        model = block(norm, norm.layer()).eval()
        fused = FUSIONS[fusion](model)
        assert torch.equal(fused(norm.input()), model(norm.input()))
        kinds = [type(m) for m in fused.modules()]
        assert type(model[1]) in kinds

    @once_per_class
    @needs_compile
    @MODES
    def test_compiles_to_one_graph(self, norm, training):
        torch._dynamo.reset()
        layer, eager = norm.layer(training), norm.layer(training)
        # as inductor splits it into a forward and a backward, uncompiled
        backend = 'aot_eager_decomp_partition'
        fast = torch.compile(layer, backend=backend, fullgraph=True)
        for seed in range(2):  # the second time from the cache
            x = norm.input(seed=seed)
            dy = gradient_of(x)
            got = run(Bound(layer, fast), x, dy)
            assert_close(got, run(eager, x, dy), 2e-5)
        for a, b in zip(layer.buffers(), eager.buffers()):
            torch.testing.assert_close(a, b)

    @once_per_class
    @pytest.mark.filterwarnings('ignore')
    @pytest.mark.skipif(OLD_EXPORT, reason='torch.export needs torch 2.4')
    def test_exports(self, norm):
        layer, x = norm.layer(training=False), norm.input()
        with torch.no_grad():
            program = torch.export.export(layer, (x,))
            assert relative_error(program.module()(x), layer(x)) < 1e-5
        kinds = {str(n.target) for n in program.graph.nodes}
        assert not any('batch_norm' in kind for kind in kinds)

    @once_per_class
    @pytest.mark.filterwarnings('ignore')
    def test_torchscript(self, norm):
        x = norm.input()
        scripted, layer = torch.jit.script(norm.layer()), norm.layer()
        for training in (True, False):
            scripted.train(training), layer.train(training)
            assert torch.equal(scripted(x), layer(x))
        assert_same_state(layer, scripted.state_dict())
        traced = torch.jit.trace(layer, x)
        other = norm.input(seed=1)[:2]
        assert relative_error(traced(other), layer(other)) < 1e-5

    @once_per_class
    @pytest.mark.filterwarnings('ignore')
    def test_onnx_by_tracing(self, norm, tmp_path):
        options = dict(opset_version=17)
        options['dynamic_axes'] = {'x': {0: 'samples', 2: 'extent'}}
        if not OLD_EXPORT:
            options['dynamo'] = False
        self._assert_onnx_agrees(norm, tmp_path / 'a.onnx', options)

    @pytest.mark.filterwarnings('ignore')
    @pytest.mark.skipif(
        digit_version(torch.__version__) < digit_version('2.7'),
        reason='dynamic_shapes came with torch 2.7',
    )
    def test_onnx_by_dynamo(self, representative, tmp_path):
        pytest.importorskip('onnxscript')
        options = dict(opset_version=18, dynamo=True, verbose=False)
        options['dynamic_shapes'] = ({0: 'samples', 2: 'extent'},)
        self._assert_onnx_agrees(representative, tmp_path / 'a.onnx', options)

    def _assert_onnx_agrees(self, norm, file, options) -> None:
        """onnxruntime's numbers, at a size that was not exported."""
        runtime = pytest.importorskip('onnxruntime')
        pytest.importorskip('onnx')
        layer, x = norm.layer(training=False), norm.input()
        # torch writes equal tensors once
        model = nn.Sequential(layer, copy.deepcopy(layer)).eval()
        with torch.no_grad():
            torch.onnx.export(
                model, (x,), str(file), input_names=['x'], **options
            )
        session = runtime.InferenceSession(
            str(file), providers=['CPUExecutionProvider']
        )
        other = torch.cat([norm.input(seed=1)[:2]] * 2, 2)
        for own in (x, other):
            (y,) = session.run(None, dict(x=own.numpy()))
            assert relative_error(torch.from_numpy(y), model(own)) < 1e-4

    # -- training --------------------------------------------------------
    @pytest.mark.parametrize('with_buffers', [False, True])
    @pytest.mark.parametrize('kind', ['ema', 'swa', 'torch'])
    def test_averaged_models(self, norm, kind, with_buffers):
        model = nn.Sequential(norm.layer())
        average = {
            'ema': functools.partial(ExponentialMovingAverage, momentum=0.25),
            'swa': StochasticWeightAverage,
            'torch': lambda m, update_buffers: AveragedModel(
                m, use_buffers=update_buffers
            ),
        }[kind](model, update_buffers=with_buffers)
        optimizer = torch.optim.SGD(model.parameters(), 0.02)
        states = []
        for seed in range(3):
            optimizer.zero_grad()
            model(norm.input(seed=seed)).pow(3).mean().backward()
            optimizer.step()
            average.update_parameters(model)
            states.append(copy.deepcopy(model.state_dict()))
        got = average.module.state_dict()
        for name, _ in model.named_parameters():
            want = average_of([s[name] for s in states], kind)
            torch.testing.assert_close(got[name], want)
        for name in got.keys() & {'0.running_mean', '0.running_var'}:
            values = [s[name] for s in states]
            if with_buffers:
                torch.testing.assert_close(got[name], average_of(values, kind))
            elif kind != 'torch':  # which leaves them where they were
                assert torch.equal(got[name], values[-1])
        layer = average.module[0].eval()
        assert layer(norm.input()).isfinite().all()
        for ratio in layer.ratios().values():
            assert (ratio >= 0).all()
            torch.testing.assert_close(
                ratio.sum(-1), torch.ones(ratio.shape[:-1])
            )

    def test_weight_decay_sees_a_norm(self, norm):
        layer = norm.layer()
        assert mmcv.cnn.is_norm(layer) and mmengine_misc.is_norm(layer)
        model = block(norm, layer)
        wrapper = build_optim_wrapper(
            model,
            dict(
                optimizer=dict(type='SGD', lr=0.1, weight_decay=1e-4),
                paramwise_cfg=dict(norm_decay_mult=0.0, bias_lr_mult=2.0),
            ),
        )
        options = {
            id(p): (group['lr'], group['weight_decay'])
            for group in wrapper.optimizer.param_groups
            for p in group['params']
        }
        for p in layer.parameters():
            assert options[id(p)] == (0.1, 0.0)
        assert options[id(model[0].bias)] == (0.2, 1e-4)

    @pytest.mark.filterwarnings('ignore:hard_ratios=True')
    def test_freezing_in_a_backbone(self, norm):
        """``norm_eval`` leaves it alone, ``frozen_stages`` freezes it."""
        if 4 not in norm.ranks:
            pytest.skip('not a norm of images')
        model = resnet(
            norm_cfg=norm.cfg,
            frozen_stages=1,
            norm_eval=True,
            zero_init_residual=False,
            **TWO_STAGES,
        )
        model.train()
        kind = type(norm.build())
        layers = {n: m for n, m in model.named_modules() if type(m) is kind}
        before = copy.deepcopy(model.state_dict())
        optimizer = torch.optim.SGD(model.parameters(), 0.1, weight_decay=0.1)
        x = torch.randn(2, 3, 40, 56)
        sum(y.square().mean() for y in model(x)).backward()
        optimizer.step()
        for name, layer in layers.items():
            is_frozen = name.startswith((model.norm1_name, 'layer1'))
            assert layer.training is not is_frozen, name
            for key, value in layer.state_dict().items():
                if is_frozen:
                    assert torch.equal(value, before[f'{name}.{key}']), key
            moved = any(
                not torch.equal(p, before[f'{name}.{key}'])
                for key, p in layer.named_parameters()
            )
            assert moved is not is_frozen, name

    def test_resume(self, representative, tmp_path):
        """Two epochs are an epoch, a checkpoint and an epoch."""

        def train(folder, epochs, **options):
            torch.manual_seed(0)
            norm = representative.build(4)
            if getattr(norm, 'hard_ratios', False):
                norm.harden_()
            runner = toy_runner(
                tmp_path / folder, Toy(norm), epochs, **options
            )
            runner.train()
            return runner.model.state_dict()

        want = train('whole', 2)
        train('parts', 1)
        got = train('parts', 2, resume=True)
        assert got.keys() == want.keys()
        for name, value in want.items():
            assert torch.equal(got[name], value), name

    def test_data_parallel(self, norm, two_processes):
        """Over gloo: its own batch, or the whole one where synchronized."""
        got = [process[norm.name] for process in two_processes]
        shares = shares_of(norm)
        reference = norm.reference(norm.layer())
        x, dy = norm.input().double(), gradient_of(norm.input()).double()
        if reference.is_synchronized:
            want = run(reference, x, dy)
        else:
            parts = [run(reference, x[s], dy[s]) for s in shares]
            want = {n: sum(p[n] for p in parts) for n in parts[0] if n != 'y'}
            want['y'] = torch.cat([p['y'] for p in parts])
        assert_close(
            dict(y=torch.cat([g['y'] for g in got])),
            dict(y=want['y']),
            FLOAT64,
        )
        for name, _ in reference.named_parameters():
            first, second = (g[name] for g in got)
            assert torch.equal(first, second), name
            # DDP averages over the two processes
            assert relative_error(2 * first, want[name]) < FLOAT64, name

    @pytest.fixture(scope='class')
    def two_processes(self) -> list[dict]:
        return run_processes(train_in_parallel)


class Bound:
    """A compiled layer, with the parameter names of the layer itself."""

    def __init__(self, layer: nn.Module, call: Callable) -> None:
        self.named_parameters, self.call = layer.named_parameters, call

    def __call__(self, x: Tensor) -> Tensor:
        return self.call(x)


def average_of(values: Sequence[Tensor], kind: str) -> Tensor:
    """What averaging models keep; the first value is copied."""
    mean = values[0]
    for i, value in enumerate(values[1:]):
        step = 0.25 if kind == 'ema' else 1 / (i + 2)
        mean = mean + step * (value - mean)
    return mean


def put(layer: nn.Module, name: str, value: Tensor) -> None:
    """Replace a parameter or buffer, whatever it is."""
    part, _, leaf = name.rpartition('.')
    owner = layer.get_submodule(part)
    if leaf in owner._buffers:
        owner._buffers[leaf] = value
    else:
        owner._parameters[leaf] = nn.Parameter(value)


def shares_of(norm: Norm) -> list[slice]:
    """Which samples of an input each of two processes has: uneven."""
    samples = len(norm.input())
    return [slice(0, samples - 1), slice(samples - 1, samples)]


def train_in_parallel(rank: int) -> dict[str, dict[str, Tensor]]:
    """Two steps of every row in DDP: the first's output and gradients."""
    results = {}
    for norm in NORMS:
        model = MMDistributedDataParallel(
            nn.Sequential(norm.layer()).double(), broadcast_buffers=False
        )
        share = shares_of(norm)[rank]
        x = norm.input().double()
        dy = gradient_of(norm.input()).double()
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            y = model(x[share])
            y.backward(dy[share])
            results[norm.name] = dict(
                y=y.detach(),
                **{
                    n: p.grad.clone()
                    for n, p in model.module[0].named_parameters()
                },
            )
            # raises if the first step left parameters without a gradient
            model(x[share]).backward(dy[share])
    return results
