# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Folded models compute what the hardened ones computed."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from mmcv.cnn import ConvModule, build_norm_layer
from torch import nn

from sn_mm import SSN, SN1d, SN2d, SN3d, SyncSN, fold, harden
from sn_mm.anatomy.example import run_example
from sn_mm.layers import EN, PN
from sn_mm.layers.hard import RATIO_PARAMETERS
from sn_mm.surgery import fold_with_report
from sn_mm.surgery.channel_affine import ChannelAffine
from tests.builders import (
    build,
    faster_rcnn,
    flatten,
    randomize_norms,
    resnet,
    retinanet_config,
    segmentor_config,
    switch_norms,
)
from tests.utils import randomize, relative_error

TOLERANCE = 1e-5
NAMES = ('in', 'ln', 'bn')


def choose(layer: nn.Module, mean: str, var: str) -> nn.Module:
    """Let the largest ratios be those of two statistics."""
    with torch.no_grad():
        for ratio, name in zip(RATIO_PARAMETERS, (mean, var)):
            weight = getattr(layer, ratio)
            weight.zero_()
            weight[..., layer.statistics.index(name)] = 1
    return layer


def hardened(model: nn.Module, pairs=None) -> nn.Module:
    """All pairs of statistics in turn, other numbers at random."""
    randomize_norms(model)
    if pairs is None:
        pairs = itertools.product(NAMES, NAMES)
    for layer, pair in zip(
        switch_norms(model).values(), itertools.cycle(pairs)
    ):
        choose(layer, *pair)
    harden(model).eval()
    return model


def assert_same_outputs(got, want) -> None:
    got, want = list(flatten(got)), list(flatten(want))
    assert len(got) == len(want) > 0
    for one, other in zip(got, want):
        assert torch.isfinite(other).all()
        assert relative_error(one, other) < TOLERANCE


def folded_pair(model: nn.Module):
    """The folded model, its report, and the model as it was."""
    before = copy.deepcopy(model)
    new, report = fold_with_report(model)
    return new, report, before


def actions(report) -> dict[str, str]:
    return {layer.name: layer.action for layer in report.layers}


# -- models --------------------------------------------------------------
MODELS = {
    'mmdet ResNet': lambda: resnet(),
    'mmseg ResNet': lambda: resnet('mmseg'),
    'Bottleneck': lambda: resnet(depth=50),
    'SyncSN': lambda: resnet(norm_cfg=dict(type='SyncSN')),
    'SSN': lambda: resnet(norm_cfg=dict(type='SSN')),
}


@pytest.mark.parametrize('name', MODELS)
def test_backbones(name):
    model, report, before = folded_pair(hardened(MODELS[name]()))
    for size in ((64, 64), (70, 50)):
        x = torch.randn(2, 3, *size)
        assert_same_outputs(model(x), before(x))
    kinds = {a.split()[0] for a in actions(report).values()}
    assert kinds == {'into', 'native', 'SN'}


def test_everything_on_bn_leaves_convolutions_alone():
    model, report, before = folded_pair(
        hardened(resnet(depth=50), [('bn', 'bn')])
    )
    x = torch.randn(2, 3, 64, 64)
    assert_same_outputs(model(x), before(x))
    assert all(a.startswith('into') for a in actions(report).values())
    assert not any(isinstance(m, SN2d) for m in model.modules())
    # each layer had 6 C numbers of parameters and statistics with ratios
    # and a count; a bias of C is left
    for row, layer in zip(report.layers, switch_norms(before).values()):
        assert row.numbers == 3 * layer.num_features + 6 + 1
        assert row.elements > 0


def test_two_stage_detector_with_its_heads():
    model, report, before = folded_pair(hardened(faster_rcnn()))
    components = {r.component for r in report.layers if r.numbers}
    assert components == {'backbone', 'neck', 'box_head'}
    x = torch.randn(1, 3, 96, 128)
    features = before.extract_feat(x)
    assert_same_outputs(model.extract_feat(x), features)
    assert_same_outputs(model.rpn_head(features), before.rpn_head(features))
    rois = torch.randn(5, 16, 7, 7)
    heads = (model.roi_head.bbox_head, before.roi_head.bbox_head)
    assert_same_outputs(heads[0](rois), heads[1](rois))
    # the same detections, in the same order
    assert_same_outputs(run_example(model), run_example(before))


def test_head_that_serves_all_levels():
    model, report, before = folded_pair(
        hardened(build('mmdet', retinanet_config().model))
    )
    x = torch.randn(1, 3, 128, 128)
    assert_same_outputs(model(x, mode='tensor'), before(x, mode='tensor'))
    # levels down to single positions: nothing there that fails
    x = torch.randn(1, 3, 64, 64)
    assert_same_outputs(model(x, mode='tensor'), before(x, mode='tensor'))


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('name', ['pspnet', 'deeplabv3'])
def test_segmentors(name):
    model = build('mmseg', segmentor_config(name).model)
    model, report, before = folded_pair(hardened(model))
    assert {r.component for r in report.layers} == {
        'backbone',
        'decode_head',
        'auxiliary_head',
    }
    x = torch.randn(1, 3, 96, 64)
    assert_same_outputs(model(x, mode='tensor'), before(x, mode='tensor'))
    features = before.extract_feat(x)
    assert_same_outputs(
        model.auxiliary_head(features), before.auxiliary_head(features)
    )


