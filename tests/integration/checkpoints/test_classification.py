# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""ImageNet files in mmpretrain's and torchvision's networks."""

import importlib.util

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope

import sn_mm
from sn_mm import load_pretrained
from tests.public.networks import relative_error
from tests.public.released_configs import RELEASED


def importable(name):
    """mmpretrain and torchvision need a torch that they were built for."""
    if importlib.util.find_spec(name) is None:
        return False
    try:
        importlib.import_module(name)
    except (ImportError, RuntimeError, AssertionError):
        return False
    return True


CONFIGS = {
    'imagenet_resnetv1sn50': 'resnet50_sn',
    'imagenet_resnetv1sn50_nobn': 'resnet50_sn-nobn',
    'imagenet_resnetv1sn101': 'resnet101_sn',
    'imagenet_resnetv1ssn50': 'resnet50_ssn',
}


@pytest.mark.skipif(
    not importable('mmpretrain'), reason='mmpretrain cannot be imported'
)
@pytest.mark.parametrize('layout', CONFIGS)
@torch.no_grad()
def test_mmpretrain(released, image, layout):
    from mmpretrain.registry import MODELS
    from mmpretrain.utils import register_all_modules

    register_all_modules(init_default_scope=False)
    original, path = released(layout)
    config = Config.fromfile(RELEASED / f'{CONFIGS[layout]}_8xb32_in1k.py')
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = MODELS.build(config.model)
    model.eval()
    assert load_pretrained(model, f'sn://{path}').complete
    assert relative_error(model(image), original(image)) < 1e-4


@pytest.mark.skipif(
    not importable('torchvision'), reason='torchvision cannot be imported'
)
@torch.no_grad()
def test_torchvision(released, image):
    from torchvision.models import resnet50

    original, path = released('imagenet_resnetv1sn50')
    model = resnet50(norm_layer=lambda c: sn_mm.SN(c, unbiased=True)).eval()
    assert load_pretrained(model, f'sn://{path}').complete
    assert relative_error(model(image), original(image)) < 1e-4
