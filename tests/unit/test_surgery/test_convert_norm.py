# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""convert_norm on single layers, and through models of both toolboxes."""

from __future__ import annotations

import copy

import pytest
import torch
from mmcv.cnn import ConvModule, build_norm_layer
from mmdet.models.layers import FrozenBatchNorm2d
from mmengine.model import MMDistributedDataParallel
from torch import nn
from torch.nn.utils import parametrize

from sn_mm import SN1d, SN2d, SN3d, SyncSN, convert_norm
from sn_mm.anatomy import find_norms
from sn_mm.surgery import convert_norm as module_function
from tests.builders import (
    BN_CFG,
    build,
    faster_rcnn,
    randomize_norms,
    resnet,
    segmentor_config,
    switch_norms,
)
from tests.distributed import run_processes
from tests.utils import assert_close, randomize, run

IMAGES = (2, 8, 5, 4)


class ChannelLayerNorm(nn.Module):
    """Layer norm over channels, as several libraries have it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.eps = 1e-6
        self.normalized_shape = (channels,)

    def forward(self, x):
        mean = x.mean(1, keepdim=True)
        var = (x - mean).square().mean(1, keepdim=True)
        y = (x - mean) * (var + self.eps).rsqrt()
        return y * self.weight[:, None, None] + self.bias[:, None, None]


LayerNorm2d = type('LayerNorm2d', (ChannelLayerNorm,), {})
SOURCES = {
    'BN': nn.BatchNorm2d(8, eps=1e-3, momentum=0.03),
    'cumulative BN': nn.BatchNorm2d(8, momentum=None),
    'untracked BN': nn.BatchNorm2d(8, track_running_stats=False),
    'plain BN': nn.BatchNorm2d(8, affine=False),
    'SyncBN': nn.SyncBatchNorm(8, momentum=0.2),
    'GN': nn.GroupNorm(4, 8, eps=1e-4),
    'IN': nn.InstanceNorm2d(8, affine=True),
    'tracked IN': nn.InstanceNorm2d(8, track_running_stats=True),
    'LN2d': LayerNorm2d(8),
}
# of the family, which have no statistics or other ones
OTHERS = (
    *('AN', 'BGN', 'BHN', 'BRN', 'DN', 'FRN', 'GhostBN'),
    *('IBN', 'IEBN', 'ILM', 'KN', 'PN'),
)
KEPT = ('weight', 'bias', 'running_mean', 'running_var', 'num_batches_tracked')


@pytest.fixture
def log(monkeypatch):
    """What was logged, instead of logging it."""
    texts = []
    module = module_function.__globals__
    monkeypatch.setitem(
        module, 'print_log', lambda text, **kwargs: texts.append(text)
    )
    return texts


def convert(old: nn.Module, *args, **kwargs) -> nn.Module:
    """What becomes of a single layer in a model."""
    return convert_norm(nn.Sequential(old), *args, **kwargs)[0]


def all_settings(cls: type[SN2d], **kwargs) -> SN2d:
    """A layer with nothing at its default."""
    return randomize(
        cls(
            8,
            eps=1e-3,
            momentum=0.003,
            statistics=('bn', 'in', 'gn'),
            unbiased=True,
            num_groups=2,
            ratio_groups=4,
            **kwargs,
        )
    )


# -- single layers -------------------------------------------------------
@pytest.mark.parametrize('target', ['SN', 'SyncSN'])
@pytest.mark.parametrize('name', SOURCES)
def test_state_and_settings_are_kept(name, target):
    old = randomize(copy.deepcopy(SOURCES[name]))
    state = {**dict(old.named_parameters()), **dict(old.named_buffers())}
    new = convert(old, dict(type=target, requires_grad=True))
    assert type(new) is dict(SN=SN2d, SyncSN=SyncSN)[target]
    for key, value in state.items():
        assert getattr(new, key) is value, key
    assert new.eps == old.eps
    assert new.affine == getattr(old, 'affine', True)
    if name in ('BN', 'SyncBN', 'cumulative BN', 'tracked IN'):
        assert new.momentum == old.momentum
        assert new.track_running_stats
    else:
        assert new.momentum == 0.1
        assert new.track_running_stats is (name != 'untracked BN')
    if name == 'GN':
        assert new.num_groups == 4
    assert new(torch.randn(IMAGES)).shape == IMAGES


def test_arguments_go_before_what_the_layer_had():
    cfg = dict(type='SN', eps=0.1, momentum=0.5, statistics=('in', 'ln'))
    new = convert(nn.BatchNorm2d(8), cfg)
    assert (new.eps, new.momentum, new.statistics) == (0.1, 0.5, ('in', 'ln'))
    assert new.running_mean is None


def test_sn_and_sync_sn_are_one_layer():
    plain = all_settings(SN2d).train()
    state = {**dict(plain.named_parameters()), **dict(plain.named_buffers())}
    text, original = plain.extra_repr(), copy.deepcopy(plain)
    sync = convert(plain, dict(type='SyncSN', sync_group='machine'))
    assert type(sync) is SyncSN and sync.sync_group == 'machine'
    assert sync.extra_repr() == text + ", sync_group='machine'"
    back = convert(sync, 'SN')
    assert type(back) is SN2d and back.extra_repr() == text
    for layer in (sync, back):
        assert layer.state_dict().keys() == original.state_dict().keys()
        assert all(getattr(layer, key) is state[key] for key in state)
    x, dy = torch.randn(2, *IMAGES).unbind(0)
    assert_close(run(back, x, dy), run(original, x, dy), 1e-7)
    frozen = convert(SN2d(8, bn_eval=True), 'SyncSN')
    assert frozen.bn_eval


def test_groups_of_sync_sn():
    layer = SyncSN(8, sync_group=2)
    assert convert(layer, 'SyncSN').sync_group == 2
    wider = convert(layer, dict(type='SyncSN', sync_group='machine'))
    assert wider.sync_group == 'machine'
    group = object()
    layer.process_group = group
    assert convert(layer, 'SyncSN').process_group is group
    named = convert(layer, dict(type='SyncSN', sync_group=4))
    assert named.process_group is None and named.sync_group == 4
    given = convert(named, dict(type='SyncSN', process_group=group))
    assert given.process_group is group and given.sync_group is None


def test_ratios_of_other_statistics_start_anew():
    cfg = dict(type='SN', statistics=('bn', 'in', 'ln'))
    new = convert(randomize(SN2d(8)), cfg)
    assert (new.mean_weight == 1).all() and (new.var_weight == 1).all()
    assert (new.weight != 1).any()


@pytest.mark.parametrize('name', ['BN', 'GN', 'IN'])
def test_back_to_native_norms(name):
    layer = randomize(SN2d(8, eps=1e-3, momentum=0.03))
    groups = dict(num_groups=2) if name == 'GN' else {}
    new = convert(layer, dict(type=name, **groups))
    assert type(new) is type(SOURCES[name])
    assert new.weight is layer.weight and new.eps == 1e-3
    if name != 'GN':
        assert new.momentum == 0.03
        assert new.running_var is layer.running_var


@pytest.mark.parametrize(
    'old, new, shape',
    [
        (nn.BatchNorm1d(8), SN1d, (4, 8)),
        (nn.InstanceNorm1d(8), SN1d, (2, 8, 5)),
        (nn.BatchNorm3d(8), SN3d, (2, 8, 2, 3, 4)),
        (SN3d(8), SN3d, (2, 8, 2, 3, 4)),
    ],
    ids=lambda v: type(v).__name__,
)
def test_other_dimensions(old, new, shape):
    layer = convert(old, 'SN')
    assert type(layer) is new
    assert layer(torch.randn(shape)).shape == shape
    native = convert(layer, 'BN')
    assert native(torch.randn(shape)).shape == shape
    for target in ('SyncSN', 'SSN', 'SyncSSN'):
        other = convert(layer, target)
        assert type(other).__name__.startswith(target)
        assert other(torch.randn(shape)).shape == shape


@pytest.mark.parametrize('target', ['SN', 'SyncSN', 'SSN', 'BN', 'IN'])
@pytest.mark.parametrize(
    'before, shape',
    [
        (nn.Linear(3, 8), (4, 3)),
        (nn.Conv1d(3, 8, 3), (2, 3, 9)),
        (nn.Conv2d(3, 8, 3), (2, 3, 6, 5)),
        (nn.Conv3d(3, 8, 3), (2, 3, 6, 5, 4)),
    ],
    ids=lambda v: type(v).__name__,
)
@pytest.mark.parametrize('wrapped', [False, True])
def test_norms_of_any_rank_go_on_to_run(before, shape, target, wrapped):
    """GroupNorm does not say what it is given; its neighbour does."""
    if wrapped:
        before = nn.Sequential(before, nn.ReLU())
    model = nn.Sequential(before, nn.Dropout(), nn.GroupNorm(2, 8))
    want = model(torch.randn(shape)).shape
    convert_norm(model, target)
    # torch's instance norm takes (N, C) for a single (C, L)
    assert isinstance(model[2], nn.GroupNorm) is (
        target == 'IN' and len(shape) == 2
    )
    assert model(torch.randn(shape)).shape == want


@pytest.mark.parametrize('target', ['IN', 'IN1d'])
def test_instance_norms_need_positions(target):
    model = nn.Sequential(
        nn.Conv1d(3, 8, 1),
        nn.BatchNorm1d(8),
        nn.Flatten(),
        nn.Linear(40, 8),
        nn.ReLU(),
        nn.BatchNorm1d(8),
    )
    alone = nn.Sequential(nn.BatchNorm1d(8))
    for m in (model, alone):
        convert_norm(m, target)
    assert type(model[1]) is nn.InstanceNorm1d
    assert type(model[5]) is type(alone[0]) is nn.BatchNorm1d
    assert model(torch.randn(8, 3, 5)).shape == (8, 8)


class Unknown(nn.Module):
    """Gives (N, C, L) of (N, C, H, W), with a parameter."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(8, 1))

    def forward(self, x):
        return x.flatten(2) * self.scale


