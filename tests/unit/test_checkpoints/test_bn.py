# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""BN checkpoints as starting points of SN networks."""

import pytest
import torch
from mmdet.models.backbones import ResNet
from mmdet.registry import MODELS
from mmengine.runner import load_checkpoint
from mmengine.runner.checkpoint import CheckpointLoader

from sn_mm import load_pretrained
from sn_mm.checkpoints import CheckpointError
from tests.public.networks import relative_error
from tests.utils import randomize


@pytest.fixture(scope='module')
def bn_file(tmp_path_factory):
    """A torchvision-like file (with fc), and its network."""
    model = ResNet(18, norm_eval=False)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            randomize(module)
    model.eval()
    path = tmp_path_factory.mktemp('bn') / 'resnet18.pth'
    state = dict(model.state_dict())
    state['fc.weight'], state['fc.bias'] = (
        torch.ones(1000, 512),
        torch.ones(1000),
    )
    torch.save(state, path)
    return model, path


def sn_resnet(**norm):
    model = ResNet(18, norm_cfg=dict(type='SN', **norm), norm_eval=False)
    model.eval()
    return model


def assert_same(got, want):
    assert all(relative_error(g, w) < 1e-4 for g, w in zip(got, want))


@pytest.mark.parametrize(
    'load',
    [
        lambda model, name: load_checkpoint(model, name),
        lambda model, name: load_pretrained(model, name),
    ],
)
def test_ratios_on_bn_start_as_the_bn_network(bn_file, image, load):
    original, path = bn_file
    model = sn_resnet()
    load(model, f'bn2sn://{path}?ratios=bn')
    with torch.no_grad():
        assert_same(model(image), original(image))


def test_initial_ratios_by_init_cfg(bn_file):
    original, path = bn_file
    model = ResNet(
        18,
        norm_cfg=dict(type='SN'),
        init_cfg=dict(type='Pretrained', checkpoint=f'bn2sn://{path}'),
    )
    torch.nn.init.zeros_(model.sn1.mean_weight)
    model.init_weights()
    assert torch.equal(model.sn1.mean_weight, torch.ones(3))
    for name in (
        'weight',
        'bias',
        'running_mean',
        'running_var',
        'num_batches_tracked',
    ):
        assert torch.equal(
            getattr(model.sn1, name), getattr(original.bn1, name)
        )


def test_ratios_follow_the_models_statistics(bn_file):
    _, path = bn_file
    model = sn_resnet(statistics=('in', 'ln'))
    report = load_pretrained(model, f'bn2sn://{path}')
    assert report.complete
    dropped = [d.source for d in report.dropped]
    assert 'bn1.running_mean' in dropped and 'fc.weight' in dropped
    with pytest.raises(CheckpointError, match="include 'bn' in norm_cfg"):
        load_pretrained(model, f'bn2sn://{path}?ratios=bn')
    grouped = sn_resnet(statistics=('bn', 'gn'), ratio_groups=2)
    load_pretrained(grouped, f'bn2sn://{path}?ratios=bn')
    assert grouped.sn1.ratios()['mean'][:, 0].tolist() == [1, 1]


def test_whole_detector_and_part_of_it(bn_file, tmp_path):
    from mmdet.models.necks import FPN

    detector = torch.nn.Module()
    detector.backbone = bn_file[0]
    detector.neck = FPN([64, 128, 256, 512], 32, 5, norm_cfg=dict(type='BN'))
    path = tmp_path / 'detector.pth'
    torch.save({'state_dict': detector.state_dict(), 'meta': {}}, path)
    backbone = sn_resnet()
    report = load_pretrained(backbone, f'bn2sn://{path}')
    assert report.complete
    neck = MODELS.build(
        dict(
            type='FPN',
            in_channels=[64, 128, 256, 512],
            out_channels=32,
            num_outs=5,
            norm_cfg=dict(type='SN'),
        )
    )
    assert load_pretrained(neck, f'bn2sn://{path}', prefix='neck').complete
    assert torch.equal(
        neck.fpn_convs[0].sn.running_var,
        detector.neck.fpn_convs[0].bn.running_var,
    )


def test_only_whole_components_called_bn_are_renamed():
    from sn_mm.checkpoints.bn import sn_name

    assert sn_name('bn1.weight') == 'sn1.weight'
    assert sn_name('neck.convs.0.bn.bias') == 'neck.convs.0.sn.bias'
    assert sn_name('layer1.0.downsample.1.a') == 'layer1.0.downsample.1.a'
    assert sn_name('subnet.bnx.weight') == 'subnet.bnx.weight'


@pytest.mark.parametrize(
    'name, message',
    [
        ('{}?ratios=ln', "ratios='ln'; choose from initial, bn"),
        ('{}?to=mmdet', "no option 'to'"),
        ('ftp://host/x.pth', 'know files, http'),
        ('open-mmlab://no_such_model', "has no model 'no_such_model'"),
    ],
)
def test_errors(bn_file, name, message):
    with pytest.raises(CheckpointError, match=message):
        CheckpointLoader.load_checkpoint('bn2sn://' + name.format(bn_file[1]))


def test_sn_files_are_not_bn_files(released):
    _, path = released('imagenet_resnetv1sn50_nobn')
    with pytest.raises(CheckpointError, match='it has SN already'):
        CheckpointLoader.load_checkpoint(f'bn2sn://{path}')


def test_toolbox_schemes_resolve_to_a_download(bn_file, tmp_path, monkeypatch):
    from sn_mm.checkpoints import sources

    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path))
    fetched = []

    def download(url, path):
        fetched.append(url)
        with open(path, 'wb') as file:
            file.write(bn_file[1].read_bytes())

    monkeypatch.setattr(torch.hub, 'download_url_to_file', download)
    monkeypatch.setattr(
        sources,
        'get_torchvision_models',
        lambda: {'resnet18': 'https://host.example/resnet18-abc.pth'},
    )
    for _ in range(2):  # the second time from the cache
        found = CheckpointLoader.load_checkpoint(
            'bn2sn://torchvision://resnet18?ratios=bn'
        )['state_dict']
    assert fetched == ['https://host.example/resnet18-abc.pth']
    assert 'sn1.mean_weight' in found
