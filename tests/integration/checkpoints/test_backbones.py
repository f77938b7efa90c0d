# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""ImageNet files in the toolboxes' ResNets: the original's outputs."""

import pytest
import torch
from mmdet.models.backbones import ResNet
from mmdet.registry import MODELS
from mmengine.runner import load_checkpoint
from mmengine.runner.checkpoint import CheckpointLoader

from sn_mm import load_pretrained
from sn_mm.checkpoints import CheckpointError
from tests.public import oracle
from tests.public.networks import relative_error

NORM = dict(type='SN', unbiased=True)
NOBN = dict(type='SN', unbiased=True, statistics=('in', 'ln'))


def resnet(norm_cfg=NORM, depth=50, **kwargs):
    model = ResNet(depth, norm_cfg=norm_cfg, norm_eval=False, **kwargs)
    model.eval()
    return model


def assert_same(model, original, image, tolerance=1e-4):
    with torch.no_grad():
        got, want = model(image), original.features(image)
    for i, (g, w) in enumerate(zip(got, want), 1):
        assert relative_error(g, w) < tolerance, f'layer{i}'


@pytest.mark.parametrize(
    'layout, norm_cfg',
    [
        ('imagenet_resnetv1sn50', NORM),
        ('imagenet_resnetv1sn50_nobn', NOBN),
        ('detectron_backbone_fpn', NORM),
        ('imagenet_resnetv1sn101', NORM),
    ],
)
def test_outputs_through_init_cfg(released, image, layout, norm_cfg):
    original, path = released(layout)
    depth = 101 if '101' in layout else 50
    model = resnet(
        norm_cfg,
        depth,
        init_cfg=dict(type='Pretrained', checkpoint=f'sn://{path}'),
    )
    model.init_weights()
    assert_same(model, original, image)


def test_outputs_through_the_scheme(released, image):
    original, path = released('imagenet_resnetv1sn50')
    model = resnet()
    load_checkpoint(model, f'sn://{path}', strict=True)
    assert_same(model, original, image)


def test_the_biased_variance_is_told_and_would_show(released, image):
    original, path = released('imagenet_resnetv1sn50')
    model = resnet(dict(type='SN'))
    with pytest.raises(CheckpointError, match='set unbiased=True in norm_cfg'):
        load_pretrained(model, str(path))
    with pytest.raises(CheckpointError, match='set unbiased=True in its'):
        load_checkpoint(model, f'sn://{path}?to=backbone', strict=True)
    model = resnet(dict(type='SN', unbiased=True))
    load_checkpoint(model, f'sn://{path}?to=backbone', strict=True)
    for layer in model.modules():
        if hasattr(layer, 'unbiased'):
            layer.unbiased = False
    with torch.no_grad():
        error = relative_error(model(image)[-1], original.features(image)[-1])
    assert error > 1e-2


def test_the_account(released):
    _, path = released('imagenet_resnetv1sn50')
    report = load_pretrained(resnet(), str(path))
    assert len(report.used) == 371 and report.complete
    assert [d.source for d in report.dropped] == [
        'module.fc.weight',
        'module.fc.bias',
        'optimizer',
    ]


def whole_model():
    model = torch.nn.Module()
    model.backbone = resnet()
    model.neck = torch.nn.Linear(2, 2)
    return model


def test_a_whole_model_reports_what_stays_unfilled(released):
    original, path = released('imagenet_resnetv1sn50')
    report = load_pretrained(whole_model(), str(path))
    assert report.missing == ['neck.weight', 'neck.bias']
    assert not report.complete and 'NOT FILLED' in report.summary()
    model = whole_model()
    load_checkpoint(model, f'sn://{path}')  # as load_from does
    assert torch.equal(model.backbone.conv1.weight, original.conv1.weight)
    with pytest.raises(CheckpointError, match='NOT FILLED'):
        load_checkpoint(whole_model(), f'sn://{path}', strict=True)


def test_backbone_converted_for_c4_detectors(image, tmp_path):
    original = oracle.fill(oracle.Converted(oracle.SwitchNorm, fpn=False))
    path = tmp_path / 'r50.pth'
    torch.save({'model': original.state_dict()}, path)
    model = resnet()
    load_pretrained(model, str(path))
    assert_same(model, original, image)


@pytest.mark.parametrize(
    'depth', [18, 34, pytest.param(152, marks=pytest.mark.slow)]
)
def test_other_depths(depth, tmp_path, image):
    original = oracle.fill(oracle.ResNet(depth))
    path = tmp_path / f'r{depth}.pth'
    torch.save({'state_dict': original.state_dict()}, path)
    model = resnet(depth=depth)
    assert load_pretrained(model, str(path)).complete
    assert_same(model, original, image)


@pytest.mark.parametrize(
    'norm_cfg, kwargs, message',
    [
        (NOBN, {}, r"statistics=\('in', 'ln', 'bn'\)"),
        (dict(type='BN'), {}, r"has no SN: set norm_cfg=dict\(type='SN'"),
        (dict(type='SN', unbiased=True, eps=1e-3), {}, 'set eps=1e-05'),
        (NORM, dict(style='caffe'), "set style='pytorch'"),
        (NORM, dict(depth=101), 'set depth=50'),
        (NORM, dict(depth=18), 'set depth=50'),
        (NORM, dict(deep_stem=True), "set type='ResNet'"),
        (NORM, dict(avg_down=True), "set type='ResNet'"),
    ],
)
def test_contradictions_name_the_config_line(
    released, norm_cfg, kwargs, message
):
    _, path = released('imagenet_resnetv1sn50')
    model = resnet(norm_cfg, **kwargs)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(CheckpointError, match=message):
        load_pretrained(model, f'sn://{path}')
    assert all(
        torch.equal(v, before[k]) for k, v in model.state_dict().items()
    )