def test_a_norm_of_unknown_rank_is_left_where_the_new_one_takes_one():
    model = nn.Sequential(Unknown(), nn.GroupNorm(2, 8))
    convert_norm(model, 'BN')
    assert type(model[1]) is nn.GroupNorm
    convert_norm(model, 'SN')
    assert model(torch.randn(IMAGES)).shape == (2, 8, 20)


# -- norms of other libraries ---------------------------------------------
class WithLayout(nn.LayerNorm):
    """Of ConvNeXt: the caller says where the channels are."""

    def forward(self, x, data_format='channel_last'):
        return super().forward(x)


class Activated(ChannelLayerNorm):
    def forward(self, x):
        return super().forward(x).relu()


class ActivatedBN(nn.BatchNorm2d):
    def forward(self, x):
        return super().forward(x).relu()


class Pair(nn.GroupNorm):
    def forward(self, x):
        return super().forward(x), x


class Renamed(nn.GroupNorm):
    """A forward of its own that does what its kind does."""

    def forward(self, x):
        y = nn.functional.group_norm(x, self.num_groups, eps=self.eps)
        shape = 1, -1, *[1] * (x.dim() - 2)
        return y * self.weight.view(shape) + self.bias.view(shape)


class RenamedBN(nn.BatchNorm2d):
    def forward(self, input):
        return super().forward(input)


