# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Models of any norm out of networks with BN: what starts how, what not."""

from __future__ import annotations

import pytest
import torch
from mmengine.registry import MODELS
from mmengine.runner import load_checkpoint
from torch import nn

from sn_mm import SyncSN, load_pretrained
from sn_mm.analysis.starts import starts_of_layers
from sn_mm.checkpoints import CheckpointError
from sn_mm.layers import RowNorm
from tests.builders import BN_CFG, SN_CFG, resnet, switch_norms
from tests.public.networks import relative_error
from tests.unit.test_checkpoints.test_networks import bn_network
from tests.unit.test_checkpoints.test_structure import MOBILENET, backbone
from tests.utils import randomize

# every norm of ours for maps, under one of its names
TYPES = {
    cls.__name__: cls
    for name, cls in MODELS.module_dict.items()
    if isinstance(cls, type)
    and issubclass(cls, RowNorm)
    and not name.endswith(('1d', '3d'))
}


def saved(path, state):
    torch.save(dict(state_dict=state), path)
    return f'bn2sn://{path}'


@pytest.fixture
def state():
    return bn_network(1).state_dict()


def unchanged_and_refused(model, name, match):
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(CheckpointError, match=match) as error:
        load_pretrained(model, name)
    with pytest.raises(CheckpointError, match=match):
        load_checkpoint(model, name)
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key]), key
    return str(error.value)


# -- ratios --
@pytest.mark.parametrize(
    'ratios, share',
    [('equal', 1 / 3), ('initial', 1 / 3), ('bn', 1), ('0.5', 0.5)]
    + [('0', 0), ('1', 1), ('0.9', 0.9), ('1e-3', 1e-3)],
)
@pytest.mark.parametrize('kind', ['SN', 'SSN', 'SyncSN'])
def test_shares_of_bn(tmp_path, state, ratios, share, kind):
    model = resnet(norm_cfg=dict(type=kind))
    load_pretrained(
        model, saved(tmp_path / 'a.pth', state) + f'?ratios={ratios}'
    )
    for layer in switch_norms(model).values():
        for ratio in layer.ratios().values():
            rest = (1 - share) / 2
            want = torch.tensor([rest, rest, share])
            assert torch.allclose(ratio, want, atol=1e-6)


@pytest.mark.parametrize('ratios', ['ln', '-0.1', '1.5', '', 'nan'])
def test_no_share(tmp_path, state, ratios):
    name = saved(tmp_path / 'a.pth', state) + f'?ratios={ratios}'
    text = unchanged_and_refused(resnet(norm_cfg=SN_CFG), name, 'choose from')
    assert f'ratios={ratios!r}' in text


# -- what is refused --
def test_folded(tmp_path, state):
    for key, value in state.items():
        if key.endswith('running_mean'):
            value.zero_()
        elif key.endswith('running_var'):
            value.fill_(1 - 1e-5)
    name = saved(tmp_path / 'a.pth', state)
    model = resnet(norm_cfg=SN_CFG)
    text = unchanged_and_refused(model, name, 'folded')
    assert 'transplant' in text and '?ratios=bn' in text
    unchanged_and_refused(model, f'{name}?ratios=0.9', 'folded')
    unchanged_and_refused(model, f'{name}&ratios=0.9', 'does not exist')
    gn = resnet(norm_cfg=dict(type='GN', num_groups=4))
    unchanged_and_refused(gn, name, 'folded')
    load_pretrained(model, f'{name}?ratios=bn')
    load_pretrained(resnet(norm_cfg=BN_CFG), name)
    partly = resnet(norm_cfg=SN_CFG, frozen_stages=1)
    unchanged_and_refused(partly, name, 'folded')
    for frozen in (
        dict(frozen_stages=4),
        dict(norm_cfg=dict(SN_CFG, requires_grad=False)),
    ):
        load_pretrained(resnet(**{'norm_cfg': SN_CFG, **frozen}), name)


def test_an_untrained_network_is_not_folded(tmp_path):
    network = resnet(norm_cfg=BN_CFG, zero_init_residual=True)
    name = saved(tmp_path / 'a.pth', network.state_dict())
    load_pretrained(resnet(norm_cfg=SN_CFG), name)


