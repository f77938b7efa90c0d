# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
import pytest
import torch
from torch import nn

import sn_mm
from sn_mm.checkpoints import CheckpointError
from sn_mm.teaching import Agreement, Transplant
from sn_mm.teaching.start import size_of, start_content
from sn_mm.teaching.teacher import begin, make_teacher

from .test_teacher import BACKBONE, lively, resnet, saved

DONE = Transplant(
    before=[Agreement('backbone', 0.2, 1.5)],
    after=[Agreement('backbone', 0.9, 0.2)],
    steps=40,
    best=30,
)


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Conv2d(3, 2, 1)
        self.neck = nn.Conv2d(2, 2, 1)
        self.head = nn.Conv2d(2, 1, 1)


def test_keys_are_those_that_the_part_is_loaded_with():
    model = Model()
    keys = {}
    for parts in (
        ('backbone',),
        ('backbone', 'neck'),
        ('backbone', 'neck', 'heads'),
    ):
        content = start_content(model, parts, DONE, dict(teacher='bn.pth'))
        keys[len(parts)] = set(content['state_dict'])
    assert keys[1] == {'weight', 'bias'}
    assert keys[2] == {
        'backbone.weight',
        'backbone.bias',
        'neck.weight',
        'neck.bias',
    }
    assert keys[3] == set(model.state_dict())


def test_the_file_is_text_numbers_and_tensors(tmp_path):
    about = dict(teacher='bn.pth', pictures=12)
    meta = dict(classes=['a'])
    for parts, kept in (
        (('backbone',), False),
        (('backbone', 'neck', 'heads'), True),
    ):
        content = start_content(Model(), parts, DONE, about, meta)
        torch.save(content, tmp_path / 'start.pth')
        read = torch.load(tmp_path / 'start.pth', weights_only=True)
        noted = read['meta']['transplant']
        assert noted['teacher'] == 'bn.pth' and noted['pictures'] == 12
        assert noted['steps'] == 40 and noted['best_step'] == 30
        assert noted['after'] == [['backbone', 0.9, 0.2]]
        assert noted['versions']['torch'] == str(torch.__version__)
        assert ('dataset_meta' in read['meta']) is kept
    values = content['state_dict'].values()
    assert size_of(content) == 4 * sum(v.numel() for v in values)


@pytest.mark.parametrize('parts', [('backbone',), ('backbone', 'neck')])
def test_settings_come_along(parts, tmp_path):
    """Other statistics under the same tensors are another function."""
    model, other = Model(), Model()
    model.backbone = sn_mm.SN(3)
    other.backbone = sn_mm.SN(3, statistics=('bn', 'ln', 'in'))
    path = tmp_path / 'start.pth'
    torch.save(start_content(model, parts, DONE, {}), path)
    state = torch.load(path, weights_only=True)['state_dict']
    for network in (model, other):
        target = network if len(parts) > 1 else network.backbone
        if network is model:
            target.load_state_dict(state, strict=len(parts) == 1)
        else:
            with pytest.raises(CheckpointError, match='statistics'):
                target.load_state_dict(state, strict=False)


@pytest.mark.parametrize(
    'frozen',
    [dict(frozen_stages=1), dict(frozen_stages=-1)],
    ids=['stages', 'norms'],
)
@torch.no_grad()
def test_frozen_layers_stay_the_bn_that_they_were(frozen, tmp_path):
    """In training too: no batch of theirs changes what the rest is given."""
    network = lively(resnet())
    source = saved(network, tmp_path / 'bn.pth')
    norm = dict(type='SN', requires_grad=frozen['frozen_stages'] > 0)
    options = dict(frozen, norm_cfg=norm)
    student = resnet(**options)
    begin(student, make_teacher(student, source, BACKBONE), BACKBONE)
    path = tmp_path / 'start.pth'
    torch.save(start_content(student, BACKBONE, DONE, {}), path)
    init = dict(type='Pretrained', checkpoint=str(path))
    model = resnet(init_cfg=init, **options)
    model.init_weights()
    model.train()
    outputs = []
    for each in (model, network):
        each.layer1.register_forward_hook(
            lambda *a: outputs.append(a[2].clone())
        )
        each(torch.randn(2, 3, 64, 64, generator=torch.manual_seed(0)))
    torch.testing.assert_close(*outputs, rtol=1e-4, atol=1e-4)
    assert model.layer4[0].norm1.bn_eval is not norm['requires_grad']


@torch.no_grad()
def test_layers_frozen_later_keep_what_they_were_taught(tmp_path):
    network = lively(resnet())
    source = saved(network, tmp_path / 'bn.pth')
    student = resnet(norm_cfg=dict(type='SN'), frozen_stages=-1)
    begin(student, make_teacher(student, source, BACKBONE), BACKBONE)
    path = tmp_path / 'start.pth'
    torch.save(start_content(student, BACKBONE, DONE, {}), path)
    init = dict(type='Pretrained', checkpoint=str(path))
    model = resnet(norm_cfg=dict(type='SN'), frozen_stages=4, init_cfg=init)
    model.init_weights()
    norm = model.layer4[0].norm1
    assert norm.ratios()['var'].tolist() == pytest.approx([1 / 3] * 3)
    assert not norm.bn_eval