@pytest.mark.parametrize(
    'old',
    [
        WithLayout(8),
        type('LayerNorm2d', (nn.LayerNorm,), {})(8),
        type('LN2d', (Activated,), {})(8),
        ActivatedBN(8),
        Pair(2, 8),
        nn.LazyBatchNorm2d(),
        nn.LazyInstanceNorm2d(),
    ],
    ids=lambda m: type(m).__name__,
)
def test_what_does_more_or_other_than_normalize_is_left_alone(old, log):
    assert convert(old, 'SN') is old
    assert '1 left alone' in log[-1]


@pytest.mark.parametrize('old', [Renamed(2, 8), RenamedBN(8)])
def test_a_forward_that_equals_its_kind_is_converted(old):
    randomize(old)
    state = copy.deepcopy(old.state_dict())
    new = convert(old, 'SN')
    assert type(new) is SN2d and new.weight is old.weight
    for key, value in old.state_dict().items():  # the probe was a copy
        assert torch.equal(value, state[key])


# -- ratios -----------------------------------------------------------------
@pytest.mark.parametrize('there, back', [('SSN', 'SN'), ('SyncSSN', 'SyncSN')])
def test_sparse_and_back_keeps_ratios(there, back):
    layer = randomize(SN2d(8, ratio_groups=2))
    want = layer.ratios()
    sparse = convert(layer, there)
    assert_close(sparse.ratios(), want, 1e-6)
    assert_close(convert(sparse, back).ratios(), want, 1e-6)
    x = torch.randn(IMAGES)
    assert_close({'y': sparse(x)}, {'y': layer(x)}, 1e-5)