def test_three_ratios_against_two_through_the_scheme(released):
    _, path = released('imagenet_resnetv1sn50')
    with pytest.raises(CheckpointError, match=r"set statistics=\('in'"):
        load_checkpoint(resnet(NOBN), f'sn://{path}')
    with pytest.raises(RuntimeError, match='set statistics in norm_cfg'):
        load_checkpoint(resnet(NOBN), f'sn://{path}?to=backbone', strict=True)


def test_names_for_other_toolboxes(released):
    _, path = released('imagenet_resnetv1sn50')

    def keys(to):
        return set(
            CheckpointLoader.load_checkpoint(f'sn://{path}?to={to}')[
                'state_dict'
            ]
        )

    assert {'backbone.sn1.weight', 'head.fc.bias'} <= keys('mmpretrain')
    assert {
        'bn1.running_var',
        'layer1.0.bn3.var_weight',
        'layer1.0.downsample.1.bias',
        'fc.weight',
    } <= keys('torchvision')
    assert 'backbone.layer4.2.sn3.weight' in keys('model')
    assert 'layer4.2.sn3.weight' in keys('mmdet')
    assert 'fc.weight' not in keys('backbone')
    with pytest.raises(CheckpointError, match='choose from mmdet'):
        keys('caffe')


class TorchvisionNames(torch.nn.Module):
    """A stem and classifier called as torchvision's."""

    def __init__(self, classes):
        super().__init__()
        import sn_mm

        self.conv1 = torch.nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = sn_mm.SN(64, unbiased=True)
        self.fc = torch.nn.Linear(2048, classes)


def test_torchvision_names(released):
    original, path = released('imagenet_resnetv1sn50')
    model = TorchvisionNames(1000)
    load_pretrained(model, str(path))
    assert torch.equal(model.fc.weight, original.fc.weight)
    assert torch.equal(model.bn1.mean_weight, original.sn1.mean_weight)
    model = TorchvisionNames(7)
    report = load_pretrained(model, str(path))
    assert report.missing == ['fc.weight', 'fc.bias']
    assert any('classifier of 1000' in d.reason for d in report.dropped)


# -- SSN --
def ssn_resnet(kind='SSNResNet', **norm):
    import sn_mm.models.ssn_resnet  # noqa: F401  (registers SSNResNet)

    model = MODELS.build(
        dict(
            type=kind,
            depth=50,
            norm_cfg=dict(type='SSN', unbiased=True, **norm),
            norm_eval=False,
        )
    )
    model.eval()
    return model


def test_ssn_outputs(released, image):
    original, path = released('imagenet_resnetv1ssn50')
    model = ssn_resnet()
    assert load_pretrained(model, str(path)).complete
    assert model.layer3[1].sn2.mean_fixed == 1
    assert_same(model, original, image)


def test_ssn_with_open_ratios(image, tmp_path):
    """Radius and unfixed weights count in evaluation."""
    original = oracle.fill(
        oracle.ResNet(18, norm=oracle.FixedSparseNorm, ceil_pool=True)
    )
    sparse = torch.tensor([0.2, 0.7, 0.1])
    for name, buffer in original.named_buffers():
        if name.endswith('mean_fixed'):
            buffer.zero_()
        elif name.endswith('radius'):
            buffer.fill_(0.5)
    open_weights = original.sn1.mean_weight
    with torch.no_grad():
        open_weights.copy_(sparse)
    path = tmp_path / 'ssn18.pth'
    torch.save({'state_dict': original.state_dict()}, path)
    model = MODELS.build(
        dict(
            type='SSNResNet',
            depth=18,
            norm_cfg=dict(type='SSN', unbiased=True),
        )
    )
    load_pretrained(model, str(path))
    want = 1 / 3 + 0.5 * (sparse - 1 / 3) / (sparse - 1 / 3).norm()
    got = model.sn1.ratios()['mean']
    assert torch.allclose(got, want, atol=1e-6)
    with torch.no_grad():
        open_weights.copy_(want)
    model.eval()
    assert_same(model, original, image)


@pytest.mark.parametrize(
    'build, message',
    [
        (lambda: ssn_resnet('ResNet'), "set type='SSNResNet'"),
        (lambda: resnet(), "set type='SSN' in norm_cfg"),
    ],
)
def test_ssn_contradictions(released, build, message):
    _, path = released('imagenet_resnetv1ssn50')
    build_model = build()
    with pytest.raises(CheckpointError, match=message):
        load_pretrained(build_model, str(path))


def test_sn_into_the_ssn_stem(released):
    _, path = released('imagenet_resnetv1sn50')
    import sn_mm.models.ssn_resnet  # noqa: F401

    model = MODELS.build(dict(type='SSNResNet', depth=50, norm_cfg=NORM))
    with pytest.raises(CheckpointError, match="set type='ResNet'"):
        load_pretrained(model, str(path))
