# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""What print_norms says of configs that do not do what was meant."""

from __future__ import annotations

import copy

import pytest
import torch
from mmengine.config import Config

from sn_mm.analysis import advice, norm_table
from sn_mm.analysis.config_advice import advise_on_config
from sn_mm.anatomy.example import image_channels
from tests.builders import (
    BN_CFG,
    SN_CFG,
    build,
    faster_rcnn_config,
    toolbox_config,
)


def said(cfg: Config, images: int | None = 2, decay=None) -> str:
    model = build('mmdet', copy.deepcopy(cfg.model)).train()
    rows = norm_table.norm_rows(model, decay)
    return '\n'.join(
        advise_on_config(
            model, cfg, rows, images, advice.starts_of(cfg), trained=False
        )
    )


@pytest.fixture
def cfg():
    made = faster_rcnn_config(SN_CFG, frozen_stages=-1)
    made.custom_imports = dict(imports=['sn_mm'])
    return made


def test_nothing_to_say(cfg):
    assert said(cfg) == ''


def test_batch_norms_left_in(cfg):
    cfg.model.neck.norm_cfg = BN_CFG
    assert 'BatchNorm2d in FPN' in said(cfg)


def test_batch_norms_beside_ours_by_design(cfg):
    import sn_mm.models.bhn  # noqa: F401  (registers BHNResNet)

    cfg.model.backbone.update(type='BHNResNet', norm_cfg=BN_CFG)
    assert said(cfg) == ''
    cfg.model.neck.norm_cfg = BN_CFG
    text = said(cfg)
    assert 'BatchNorm2d in FPN' in text and 'in backbone' not in text


def test_a_head_without_a_place(cfg):
    cfg.model.roi_head.bbox_head.update(type='Shared2FCBBoxHead')
    assert 'model.roi_head.bbox_head is given' in said(cfg)


def test_frozen_norms(cfg):
    cfg.model.backbone.norm_cfg = dict(type='SN', requires_grad=False)
    text = said(cfg)
    assert 'cannot learn others: backbone.sn1, ' in text
    cfg.model.backbone.init_cfg = dict(
        type='Pretrained', checkpoint='sn://not-read.pth'
    )
    starts = advice.starts_of(cfg)
    assert starts[0].component == 'backbone'


@pytest.mark.parametrize('whole', [False, True])
def test_a_file_of_batch_norms_to_start_from(cfg, tmp_path, whole):
    bn = faster_rcnn_config(BN_CFG).model
    state = build('mmdet', bn).state_dict()
    if not whole:
        state = {
            key.partition('.')[2]: value
            for key, value in state.items()
            if key.startswith('backbone.')
        }
    path = str(tmp_path / 'start.pth')
    torch.save(dict(state_dict=state), path)
    cfg.load_from = path if whole else None
    model = build('mmdet', copy.deepcopy(cfg.model))
    if not whole:
        init_cfg = dict(type='Pretrained', checkpoint=path)
        cfg.model.backbone.init_cfg = init_cfg
    rows = norm_table.norm_rows(model, None)

    def lines():
        starts = advice.starts_of(cfg)
        return advise_on_config(model, cfg, rows, 2, starts, trained=False)

    (text,) = lines()
    assert path in text and 'bn2sn://' in text
    torch.save(dict(state_dict=model.state_dict()), tmp_path / 'start.pth')
    if whole:
        assert not lines()


def test_the_rest(cfg):
    assert '1 image per GPU' in said(cfg, images=1)
    cfg.custom_imports = None
    assert 'custom_imports has no sn_mm' in said(cfg)


def test_yolox_takes_images_of_three_channels():
    cfg = toolbox_config('mmdet', 'yolox/yolox_tiny_8xb8-300e_coco.py')
    cfg.model.data_preprocessor = None
    assert image_channels(build('mmdet', cfg.model)) == 3