@pytest.mark.parametrize('value', [-0.5, float('nan'), float('inf')])
def test_impossible_variance(tmp_path, state, value):
    state['layer3.0.bn2.running_var'][3] = value
    unchanged_and_refused(
        resnet(norm_cfg=SN_CFG),
        saved(tmp_path / 'a.pth', state),
        r'layer3\.0\.bn2\.running_var',
    )


def test_half_of_the_norms_are_missing(tmp_path, state):
    half = {
        k: v
        for k, v in state.items()
        if not (k.startswith(('layer3', 'layer4')) and '.bn' in k)
    }
    unchanged_and_refused(
        resnet(norm_cfg=SN_CFG),
        saved(tmp_path / 'a.pth', half),
        'norms of the model are missing',
    )


def test_a_convolution_is_missing(tmp_path, state):
    del state['layer2.0.conv1.weight']
    unchanged_and_refused(
        resnet(norm_cfg=SN_CFG),
        saved(tmp_path / 'a.pth', state),
        r'no layer2\.0\.conv1',
    )


def test_no_batch_norm_at_all(tmp_path):
    gn = resnet(norm_cfg=dict(type='GN', num_groups=4))
    unchanged_and_refused(
        resnet(norm_cfg=SN_CFG),
        saved(tmp_path / 'a.pth', gn.state_dict()),
        'no batch norm',
    )


# -- whole detectors --
def retinanet(norm_cfg, classes=3, neck=None, head=None):
    norms = [dict(norm_cfg=n) if n else {} for n in (neck, head)]
    return MODELS.build(
        dict(
            type='RetinaNet',
            _scope_='mmdet',
            data_preprocessor=dict(type='DetDataPreprocessor'),
            backbone=dict(
                type='ResNet',
                depth=18,
                base_channels=8,
                stem_channels=8,
                norm_cfg=norm_cfg,
            ),
            neck=dict(
                type='FPN',
                in_channels=[8, 16, 32, 64],
                out_channels=8,
                num_outs=5,
                **norms[0],
            ),
            bbox_head=dict(
                type='RetinaHead',
                num_classes=classes,
                in_channels=8,
                feat_channels=8,
                stacked_convs=2,
                anchor_generator=dict(
                    type='AnchorGenerator',
                    octave_base_scale=4,
                    scales_per_octave=3,
                    ratios=[0.5, 1.0, 2.0],
                    strides=[8, 16, 32, 64, 128],
                ),
                bbox_coder=dict(type='DeltaXYWHBBoxCoder'),
                loss_cls=dict(type='FocalLoss', use_sigmoid=True),
                **norms[1],
            ),
        )
    )


@pytest.fixture
def detector(tmp_path):
    """Of the zoo: BN in the backbone, no norm in neck and head."""
    torch.manual_seed(3)
    model = retinanet(BN_CFG, classes=5)
    model.backbone.load_state_dict(bn_network(1).state_dict())
    return model, saved(tmp_path / 'det.pth', model.state_dict())


@pytest.mark.parametrize(
    'load', [load_pretrained, lambda m, n: load_checkpoint(m, n) and None]
)
def test_parts_without_norms_in_the_file_start_theirs_fresh(detector, load):
    network, name = detector
    model = retinanet(SN_CFG, 3, SN_CFG, SN_CFG)
    fresh = model.bbox_head.retina_cls.weight.clone()
    report = load(model, name)
    for part in ('neck.lateral_convs.0.conv', 'bbox_head.cls_convs.1.conv'):
        got, want = model.get_submodule(part), network.get_submodule(part)
        assert torch.equal(got.weight, want.weight)
    assert torch.equal(
        model.bbox_head.retina_reg.weight, network.bbox_head.retina_reg.weight
    )
    assert torch.equal(model.bbox_head.retina_cls.weight, fresh)
    norm = model.neck.fpn_convs[0].sn
    assert torch.equal(norm.weight, torch.ones(8))
    if report is not None:
        text = report.summary()
        assert 'neck: the file has no batch norms; 8 norms start fresh' in text
        assert 'bbox_head: the file has no batch norms; 4 norms' in text
        assert 'retina_cls starts fresh: 45 outputs in the file, 27' in text