def test_a_choice_of_a_sparse_layer_stays():
    layer = convert(SN2d(8), 'SSN')
    layer.radius.fill_(1)
    for weight in (layer.mean_weight, layer.var_weight):
        weight.data.copy_(torch.tensor([0.1, 0.7, 0.2]))
    layer(torch.randn(IMAGES))
    chosen = dict(mean=('ln',), var=('ln',))
    assert layer.choices() == chosen
    for target in ('SN', 'SyncSSN', 'SyncSN'):
        assert convert(layer, target).choices() == chosen


def test_mode_device_and_dtype():
    new = convert(nn.BatchNorm2d(8).half().eval(), 'SN')
    assert not new.training
    floats = {t.dtype for t in new.state_dict().values()} - {torch.int64}
    assert floats == {torch.float16}
    meta = convert(nn.BatchNorm2d(8, device='meta'), 'SN')
    assert all(t.is_meta for t in meta.state_dict().values())
    # without any tensor of its own: as its model
    bare = nn.Sequential(
        nn.Conv2d(3, 8, 1).double(),
        nn.InstanceNorm2d(8),
    )
    assert convert_norm(bare, 'SN')[1].mean_weight.dtype == torch.float64


@pytest.mark.parametrize('old', [nn.BatchNorm2d(8), SN2d(8)])
def test_frozen_layers_stay_frozen(old):
    old.requires_grad_(False)
    new = convert(old, dict(type='SyncSN', requires_grad=True))
    assert not any(p.requires_grad for p in new.parameters())


@pytest.mark.parametrize('target', ['SN', 'SyncSN', 'SSN'])
@pytest.mark.parametrize('training', [True, False])
def test_a_frozen_batch_norm_goes_on_with_its_running_statistics(
    target, training
):
    old = randomize(nn.BatchNorm2d(8)).requires_grad_(False)
    x = torch.randn(IMAGES)
    want = old.eval()(x)
    mean = old.running_mean.clone()
    new = convert(old, target).train(training)
    assert_close({'y': new(x)}, {'y': want}, 1e-6)
    assert torch.equal(new.running_mean, mean)
    assert new.choices() == dict(mean=('bn',), var=('bn',))


