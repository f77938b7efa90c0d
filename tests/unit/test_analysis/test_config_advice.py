# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""What print_norms says of configs that do not do what was meant."""

from __future__ import annotations

import copy

import pytest
import torch
from mmdet.engine.hooks import MeanTeacherHook
from mmdet.models.backbones import ResNet
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper

from sn_mm import SN
from sn_mm.analysis import advice, norm_table
from sn_mm.analysis.config_advice import advise_on_config
from sn_mm.anatomy.example import image_channels
from sn_mm.anatomy.untrained import moved_by
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


def test_a_norm_cfg_that_reaches_nothing(cfg):
    cfg.model = faster_rcnn_config(BN_CFG, norm_eval=True).model
    cfg.model.neck.norm_cfg = cfg.model.roi_head.bbox_head.norm_cfg = None
    assert said(cfg) == ''  # nothing of ours is asked for
    cfg.norm_cfg = dict(type='SN', requires_grad=True)
    text = said(cfg)
    assert 'the model no such layer' in text and 'ConvertNorm' in text
    cfg.model.backbone.norm_eval = False
    text = said(cfg)
    assert text.startswith('batch norms are left in') and '\n' not in text


def test_batch_norms_beside_ours_by_design(cfg):
    import sn_mm.models.bhn  # noqa: F401  (registers BHNResNet)

    cfg.model.backbone.update(type='BHNResNet', norm_cfg=BN_CFG)
    assert said(cfg) == ''
    cfg.model.neck.norm_cfg = BN_CFG
    text = said(cfg)
    assert 'BatchNorm2d in FPN' in text and 'in backbone' not in text


@MODELS.register_module()
class Deployable(ResNet):
    """A backbone that a config names, as mmpretrain's RepVGG is."""

    def switch_to_deploy(self):
        raise NotImplementedError


def test_blocks_that_read_batch_norms_when_they_are_deployed(cfg):
    cfg.model.backbone.type = 'Deployable'
    text = said(cfg)
    assert text.startswith("switch_to_deploy of 1 modules ('backbone', ...)")
    assert '\n' not in text
    cfg.model.backbone.norm_cfg = BN_CFG
    assert 'switch_to_deploy' not in said(cfg)


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


def test_norms_at_a_learning_rate_of_zero(cfg):
    cfg.optim_wrapper = dict(
        optimizer=dict(type='SGD', lr=0.1),
        paramwise_cfg=dict(custom_keys=dict(backbone=dict(lr_mult=0))),
    )
    model = build('mmdet', copy.deepcopy(cfg.model)).train()
    moved = moved_by(build_optim_wrapper(model, cfg.optim_wrapper), model)
    rows = norm_table.norm_rows(model, None)
    (text,) = advise_on_config(model, cfg, rows, 2, [], False, moved)
    assert 'cannot learn others: backbone.sn1, ' in text
    assert 'neck' not in text and 'lr_mult' in text


def test_mean_teachers():
    cfg = toolbox_config(
        'mmdet',
        'soft_teacher/soft-teacher_faster-rcnn_r50-caffe_fpn_180k_semi-0.1-'
        'coco.py',
    )
    cfg.custom_imports = dict(imports=['sn_mm'])
    cfg.load_from = None
    cfg.model.detector = faster_rcnn_config(SN_CFG, frozen_stages=-1).model
    # the teacher is frozen, and gets ratios, but no running statistics
    (text,) = said(cfg).splitlines()
    assert 'skip_buffer=False' in text
    (hook,) = cfg.custom_hooks
    hook.skip_buffer = False
    assert said(cfg) == ''
    hook.type = MeanTeacherHook  # as in a config of classes
    assert said(cfg) == ''
    cfg.model.detector.backbone.norm_cfg.requires_grad = False
    text = said(cfg)
    assert 'student.backbone.sn1' in text and 'teacher.' not in text


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


@pytest.mark.parametrize(
    'custom_keys',
    [
        dict(backbone=dict(lr_mult=0.1)),
        {'backbone.sn1': dict(lr_mult=0.1)},
        {'backbone.layer1.0.sn1.mean_weight': dict(lr_mult=1.0)},
    ],
)
def test_decayed_ratios(cfg, custom_keys):
    cfg.optim_wrapper = dict(
        type='OptimWrapper',
        optimizer=dict(type='SGD', lr=0.1, weight_decay=1e-4),
        paramwise_cfg=dict(norm_decay_mult=0.0, custom_keys=custom_keys),
    )
    paramwise = cfg.optim_wrapper.paramwise_cfg
    model = build('mmdet', copy.deepcopy(cfg.model)).train()

    def rates():
        wrapper = build_optim_wrapper(model, copy.deepcopy(cfg.optim_wrapper))
        names = {p: n for n, p in model.named_parameters()}
        return {
            names[p]: (g['lr'], g['weight_decay'])
            for g in wrapper.optimizer.param_groups
            for p in g['params']
            if names[p].endswith(('mean_weight', 'var_weight'))
        }

    def lines():
        now, parameters = rates(), dict(model.named_parameters())
        decay = {parameters[n]: wd for n, (_, wd) in now.items()}
        rows = norm_table.norm_rows(model, decay)
        return advise_on_config(model, cfg, rows, 2, [], trained=False)

    before = rates()
    assert any(decay for _, decay in before.values())
    (text,) = lines()
    assert 'weight decay reaches the ratios' in text
    # what the warning says to write mends it, and leaves the rates alone
    keys = eval(text.partition('custom_keys=')[2])
    paramwise['custom_keys'] = {**custom_keys, **keys}
    assert lines() == []
    assert {n: (lr, 0) for n, (lr, _) in before.items()} == rates()
    # norm_decay_mult alone, and no wish of that kind
    paramwise['custom_keys'] = {}
    assert lines() == []
    paramwise.pop('norm_decay_mult')
    assert lines() == []


def test_the_rest(cfg):
    assert '1 image per GPU' in said(cfg, images=1)
    cfg.custom_imports = None
    assert 'custom_imports has no sn_mm' in said(cfg)
    for own in ('mmdet.models', ['mmdet.models']):
        cfg.custom_imports = dict(imports=own)
        assert "dict(imports=['mmdet.models', 'sn_mm'])" in said(cfg)
    # a config of classes has imported it
    cfg.model.backbone.norm_cfg = dict(type=SN)
    assert said(cfg) == ''


def test_yolox_takes_images_of_three_channels():
    cfg = toolbox_config('mmdet', 'yolox/yolox_tiny_8xb8-300e_coco.py')
    cfg.model.data_preprocessor = None
    assert image_channels(build('mmdet', cfg.model)) == 3
