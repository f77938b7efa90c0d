# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""ResNet's ``with_cp``: the forward of a block runs twice."""

import pytest
import torch

from tests.builders import (
    BN_CFG,
    outputs_and_grads,
    randomize_norms,
    resnet,
    switch_norms,
)
from tests.utils import assert_close

pytestmark = pytest.mark.filterwarnings('ignore')
SCOPES = pytest.mark.parametrize('scope', ['mmdet', 'mmseg'])


def trained(scope, **kwargs):
    """A backbone after one forward and backward, and its gradients."""
    model = resnet(scope, norm_eval=False, depth=50, **kwargs)
    if kwargs['norm_cfg'] is not BN_CFG:
        randomize_norms(model)
    model.double().train()
    x = torch.linspace(-1, 1, 2 * 3 * 40 * 56, dtype=torch.double).sin()
    return model, outputs_and_grads(model, x.view(2, 3, 40, 56))


@SCOPES
@pytest.mark.parametrize('norm', ['SN', 'SyncSN'])
def test_the_same_outputs_and_gradients(scope, norm):
    norm_cfg = dict(type=norm)
    _, want = trained(scope, norm_cfg=norm_cfg)
    model, got = trained(scope, norm_cfg=norm_cfg, with_cp=True)
    assert len(got) == 4 + 1 + len(list(model.parameters()))
    assert_close(got, want, 1e-10)


@SCOPES
def test_running_statistics_are_updated_as_often_as_bn_s(scope):
    sn, _ = trained(scope, norm_cfg=dict(type='SN'), with_cp=True)
    bn, _ = trained(scope, norm_cfg=BN_CFG, with_cp=True)
    counts = {}
    for name, layer in switch_norms(sn).items():
        place = bn.get_submodule(name.replace('sn', 'bn'))
        counts[name] = int(layer.num_batches_tracked)
        assert counts[name] == int(place.num_batches_tracked), name
    assert counts['sn1'] == 1 and counts['layer2.0.sn1'] == 2


@SCOPES
def test_the_second_update_is_the_first_again(scope):
    """Both passes see the same batch: no other statistics come in."""
    once, _ = trained(scope, norm_cfg=dict(type='SN'))
    twice, _ = trained(scope, norm_cfg=dict(type='SN'), with_cp=True)
    start = switch_norms(
        randomize_norms(resnet(scope, depth=50, norm_cfg=dict(type='SN')))
    )
    for name, layer in switch_norms(twice).items():
        calls = int(layer.num_batches_tracked)
        for key in ('running_mean', 'running_var'):
            first = getattr(start[name], key).double()
            batch = (
                first + (getattr(once.get_submodule(name), key) - first) / 0.1
            )
            want = batch + 0.9**calls * (first - batch)
            torch.testing.assert_close(
                getattr(layer, key), want, rtol=1e-9, atol=1e-9
            )
