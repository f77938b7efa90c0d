# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""The other places where a toolbox asks what kind of norm a layer is."""

import copy

import pytest
import torch
from mmcv.cnn import ConvModule
from mmdet.engine.hooks.sync_norm_hook import get_norm_states
from mmengine.model import ConstantInit
from mmengine.utils.dl_utils import has_batch_norm
from torch import nn

from sn_mm import SN, SyncSN
from tests.builders import resnet, switch_norms


def test_conv_module_warns_of_a_superfluous_bias():
    with pytest.warns(UserWarning, match='Unnecessary conv bias'):
        ConvModule(3, 4, 1, bias=True, norm_cfg=dict(type='SN'))


def test_accumulating_gradients_warns_of_batch_norms_only():
    assert not has_batch_norm(resnet())
    assert has_batch_norm(resnet(norm_cfg=dict(type='BN')))


@pytest.mark.parametrize('cls', [SN, SyncSN])
def test_init_cfg_reaches_sn_by_its_own_name(cls):
    layer = cls(4)
    for name in ('_BatchNorm', 'GroupNorm', 'BatchNorm2d'):
        ConstantInit(val=0.5, bias=0.25, layer=name)(nn.Sequential(layer))
        assert (layer.weight == 1).all() and not layer.bias.any()
    ConstantInit(val=0.5, bias=0.25, layer='SN2d')(nn.Sequential(layer))
    assert (layer.weight == 0.5).all() and (layer.bias == 0.25).all()
    assert (layer.mean_weight == 1).all() and (layer.var_weight == 1).all()


def test_sync_norm_hook_averages_sn():
    """mmdet's hook for YOLOX: state over all processes, then load_state."""
    model = resnet()
    states = get_norm_states(model)
    layers = switch_norms(model)
    assert len(states) == 7 * len(layers)
    doubled = {n: 2 * v for n, v in copy.deepcopy(states).items()}
    model.load_state_dict(doubled, strict=False)
    for name, layer in layers.items():
        assert (layer.running_var == 2).all(), name
        assert (layer.mean_weight == 2).all(), name


def test_a_layer_moves_with_its_model():
    model = nn.Sequential(SN(4)).double()
    assert {t.dtype for t in model.state_dict().values()} == {
        torch.float64,
        torch.long,
    }
    model.to('meta')
    assert model[0].running_mean.is_meta and model[0].mean_weight.is_meta