def test_the_same_detector_takes_all_and_computes_the_same(detector):
    network, name = detector
    model = retinanet(SN_CFG, 5)
    report = load_pretrained(model, f'{name}?ratios=bn')
    assert report.complete and not report.said
    network.eval()
    model.eval()
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        for got, want in zip(
            model(x, mode='tensor'), network(x, mode='tensor')
        ):
            for a, b in zip(got, want):
                assert relative_error(a, b) < 1e-4


def test_half_of_a_parts_norms(detector, tmp_path):
    network = retinanet(BN_CFG, 3, BN_CFG)
    state = network.state_dict()
    for key in [k for k in state if k.startswith('neck.fpn_convs.3.bn')]:
        del state[key]
    unchanged_and_refused(
        retinanet(SN_CFG, 3, SN_CFG),
        saved(tmp_path / 'half.pth', state),
        '1 of 8 norms of neck are missing',
    )


def test_a_backbone_alone_into_a_detector(tmp_path, state):
    name = saved(tmp_path / 'a.pth', state)
    model = retinanet(SN_CFG, 3, SN_CFG)
    report = load_pretrained(model, name)
    assert torch.equal(model.backbone.conv1.weight, state['conv1.weight'])
    assert all(k.startswith(('neck', 'bbox_head')) for k in report.missing)


# -- other norms --
@pytest.mark.parametrize('scheme', ['bn2sn', 'bn2norm'])
@pytest.mark.parametrize(
    'norm', [dict(type='GN', num_groups=4), dict(type='IN', affine=True)]
)
def test_other_norms_take_the_affine(tmp_path, state, norm, scheme):
    name = saved(tmp_path / 'a.pth', state).replace('bn2sn', scheme)
    model = resnet(
        norm_cfg=norm, init_cfg=dict(type='Pretrained', checkpoint=name)
    )
    want = {
        k: v
        for k, v in state.items()
        if not k.endswith(('running_mean', 'running_var', '_tracked'))
    }
    got = dict(zip(want, model.state_dict().values()))
    assert len(model.state_dict()) == len(want)
    assert all(torch.equal(got[k], want[k]) for k in want)


@pytest.mark.parametrize('ratios', ['bn', '0.5'])
def test_norms_without_ratios_have_no_share(tmp_path, state, ratios):
    unchanged_and_refused(
        resnet(norm_cfg=dict(type='GN', num_groups=4)),
        saved(tmp_path / 'a.pth', state) + f'?ratios={ratios}',
        'GroupNorm, which has no ratios',
    )


@pytest.mark.parametrize('kind', sorted(TYPES))
def test_every_norm_of_ours(tmp_path, kind):
    """Each starts from BN, or says why not; shares are SN's alone."""
    network = nn.Sequential(nn.Conv2d(3, 32, 1), randomize(nn.BatchNorm2d(32)))
    name = saved(tmp_path / 'a.pth', network.state_dict())
    model = nn.Sequential(nn.Conv2d(3, 32, 1), TYPES[kind](32))
    load_pretrained(model, name.replace('bn2sn', 'bn2norm'))
    assert torch.equal(model[0].weight, network[0].weight)
    assert starts_of_layers(model, [])['1'].startswith('bn2norm://')
    network.eval()
    model.eval()
    x = torch.randn(2, 3, 4, 4)
    try:
        load_pretrained(model, f'{name}?ratios=bn')
    except CheckpointError as error:
        assert 'no ratios that can be set' in str(error)
    else:
        assert relative_error(model(x), network(x)) < 1e-4


def test_synchronized_norms(tmp_path, state):
    name = saved(tmp_path / 'a.pth', state)
    model = resnet(norm_cfg=dict(type='SyncSN'))
    assert load_pretrained(model, name).complete
    assert isinstance(model.sn1, SyncSN)


