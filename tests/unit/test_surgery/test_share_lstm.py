# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""One LSTM for each part of a detector's neck and heads."""

from __future__ import annotations

import copy

import pytest
import torch
from mmcv.cnn import ConvModule
from mmengine.registry import MODELS, DefaultScope
from torch import nn

from sn_mm import convert_norm, share_lstm
from sn_mm.analysis.norm_table import norm_rows
from sn_mm.functional.reference import hyper_norm_reference
from sn_mm.layers import BHN
from sn_mm.layers.hyper import LSTM
from sn_mm.surgery.share_lstm import part_of
from tests.builders import (
    build,
    faster_rcnn_config,
    retinanet_config,
    segmentor_config,
)
from tests.utils import relative_error

BHN_CFG = dict(type='BHN', requires_grad=True)
BN_CFG = dict(type='BN', requires_grad=True)


def chains(model: nn.Module) -> dict[str, int]:
    """How many norms share the LSTM of each that leads others."""
    found = {}
    for module in model.modules():
        if isinstance(module, BHN) and module.chain is not None:
            found[module.chain.names[0]] = len(module.chain.names)
    return found


def detector(config=faster_rcnn_config) -> nn.Module:
    cfg = config(BHN_CFG).model
    cfg.backbone.norm_cfg = BN_CFG
    return build('mmdet', cfg)


def test_parts_of_a_two_stage_detector():
    model = share_lstm(detector())
    assert chains(model) == {
        'neck.lateral_convs.0.bn': 4,
        'neck.fpn_convs.0.bn': 4,
        'roi_head.bbox_head.shared_convs.0.bn': 4,
    }
    names = [n for n, _ in model.named_parameters() if 'weight_ih_0' in n]
    assert names == [f'{lead}.weight_ih_0' for lead in chains(model)]


def test_a_head_that_serves_all_levels():
    model = share_lstm(detector(retinanet_config), components='box_head')
    assert chains(model) == {
        'bbox_head.cls_convs.0.bn': 2,
        'bbox_head.reg_convs.0.bn': 2,
    }
    levels = [torch.randn(2, 16, s, s) for s in (16, 8, 4, 2, 1)]
    model.bbox_head(levels)
    got = model.bbox_head(levels)
    alone = copy.deepcopy(model.bbox_head)([levels[2]] * 1)
    torch.testing.assert_close(got[0][2], alone[0][0])


def test_parts_of_a_segmentor():
    """mmseg's PSP modules are lists in a list."""
    cfg = segmentor_config('pspnet', BHN_CFG).model
    cfg.backbone.norm_cfg = BN_CFG
    model = share_lstm(build('mmseg', cfg))
    assert chains(model) == {'decode_head.psp_modules.0.1.bn': 4}
    model.eval()
    assert model(torch.randn(2, 3, 64, 64)).isfinite().all()


def test_by_config():
    cfg = faster_rcnn_config(BHN_CFG).model
    cfg.backbone.norm_cfg = BN_CFG
    cfg.update(type='ShareLSTM', of=cfg.type, components=['neck'])
    with DefaultScope.overwrite_default_scope('mmdet'):
        model = MODELS.build(cfg)
    assert set(chains(model)) == {
        'neck.lateral_convs.0.bn',
        'neck.fpn_convs.0.bn',
    }
    assert type(model).__name__ == 'FasterRCNN'


@pytest.mark.parametrize('place', range(3))
def test_a_chain_goes_on_without_a_converted_layer(place):
    head = nn.Module()
    head.convs = nn.Sequential(
        *(ConvModule(8, 8, 1, norm_cfg=BHN_CFG) for _ in range(3))
    )
    share_lstm(head)
    lstm = head.convs[0].bn.lstm()
    convert_norm(head, 'BN', include=f'convs.{place}.bn')
    left = [conv.bn for i, conv in enumerate(head.convs) if i != place]
    assert [norm.lead() for norm in left] == [left[0]] * 2
    assert {id(p) for p in lstm} <= {id(p) for p in head.parameters()}
    x = torch.randn(2, 8, 5, 4)
    want, state = x, None
    for conv in copy.deepcopy(head.convs):
        want = conv.conv(want)
        if isinstance(conv.bn, BHN):
            weights = dict(zip(LSTM, lstm))
            want, *state = hyper_norm_reference(want, weights, state=state)
        else:
            want = conv.bn(want)
        want = want.relu()
    assert relative_error(head.convs(x), want) < 1e-5


def test_widths_apart():
    """Only norms of one width share."""
    model = nn.Module()
    widths = (8, 8, 16, 16, 8)
    model.convs = nn.ModuleList(
        ConvModule(4, w, 1, norm_cfg=BHN_CFG) for w in widths
    )
    share_lstm(model)
    assert chains(model) == {'convs.0.bn': 3, 'convs.2.bn': 2}


def test_innermost_list():
    head = nn.Module()
    head.convs = nn.ModuleList(
        nn.ModuleList(ConvModule(4, 4, 1, norm_cfg=BHN_CFG) for _ in '12')
        for _ in '123'
    )
    model = nn.Module()
    model.heads = nn.ModuleList([head, copy.deepcopy(head)])
    model.single = ConvModule(4, 4, 1, norm_cfg=BHN_CFG)
    assert part_of('heads.1.convs.2.0.bn', model) == 'heads.1.convs'
    assert part_of('single.bn', model) is None


def test_errors_name_the_fix():
    model = detector()
    with pytest.raises(ValueError, match="component 'mask_head' has no"):
        share_lstm(model, components='mask_head')
    with pytest.raises(ValueError, match='no BHN layer.*BHNResNet'):
        share_lstm(detector(), exclude=['neck', 'roi_head'])
    assert not chains(model)
    share_lstm(model, components='neck')
    with pytest.raises(ValueError, match='already: call share_lstm once'):
        share_lstm(model)
    assert set(chains(model)) == {
        'neck.lateral_convs.0.bn',
        'neck.fpn_convs.0.bn',
    }
    model = nn.Module()
    model.convs = nn.Sequential(BHN(8), BHN(8, reduction=2))
    with pytest.raises(ValueError, match='convs differ in reduction'):
        share_lstm(model)


def test_table_shows_what_trains():
    """Layers that share are no more frozen than the one that they follow."""
    model = share_lstm(detector())
    model.roi_head.requires_grad_(False)
    rows = {r.name: r for r in norm_rows(model) if r.kind == 'BHN'}
    assert rows['neck.lateral_convs.3.bn'].trainable == 'yes'
    name = 'roi_head.bbox_head.shared_convs.3.bn'
    assert rows[name].trainable == 'no'
