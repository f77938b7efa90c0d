# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Every released layout, key for key."""

import pytest
import torch

from sn_mm.checkpoints.layouts import recognize
from sn_mm.utils.errors import CheckpointError
from tests.public import oracle
from tests.public.networks import BUILDERS, public_layouts


def empty(layout):
    return {
        k: torch.empty(s, device='meta')
        for k, s in public_layouts()[layout]['shapes'].items()
    }


@pytest.mark.parametrize('layout', sorted(BUILDERS))
def test_every_key_shape_and_place_in_the_file_is_known(layout):
    state = empty(layout)
    found = recognize(state)
    assert [(e.public, e.shape) for e in found.entries] == [
        (k, tuple(v.shape)) for k, v in state.items()
    ]
    assert len({e.target for e in found.entries}) == len(found.entries)


@pytest.mark.parametrize('layout', sorted(BUILDERS))
def test_the_oracle_has_the_files_keys(layout):
    with torch.device('meta'):
        model = BUILDERS[layout]()
    wanted = {
        k[7:] if k.startswith('module.') else k: tuple(s)
        for k, s in public_layouts()[layout]['shapes'].items()
    }
    assert {k: tuple(v.shape) for k, v in model.state_dict().items()} == wanted


@pytest.mark.parametrize('depth', [18, 34, 152])
def test_other_depths_follow_the_same_rule(depth):
    with torch.device('meta'):
        model = oracle.ResNet(depth)
    found = recognize(model.state_dict())
    assert found.params['depth'] == depth
    assert {e.public: e.shape for e in found.entries} == {
        k: tuple(v.shape) for k, v in model.state_dict().items()
    }


def test_converted_backbone_without_fpn_prefix():
    with torch.device('meta'):
        model = oracle.Converted(oracle.SwitchNorm, fpn=False)
    found = recognize(model.state_dict())
    assert found.kind == 'detectron-backbone' and not found.params['fpn']
    assert {e.public for e in found.entries} == set(model.state_dict())


def test_preactivation_is_refused():
    with pytest.raises(CheckpointError, match='pre-activation ResNet v2'):
        recognize(empty('imagenet_resnetv2sn50'))


@pytest.mark.parametrize(
    'keys, message',
    [
        (['conv1.weight', 'bn1.weight', 'layer1.0.conv1.weight'], 'bn2sn://'),
        (['backbone.sn1.mean_weight'], "OpenMMLab's already"),
        (['a.weight'], 'no public SN layout'),
    ],
)
def test_other_files_are_refused(keys, message):
    with pytest.raises(CheckpointError, match=message):
        recognize({k: torch.zeros(1) for k in keys})


def test_unknown_depth():
    state = empty('imagenet_resnetv1sn50')
    state = {k: v for k, v in state.items() if 'layer3.5' not in k}
    with pytest.raises(CheckpointError, match=r'\(3, 4, 5, 3\).*no ResNet'):
        recognize(state)