# -- layers --------------------------------------------------------------
@pytest.mark.parametrize(
    'pair, unbiased, kind',
    [
        (('in', 'in'), False, nn.InstanceNorm2d),
        (('ln', 'ln'), False, nn.GroupNorm),
        (('gn', 'gn'), False, nn.GroupNorm),
        (('bn', 'bn'), False, nn.Identity),
        (('bn', 'bn'), True, nn.Identity),
        (('in', 'in'), True, SN2d),
        (('ln', 'ln'), True, SN2d),
        (('in', 'gn'), False, SN2d),
        (('bn', 'ln'), True, SN2d),
    ],
)
def test_native_layers_only_where_exact(pair, unbiased, kind):
    statistics = ('gn', 'in', 'ln', 'bn')
    norm = SN2d(8, 1e-3, statistics=statistics, num_groups=2)
    norm.unbiased = unbiased
    choose(randomize(norm), *pair)
    model = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), norm).eval()
    model, report, before = folded_pair(harden(model))
    assert type(model[1]) is kind
    if kind is SN2d:
        assert set(model[1].statistics) == set(pair)
        assert (model[1].running_mean is None) is ('bn' not in pair)
    assert report.layers[0].numbers > 0
    x = torch.randn(2, 3, 9, 8)
    assert_same_outputs(model(x), before(x))


@pytest.mark.parametrize(
    'source, norm, shape',
    [
        (nn.Conv1d(3, 8, 3), SN1d, (2, 3, 9)),
        (nn.Conv3d(3, 8, 2, padding=1), SN3d, (2, 3, 4, 5, 6)),
        (nn.Conv2d(4, 8, 3, groups=2, dilation=2), SN2d, (2, 4, 9, 9)),
        (nn.ConvTranspose2d(4, 8, 3, 2), SN2d, (2, 4, 5, 5)),
        (
            nn.ConvTranspose2d(4, 8, 3, 2, groups=2, bias=False),
            SN2d,
            (2, 4, 5, 5),
        ),
        (nn.Conv2d(3, 8, 3, padding=1, padding_mode='reflect'), SN2d, None),
    ],
    ids=lambda v: type(v).__name__ if isinstance(v, nn.Module) else '',
)
def test_kinds_of_convolutions(source, norm, shape, monkeypatch):
    layer = choose(randomize(norm(8)), 'bn', 'bn')
    model = harden(nn.Sequential(source, layer)).eval()
    x = torch.randn(shape or (2, 3, 9, 9))
    if x.dim() != 4:  # the example is an image
        monkeypatch.setattr(
            'sn_mm.anatomy.trace.run_example', lambda m, size: m(x)
        )
    model, report, before = folded_pair(model)
    assert report.layers[0].action == 'into 0'
    assert_same_outputs(model(x), before(x))
    assert model[0].bias.requires_grad and not model[0].bias.is_inference()