# -- frozen layers --
@pytest.mark.parametrize('lazily', [True, False])
def test_frozen_stages_compute_what_they_did(tmp_path, lazily):
    """mmdet's MobileNetV2 freezes only when it is put into training mode."""
    if lazily:
        network = backbone(MOBILENET)
        model = backbone(MOBILENET, 'SN', frozen_stages=2)
        fronts, part = ('conv1', 'layer1', 'layer2'), 'layer2'
    else:
        network = bn_network(1)
        model = resnet(norm_cfg=SN_CFG, frozen_stages=1)
        fronts, part = ('sn1', 'layer1'), 'layer1'
    grads = [p.requires_grad for p in model.parameters()]
    load_pretrained(model, saved(tmp_path / 'a.pth', network.state_dict()))
    assert grads == [p.requires_grad for p in model.parameters()]
    for name, layer in switch_norms(model).items():
        frozen = name.startswith(fronts)
        assert layer.bn_eval == frozen, name
        want = [0, 0, 1] if frozen else [1 / 3] * 3
        assert layer.ratios()['var'].tolist() == pytest.approx(want)
    outputs = []
    for m in (model, network):
        m.eval()
        m.get_submodule(part).register_forward_hook(
            lambda *a: outputs.append(a[2].detach())
        )
    model.train()
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        model(x)
        network(x)
    assert relative_error(*outputs) < 1e-4


def test_norms_frozen_by_requires_grad(tmp_path, state):
    model = resnet(norm_cfg=dict(SN_CFG, requires_grad=False))
    load_pretrained(model, saved(tmp_path / 'a.pth', state))
    network = bn_network(1)
    network.eval()
    model.train()
    x = torch.randn(2, 3, 64, 64)
    for got, want in zip(model(x), network(x)):
        assert relative_error(got, want) < 1e-4


def test_norm_eval_decides_nothing(tmp_path, state):
    model = resnet(norm_cfg=SN_CFG, norm_eval=True)
    load_pretrained(model, saved(tmp_path / 'a.pth', state))
    assert not any(m.bn_eval for m in switch_norms(model).values())


def test_offsets_that_start_at_zero_are_no_other_design(tmp_path):
    plain = nn.ModuleDict(dict(conv=nn.Conv2d(3, 4, 1), bn=nn.BatchNorm2d(4)))
    model = nn.ModuleDict(
        dict(
            conv=nn.Conv2d(3, 4, 1),
            bn=nn.BatchNorm2d(4),
            conv_offset=nn.Conv2d(3, 18, 1),
        )
    )
    name = saved(tmp_path / 'a.pth', plain.state_dict())
    unchanged_and_refused(model, name, 'no conv_offset')
    for parameter in model.conv_offset.parameters():
        nn.init.zeros_(parameter)
    assert load_pretrained(model, name).missing == [
        'conv_offset.weight',
        'conv_offset.bias',
    ]


def test_a_layer_called_as_a_word_of_the_log(tmp_path):
    """What is said of a file is no list of layers that may be missing."""
    plain = nn.ModuleDict(dict(conv=nn.Conv2d(3, 4, 1), bn=nn.BatchNorm2d(4)))
    state = plain.state_dict()
    two = {
        f'{p}.{k}': v for p in ('teacher', 'student') for k, v in state.items()
    }
    model = nn.ModuleDict({**plain, 'taken': nn.Conv2d(4, 4, 1)})
    name = saved(tmp_path / 'a.pth', two)
    unchanged_and_refused(model, name, 'no taken')


def test_a_backbone_that_another_module_holds(tmp_path):
    """Of a file of the inner network alone, whose names are all ends."""
    network = bn_network(1)
    holder = nn.ModuleDict(dict(net=resnet(norm_cfg=BN_CFG)))
    model = nn.ModuleDict(dict(backbone=holder, head=nn.Conv2d(64, 3, 1)))
    report = load_pretrained(
        model, saved(tmp_path / 'a.pth', network.state_dict())
    )
    got = model['backbone']['net'].state_dict()
    for key, value in network.state_dict().items():
        assert torch.equal(got[key], value), key
    assert 'conv1 is backbone.net.conv1' in report.said[0]


@pytest.mark.parametrize('renamed', [True, False])
def test_a_padding_that_no_key_shows(tmp_path, renamed):
    from mmcv.cnn.bricks import Conv2dAdaptivePadding

    def network(conv):
        return nn.Sequential(conv(3, 4, 3, 2, 1), nn.BatchNorm2d(4))

    state = network(nn.Conv2d).state_dict()
    if renamed:
        state = {f'x{k}': v for k, v in state.items()}
    report = load_pretrained(
        network(Conv2dAdaptivePadding), saved(tmp_path / 'a.pth', state)
    )
    told = [s for s in report.said if 'pads as TensorFlow' in s]
    assert len(told) == renamed