@pytest.mark.parametrize(
    'old, statistics, converted',
    [
        (nn.GroupNorm(1, 8), ('in', 'ln', 'bn'), True),
        (nn.GroupNorm(2, 8), ('in', 'gn'), True),
        (nn.GroupNorm(2, 8), ('in', 'ln'), False),
        (nn.InstanceNorm2d(8, affine=True), ('in', 'ln'), True),
        (nn.BatchNorm2d(8), ('in', 'ln'), False),
    ],
)
def test_other_frozen_norms_keep_what_they_compute(old, statistics, converted):
    model = nn.Sequential(randomize(copy.deepcopy(old)).requires_grad_(False))
    x = torch.randn(IMAGES)
    want = model(x)
    convert_norm(model, dict(type='SN', statistics=statistics))
    assert isinstance(model[0], SN2d) is converted
    if converted:
        assert_close({'y': model(x)}, {'y': want}, 1e-5)


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('target', ['SN', 'SSN', 'EN'])
@pytest.mark.parametrize('old', OTHERS)
def test_norms_of_the_family_become_those_that_mix(old, target):
    new = convert(build_norm_layer(dict(type=old), 32)[1], target)
    assert new.statistics == ('in', 'ln', 'bn')
    assert getattr(new, 'reduction', 16) == 16  # another thing in BHN
    new(torch.randn(2, 32, 4, 4)).sum().backward()


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('training', [True, False])
@pytest.mark.parametrize('old', OTHERS)
def test_a_frozen_norm_of_the_family_goes_on_or_stays(old, training):
    layer = randomize(build_norm_layer(dict(type=old), 32)[1])
    layer.requires_grad_(False)
    want, x = None, torch.randn(2, 32, 4, 4)
    is_bn = not layer.ratios() and layer.inference_moments() is not None
    if is_bn:
        want = layer.eval()(x)
    new = convert(layer, 'SN').train(training)
    if not layer.ratios():
        assert isinstance(new, SN2d) is is_bn
    if is_bn:
        assert_close({'y': new(x)}, {'y': want}, 1e-5)


def test_freezing():
    new = convert(nn.BatchNorm2d(8), dict(type='SN', requires_grad=False))
    assert not any(p.requires_grad for p in new.parameters())
    assert new.choices() == dict(mean=('bn',), var=('bn',))
    new = convert(nn.BatchNorm2d(8), 'SN')
    assert all(p.requires_grad for p in new.parameters())


def test_hooks_and_their_handles():
    calls, model = [], nn.Sequential(nn.BatchNorm2d(8))
    handles = [
        model[0].register_forward_hook(lambda *_: calls.append('forward')),
        model[0].register_forward_pre_hook(
            lambda *_: calls.append('before'), with_kwargs=True
        ),
        model[0].register_full_backward_hook(
            lambda *_: calls.append('backward')
        ),
    ]
    convert_norm(model, 'SN')
    x = torch.randn(IMAGES, requires_grad=True)
    model(x).sum().backward()
    assert calls == ['before', 'forward', 'backward']
    for handle in handles:
        handle.remove()
    model(x).sum().backward()
    assert len(calls) == 3


# -- models --------------------------------------------------------------
def test_shared_layers_and_parameters():
    norm, tied = nn.BatchNorm2d(8), nn.BatchNorm2d(8)
    tied.weight = norm.weight
    model = nn.ModuleDict(
        dict(a=norm, b=nn.Sequential(norm), c=nn.Sequential(tied))
    )
    convert_norm(model, 'SN')
    assert type(model['a']) is SN2d and model['b'][0] is model['a']
    assert model['c'][0] is not model['a']
    assert model['c'][0].weight is model['a'].weight


def test_a_model_that_is_a_norm():
    old = nn.BatchNorm2d(8)
    new = convert_norm(old, 'SN')
    assert type(new) is SN2d and new.weight is old.weight


def test_an_optimizer_of_the_affine_parameters_goes_on():
    model = nn.Sequential(nn.BatchNorm2d(8))
    optimizer = torch.optim.SGD(model.parameters(), 1.0)
    new = convert_norm(model, 'SN')[0]
    new(torch.randn(IMAGES)).square().sum().backward()
    before = new.bias.clone()
    optimizer.step()
    assert not torch.equal(new.bias, before)


def same_state(converted: nn.Module, native: nn.Module) -> nn.Module:
    """``native`` with the state of ``converted``: other names, same order."""
    values = converted.state_dict().values()
    keys = native.state_dict()
    assert len(values) == len(keys)
    native.load_state_dict(dict(zip(keys, values)))
    return native


