# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
import copy

import pytest
import torch
from mmdet.models import ResNet
from mmengine.logging import HistoryBuffer
from torch import nn

from sn_mm.checkpoints import CheckpointError
from sn_mm.teaching.teacher import begin, make_teacher
from sn_mm.teaching.unfold import unfold

from .networks import pictures, same, state_of, trained, with_norms
from .test_unfold import folded

BACKBONE = ('backbone',)


def resnet(**options):
    return ResNet(depth=18, base_channels=8, **options)


def lively(model):
    """Statistics and affine parameters that are no beginner's."""
    torch.manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.3)
            module.running_mean.normal_(std=0.3)
            module.running_var.uniform_(0.5, 1.5)
    model.eval()
    return model


def saved(model, path, front='', **more):
    state = {f'{front}{k}': v for k, v in model.state_dict().items()}
    torch.save(dict(state_dict=state, **more), path)
    return str(path)


@pytest.fixture
def network():
    return lively(resnet())


NORMS = {
    'SN': dict(type='SN'),
    'SyncSN': dict(type='SyncSN'),
    'SSN': dict(type='SSN'),
    'GN': dict(type='GN', num_groups=4),
}


@pytest.mark.parametrize('kind', NORMS)
@torch.no_grad()
def test_the_teacher_gives_what_the_files_network_gives(
    kind, network, tmp_path
):
    source = saved(network, tmp_path / 'bn.pth')
    student = resnet(norm_cfg=NORMS[kind])
    before = state_of(student)
    teacher = make_teacher(student, source, BACKBONE)
    assert same(before, student.state_dict())
    x = torch.randn(2, 3, 64, 64)
    for got, want in zip(teacher.model(x), network(x)):
        torch.testing.assert_close(got, want)
    assert not any(p.requires_grad for p in teacher.model.parameters())
    assert not teacher.folded
    begin(student, teacher, BACKBONE)
    for name in teacher.norms:
        norm = student.get_submodule(name)
        bn = teacher.model.get_submodule(name)
        assert torch.equal(norm.weight, bn.weight)
        assert torch.equal(norm.bias, bn.bias)
        if kind != 'GN':
            assert torch.equal(norm.running_var, bn.running_var)
            for ratio in norm.ratios().values():
                assert torch.allclose(ratio, torch.full_like(ratio, 1 / 3))
    assert torch.equal(
        student.layer1[0].conv1.weight, network.layer1[0].conv1.weight
    )


def test_a_frozen_layer_begins_as_the_bn_that_it_was(network, tmp_path):
    source = saved(network, tmp_path / 'bn.pth')
    student = resnet(norm_cfg=dict(type='SN'), frozen_stages=1)
    begin(student, make_teacher(student, source, BACKBONE), BACKBONE)
    frozen, trains = student.layer1[0].norm1, student.layer2[0].norm1
    assert frozen.ratios()['mean'].tolist() == [0, 0, 1] and frozen.bn_eval
    assert trains.ratios()['mean'].tolist() == pytest.approx([1 / 3] * 3)
    assert not trains.bn_eval


def test_files_as_training_runs_leave_them(network, tmp_path):
    """Beside the weights what else a run keeps; a detector's backbone."""
    source = saved(
        network,
        tmp_path / 'run.pth',
        front='backbone.',
        meta=dict(dataset_meta=dict(classes=('a', 'b'), palette=[(1, 2, 3)])),
        message_hub=dict(loss=HistoryBuffer([1.0], [1])),
    )

    class Detector(nn.Module):
        def __init__(self):
            super().__init__()
            self.backbone = resnet(norm_cfg=dict(type='SN'))
            self.bbox_head = nn.Conv2d(64, 3, 1)

    student = Detector()
    teacher = make_teacher(student, source, BACKBONE)
    assert all(n.startswith('backbone.') for n in teacher.norms)
    assert teacher.dataset_meta == dict(
        classes=['a', 'b'], palette=[[1, 2, 3]]
    )
    begin(student, teacher, BACKBONE)
    assert torch.equal(student.backbone.conv1.weight, network.conv1.weight)
    # the head has no part in it
    with pytest.raises(CheckpointError, match='bbox_head'):
        make_teacher(student, source, ('backbone', 'neck', 'heads'))


def test_folded_bn_is_a_teacher(tmp_path):
    """A student that begins with its parameters as they are is useless."""
    network = trained()
    source = saved(folded(network), tmp_path / 'folded.pth')
    student = with_norms(trained(seed=5))
    teacher = make_teacher(student, source, BACKBONE)
    assert teacher.folded == ['bn1', 'bn2']
    x = pictures(1, seed=7)[0]
    torch.testing.assert_close(teacher.model(x)[1], network(x)[1])
    errors = []
    for measured in (False, True):
        if measured:
            unseen = pictures(20, seed=9)
            unfold(teacher.model, teacher.folded, unseen, BACKBONE)
        begin(student, teacher, BACKBONE)
        student.eval()
        with torch.no_grad():
            got, want = student(x)[1], network(x)[1]
            twin = teacher.model(x)[1]
        torch.testing.assert_close(twin, want, rtol=1e-3, atol=1e-4)
        errors.append(float((got - want).square().mean()))
    assert errors[1] < 0.5 * errors[0]


def test_norms_that_are_no_bn_in_the_file_stay(tmp_path):
    """A head with GN in a network with BN."""
    network = trained()
    network.bn2 = nn.GroupNorm(4, 12)
    source = saved(network, tmp_path / 'mixed.pth')
    student = copy.deepcopy(network)
    student.bn1 = with_norms(nn.Sequential(network.bn1))[0]
    teacher = make_teacher(student, source, BACKBONE)
    assert teacher.norms == ['bn1']
    assert isinstance(teacher.model.bn2, nn.GroupNorm)


def test_eps_of_the_teacher(network, tmp_path):
    source = saved(network, tmp_path / 'bn.pth')
    student = resnet(norm_cfg=dict(type='SN'))
    teacher = make_teacher(student, source, BACKBONE, eps=1e-3)
    assert teacher.model.norm1.eps == 1e-3


def test_files_that_are_no_teachers(network, tmp_path):
    student = resnet(norm_cfg=dict(type='SN'))
    with pytest.raises(CheckpointError, match='is a network with SN'):
        make_teacher(student, 'sn://weights.pth', BACKBONE)
    with pytest.raises(CheckpointError, match='does not exist'):
        make_teacher(student, str(tmp_path / 'none.pth'), BACKBONE)
    other = saved(resnet(norm_cfg=NORMS['GN']), tmp_path / 'gn.pth')
    with pytest.raises(CheckpointError, match='no batch norm'):
        make_teacher(student, other, BACKBONE)
    source = saved(network, tmp_path / 'bn.pth')
    with pytest.raises(CheckpointError, match='none of the norm layers'):
        make_teacher(resnet(), source, BACKBONE)
    wide = ResNet(depth=18, base_channels=16, norm_cfg=dict(type='SN'))
    with pytest.raises(CheckpointError):
        make_teacher(wide, source, BACKBONE)
