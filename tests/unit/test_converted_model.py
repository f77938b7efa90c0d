# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""ConvertNorm, convert_norm in a config."""

from __future__ import annotations

import torch
from mmdet.apis import init_detector
from torch import nn

from sn_mm import SN2d, convert_norm
from tests.builders import BN_CFG, build, faster_rcnn_config


def test_config_and_function_give_one_model(tmp_path):
    cfg = faster_rcnn_config(BN_CFG)
    want = convert_norm(build('mmdet', cfg.model), 'SN').eval()
    path = tmp_path / 'converted.pth'
    torch.save(dict(state_dict=want.state_dict(), meta={}), path)
    cfg.model.update(
        type='ConvertNorm', of='FasterRCNN', norm_cfg=dict(type='SN')
    )
    got = init_detector(cfg, str(path), device='cpu', palette='random')
    assert type(got) is type(want)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in got.modules())
    assert any(isinstance(m, SN2d) for m in got.modules())
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        pairs = zip(got.extract_feat(x), want.extract_feat(x))
        assert all(torch.equal(a, b) for a, b in pairs)