@pytest.mark.parametrize('scope', ['mmdet', 'mmseg'])
def test_backbone_is_the_one_of_the_config(scope):
    built = resnet(scope, norm_eval=False)
    converted = convert_norm(
        resnet(scope, norm_cfg=BN_CFG, norm_eval=False), dict(type='SN')
    )
    assert len(switch_norms(converted)) == len(switch_norms(built))
    randomize_norms(converted)
    same_state(converted, built)
    x = torch.randn(2, 3, 40, 56)
    for training in (True, False):
        for model in (converted, built):
            model.train(training)
        both = zip(converted(x), built(x))
        assert all(torch.equal(got, want) for got, want in both)


def test_frozen_stages_stay_frozen():
    model = resnet(norm_cfg=BN_CFG, frozen_stages=1, norm_eval=False)
    model.train()
    convert_norm(model, dict(type='SN', requires_grad=True))
    for name, layer in switch_norms(model).items():
        frozen = name.startswith(('bn1', 'layer1.'))
        assert all(p.requires_grad is not frozen for p in layer.parameters())
        assert layer.training is not frozen, name
    model.train()  # reaches into the layers by their names
    assert not model.norm1.training and model.layer2[0].norm1.training


@pytest.mark.parametrize('target', ['SN', 'SyncSN'])
def test_detector_trains(target):
    from mmdet.testing import demo_mm_inputs

    model = convert_norm(faster_rcnn(BN_CFG), target).train()
    assert {n.split('.')[0] for n in switch_norms(model)} == {
        'backbone',
        'neck',
        'roi_head',
    }
    batch = demo_mm_inputs(2, [[3, 64, 64]] * 2, num_classes=3)
    losses = model(**model.data_preprocessor(batch, True), mode='loss')
    model.parse_losses(losses)[0].backward()
    for name, layer in switch_norms(model).items():
        frozen = name.startswith(('backbone.bn1', 'backbone.layer1.'))
        assert (layer.mean_weight.grad is None) is frozen, name


def test_segmentor_keeps_outputs_in_evaluation():
    """One-hot ratios of BN: what the model did before, exactly."""
    model = build('mmseg', segmentor_config(norm_cfg=BN_CFG).model).eval()
    for seed, layer in enumerate(find_norms(model).values()):
        randomize(layer, seed)
    x = torch.randn(1, 3, 64, 64)
    want = model(x)
    convert_norm(model, dict(type='SN', statistics=('bn',)))
    torch.testing.assert_close(model(x), want, rtol=1e-4, atol=1e-5)


def test_conv_module_does_not_go_on_fusing_a_batch_norm():
    module = ConvModule(
        3, 8, 3, norm_cfg=BN_CFG, efficient_conv_bn_eval=True
    ).eval()
    convert_norm(module, 'SN')
    randomize(module.bn)
    x = torch.randn(2, 3, 6, 6)
    want = module.activate(module.bn(module.conv(x)))
    assert torch.equal(module(x), want)


# -- which layers --------------------------------------------------------
def converted_names(model: nn.Module, **rules) -> set[str]:
    return set(switch_norms(convert_norm(model, 'SN', **rules)))


def test_parts_patterns_and_types():
    everything = converted_names(faster_rcnn(BN_CFG))
    backbone = {n for n in everything if n.startswith('backbone.')}
    shortcuts = {n for n in backbone if '.downsample.' in n}
    assert shortcuts and backbone - shortcuts and everything - backbone
    for rules, want in (
        (dict(include='backbone'), backbone),
        (dict(include=['*.downsample.1']), shortcuts),
        (dict(include=nn.BatchNorm2d), everything),
        (dict(exclude='backbone'), everything - backbone),
        (
            dict(include=['backbone', 'neck'], exclude='*.downsample.*'),
            {n for n in everything if n.startswith(('backbone', 'neck'))}
            - shortcuts,
        ),
        (dict(include='backbone.bn1'), {'backbone.bn1'}),
    ):
        assert converted_names(faster_rcnn(BN_CFG), **rules) == want