class Twice(nn.Module):
    """The convolution's output goes elsewhere too, or norms share it."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.conv = nn.Conv2d(3, 8, 3)
        self.norm = SN2d(8)
        self.other = SN2d(8)

    def forward(self, x):
        y = self.conv(x)
        if self.kind == 'in place':
            y += 1
        z = self.norm(y)
        if self.kind == 'skip':
            return z + y
        if self.kind == 'output':
            return z, y
        if self.kind == 'two norms':
            return z + self.other(y)
        if self.kind == 'two calls':
            return z, self.other(self.conv(x + 1))
        if self.kind == 'one norm for two':
            return z, self.norm(x.repeat(1, 3, 1, 1)[:, :8])
        if self.kind == 'view':
            return z + y.flatten(2).view_as(z)
        return z


@pytest.mark.parametrize(
    'kind',
    [
        'in place',
        'skip',
        'output',
        'two norms',
        'two calls',
        'one norm for two',
        'view',
    ],
)
def test_whoever_else_reads_the_convolution(kind):
    model = hardened(Twice(kind), [('bn', 'bn')])
    model, report, before = folded_pair(model)
    assert isinstance(model.norm, ChannelAffine), report.table()
    assert report.layers[0].why
    x = torch.randn(2, 3, 9, 9)
    got, want = model(x), before(x)
    assert_same_outputs(
        got if isinstance(got, tuple) else [got],
        want if isinstance(want, tuple) else [want],
    )


def test_shared_weights_and_hooks_stay():
    for spoil in ('weights', 'hook', 'norm hook', 'subclass'):
        model = hardened(Twice(''), [('bn', 'bn')])
        if spoil == 'weights':
            model.tied = nn.Conv2d(3, 8, 3)
            model.tied.weight = model.conv.weight
        elif spoil == 'hook':
            model.conv.register_forward_hook(lambda *args: None)
        elif spoil == 'norm hook':
            model.norm.register_forward_hook(lambda *args: None)
        else:
            standard = type('Standardized', (nn.Conv2d,), {})
            standard.forward = lambda self, x: nn.Conv2d.forward(self, x)
            model.conv.__class__ = standard
        weight = model.conv.weight.clone()
        model, report, before = folded_pair(model)
        assert torch.equal(model.conv.weight, weight), spoil
        x = torch.randn(2, 3, 9, 9)
        assert_same_outputs([model(x)], [before(x)])


def test_conv_module_keeps_working():
    module = ConvModule(3, 8, 3, norm_cfg=dict(type='SN'))
    choose(randomize(module.norm), 'bn', 'bn')
    module, _, before = folded_pair(harden(module).eval())
    assert isinstance(module.norm, nn.Identity)
    x = torch.randn(2, 3, 9, 9)
    assert_same_outputs([module(x)], [before(x)])


def test_layers_without_a_convolution():
    model = nn.Sequential(nn.ReLU(), choose(randomize(SN2d(3)), 'bn', 'bn'))
    model, report, before = folded_pair(harden(model).eval())
    assert isinstance(model[1], ChannelAffine)
    assert report.layers[0].why == 'follows no convolution'
    x = torch.randn(2, 3, 5, 5)
    assert_same_outputs([model(x)], [before(x)])
    assert torch.equal(model.train()(x), model.eval()(x))


def test_soft_layers_stay_as_they_are():
    model = resnet()
    first, *rest = switch_norms(model)
    harden(model, include=[first])
    model.eval()
    model, report, before = folded_pair(model)
    assert list(switch_norms(model)) and len(report.layers) == len(rest) + 1
    assert [r.why for r in report.layers[1:]] == ['soft ratios'] * len(rest)
    x = torch.randn(1, 3, 64, 64)
    assert_same_outputs(model(x), before(x))


def test_hardened_weights_in_an_ordinary_model():
    hard = hardened(resnet())
    model = resnet()
    model.eval()
    model.load_state_dict(hard.state_dict())
    x = torch.randn(1, 3, 64, 64)
    assert_same_outputs(fold(model)(x), hard(x))


def test_groups_that_differ_and_groups_that_agree():
    norm = randomize(SN2d(8, ratio_groups=2))
    choose(norm, 'bn', 'bn')
    with torch.no_grad():
        norm.mean_weight[0] = torch.tensor([0.0, 5.0, 0.0])
    model = nn.Sequential(nn.Conv2d(3, 8, 3), norm)
    model, report, before = folded_pair(harden(model).eval())
    assert model[1].statistics == ('ln', 'bn')
    assert model[1].ratio_groups == 2
    x = torch.randn(2, 3, 9, 9)
    assert_same_outputs([model(x)], [before(x)])


@pytest.mark.filterwarnings('ignore:SN on a map of a single position')
def test_maps_that_may_be_single_positions_keep_sn():
    for cls in (SN2d, SyncSN, SSN):
        norm = choose(randomize(cls(8)), 'in', 'in')
        model = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(3, 8, 1), norm
        )
        model, report, before = folded_pair(harden(model).eval())
        assert model[2] is norm and 'position' in report.layers[0].why
        x = torch.randn(2, 3, 5, 5)
        assert_same_outputs([model(x)], [before(x)])


class NoImages(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3), SN2d(8)

    def forward(self, left, right):
        return self.norm(self.conv(left)) + right


def test_models_that_take_no_image_get_affine_maps():
    model = NoImages()
    choose(randomize(model.norm), 'bn', 'bn')
    model, report, before = folded_pair(harden(model).eval())
    assert isinstance(model.norm, ChannelAffine)
    assert 'does not run on an example image' in report.summary()
    x = torch.randn(2, 3, 9, 9)
    assert_same_outputs([model(x, 1)], [before(x, 1)])


def test_what_the_user_may_get_wrong():
    with pytest.raises(ValueError, match=r'no hardened SN layer.*harden\('):
        fold(resnet())
    with pytest.raises(ValueError, match='has no SN layer'):
        fold(nn.Conv2d(3, 3, 1))


@pytest.mark.parametrize('kind', ['IBN', 'EN', 'FRN', 'BHN', 'AN'])
def test_what_looks_at_its_input_is_not_told_to_be_hardened(kind):
    model = nn.Sequential(
        nn.Conv2d(3, 8, 1), build_norm_layer(dict(type=kind), 8)[1]
    )
    with pytest.raises(ValueError, match=rf'\({kind}\) look at their') as info:
        fold(model.eval())
    assert 'harden' not in str(info.value)


def test_a_layer_of_ratios_for_each_sample_says_so():
    model = nn.Sequential(nn.Conv2d(3, 8, 1), PN(8), EN(8))
    _, report, _ = folded_pair(model.eval())
    assert [row.action for row in report.layers] == ['into 0', 'kept']
    assert report.layers[1].why == 'ratios of each sample'


def test_report():
    _, report, _ = folded_pair(hardened(resnet()))
    lines = report.table().splitlines()
    assert len(lines) == len(report.layers) + 3
    assert any('into conv1' in line for line in lines) or 'sn1' in lines[1]
    assert 'norm layers: ' in report.summary()
