# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
import torch

from sn_mm.models.detectron import DetectronResNet
from tests.utils import randomize


def test_first_stages_use_the_batch():
    model = DetectronResNet(
        18, base_channels=8, norm_cfg=dict(type='SN'), frozen_stages=1
    )
    norm = model.layer1[0].sn1
    randomize(norm)
    x = torch.randn(1, 8, 6, 6)
    before = norm.running_mean.clone()
    model.eval()
    in_test = norm(x)
    # with one image, BN's statistics are IN's: the ratios add up
    want = norm(x.repeat(2, 1, 1, 1))[:1]
    with torch.no_grad():
        for weight in (norm.mean_weight, norm.var_weight):
            weight[0] = weight[[0, 2]].logsumexp(0)
            weight[2] = float('-inf')
    assert torch.allclose(in_test, norm(x), atol=1e-5)
    assert torch.allclose(in_test, want, atol=1e-5)
    assert torch.equal(norm.running_mean, before)
    later = model.layer2[0].sn1
    assert later.track_running_stats and 'running_var' in later.state_dict()