@pytest.mark.parametrize('argument', ['include', 'exclude'])
@pytest.mark.parametrize('rule', ['bakbone', 'back', nn.GroupNorm])
def test_rules_that_fit_nothing(argument, rule):
    model = nn.ModuleDict(dict(backbone=nn.BatchNorm2d(8)))
    with pytest.raises(ValueError, match=r"fits no norm.*\['backbone'\]"):
        convert_norm(model, 'SN', **{argument: rule})


class Activated(nn.BatchNorm2d):
    """A batch norm that does more."""

    def forward(self, x):
        return super().forward(x).relu()


def test_others_are_left_alone_and_reported(log):
    parametrized = nn.BatchNorm2d(8)
    parametrize.register_parametrization(parametrized, 'weight', nn.Identity())
    others = dict(
        tokens=nn.LayerNorm(8),
        frozen=FrozenBatchNorm2d(8),
        active=Activated(8),
        parametrized=parametrized,
    )
    model = nn.ModuleDict(dict(others, bn=nn.BatchNorm2d(8)))
    convert_norm(model, 'SN')
    assert all(model[name] is others[name] for name in others)
    (text,) = log
    assert '1 x BatchNorm2d -> SN2d; 4 left alone:' in text
    assert 'tokens (LayerNorm), frozen (FrozenBatchNorm2d)' in text


def test_report(log):
    model = faster_rcnn(BN_CFG)
    count = len(find_norms(model))
    convert_norm(model, 'SN')
    convert_norm(nn.Conv2d(3, 3, 1), 'SN')
    done, _, hint = log[0].partition('. ')
    assert done.startswith(f'convert_norm: {count} x BatchNorm2d -> SN2d')
    assert 'config' in hint and 'ConvertNorm' in hint
    assert log[1] == 'convert_norm: no norm layer to convert'


# -- what the user may get wrong -----------------------------------------
@pytest.mark.parametrize(
    'cfg, error, words',
    [
        ('NoNorm', KeyError, "'NoNorm' is not registered"),
        (None, TypeError, 'norm_cfg'),
        (dict(eps=1e-3), TypeError, 'norm_cfg'),
        (dict(type='SN', momentun=0.1), TypeError, 'momentun'),
        (dict(type='SN', ratio_groups=8), ValueError, 'ratio_groups=8'),
        (dict(type='SyncSN', sync_group='x'), ValueError, 'sync_group'),
        ('GN', ValueError, 'num_groups'),
        ('LN', ValueError, 'last axes'),
    ],
)
def test_errors_leave_the_model_as_it_was(cfg, error, words):
    model = nn.Sequential(nn.BatchNorm2d(8), nn.BatchNorm2d(4))
    before = list(model)
    with pytest.raises(error, match=words):
        convert_norm(model, cfg)
    assert all(old is new for old, new in zip(before, model))
    assert [list(m.state_dict()) for m in model] == [list(KEPT)] * 2


# -- what needs a process group ------------------------------------------
def convert_mmcv_sync_bn() -> tuple:
    """mmcv's class asks for a process group when it is built."""
    from mmcv.ops import SyncBatchNorm

    old = SyncBatchNorm(8, momentum=0.3)
    new = convert(old, 'SyncSN')
    return type(new), new.momentum, new.running_var is old.running_var


def convert_wrapped() -> str | None:
    model = MMDistributedDataParallel(nn.Sequential(nn.BatchNorm2d(8)))
    try:
        convert_norm(model, 'SyncSN')
    except ValueError as error:
        return str(error)


def with_process_group(rank: int) -> tuple:
    return convert_mmcv_sync_bn(), convert_wrapped()


def test_mmcv_sync_bn_and_wrapped_models():
    ((converted, message),) = run_processes(with_process_group, 1)
    assert converted == (SyncSN, 0.3, True)
    assert 'MMDistributedDataParallel' in message
