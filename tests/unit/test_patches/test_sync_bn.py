# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""SN under ``sync_bn``: never converted, never reverted, and told about."""

import sys

import mmengine.model
import mmengine.model.utils
import mmengine.runner.runner
import pytest
import torch
from torch import nn

from sn_mm import SN, SyncSN, convert_norm
from sn_mm.patches import sync_bn, watch_sync_bn
from tests.builders import (
    BN_CFG,
    build,
    randomize_norms,
    resnet,
    switch_norms,
    toolbox_config,
)

CONVERSIONS = {
    'torch': nn.SyncBatchNorm.convert_sync_batchnorm,
    'mmengine torch': mmengine.model.convert_sync_batchnorm,
    'mmengine mmcv': lambda m: mmengine.model.convert_sync_batchnorm(
        m, 'mmcv'
    ),
    'revert': mmengine.model.revert_sync_batchnorm,
}


@pytest.fixture
def messages(monkeypatch):
    """What was logged, instead of logging it."""
    texts = []
    monkeypatch.setattr(
        sync_bn, 'print_log', lambda text, **kwargs: texts.append(text)
    )
    return texts


@pytest.mark.parametrize('conversion', CONVERSIONS)
@pytest.mark.parametrize('norm', ['SN', 'SyncSN'])
def test_conversions_leave_sn_alone(conversion, norm):
    model = randomize_norms(resnet(norm_cfg=dict(type=norm)))
    model.eval()
    x = torch.randn(1, 3, 40, 56)
    before, want = switch_norms(model), model(x)
    converted = CONVERSIONS[conversion](model)
    after = switch_norms(converted)
    assert list(after) == list(before)
    assert all(after[name] is before[name] for name in before)
    for got, y in zip(converted(x), want):
        assert torch.equal(got, y)


def test_the_wrapped_conversions_still_convert_batch_norms():
    for name in ('torch', 'mmengine torch'):
        model = CONVERSIONS[name](resnet(norm_cfg=BN_CFG))
        kinds = {type(m) for m in model.modules()}
        assert nn.SyncBatchNorm in kinds and nn.BatchNorm2d not in kinds
    group = object()
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(
        nn.BatchNorm2d(2), process_group=group
    )
    assert converted.process_group is group
    with pytest.raises(ValueError, match='sync_bn should be'):
        mmengine.model.convert_sync_batchnorm(nn.BatchNorm2d(2), 'other')


@pytest.mark.parametrize('conversion', list(CONVERSIONS)[:3])
def test_one_message_names_the_count_and_the_fix(messages, conversion):
    model = resnet()
    CONVERSIONS[conversion](model)
    assert len(messages) == 1
    count = len(switch_norms(model))
    assert f'{count} SN layer(s) of ResNet' in messages[0]
    assert "'sn1'" in messages[0] and "type='SyncSN'" in messages[0]
    assert "sn_mm.convert_norm(model, 'SyncSN')" in messages[0]
    CONVERSIONS[conversion](model)
    mmengine.model.convert_sync_batchnorm(model)
    assert len(messages) == 1
    CONVERSIONS[conversion](nn.Sequential(SN(4), model))
    assert len(messages) == 2 and '1 SN layer(s)' in messages[1]


def test_reverting_says_nothing(messages):
    mmengine.model.revert_sync_batchnorm(resnet())
    assert not messages


@pytest.mark.parametrize(
    'layer',
    [
        SyncSN(4),
        SN(4, statistics=('in', 'ln')),
        SN(4, bn_eval=True),
        nn.BatchNorm2d(4),
    ],
    ids=['SyncSN', 'without BN', 'frozen BN', 'BN'],
)
def test_no_message_where_nothing_would_be_synchronized(messages, layer):
    mmengine.model.convert_sync_batchnorm(nn.Sequential(layer))
    assert not messages


def test_the_fix_in_the_message_fixes_it(messages):
    model = convert_norm(resnet(), 'SyncSN')
    mmengine.model.convert_sync_batchnorm(model)
    assert not messages


def test_rtmdet_converts_while_it_is_built(messages, monkeypatch):
    import mmdet.models.detectors.rtmdet as rtmdet

    monkeypatch.setattr(rtmdet, 'get_world_size', lambda: 2)
    cfg = toolbox_config('mmdet', 'rtmdet/rtmdet_tiny_8xb32-300e_coco.py')
    cfg = cfg.model
    cfg.backbone.init_cfg = None
    for part in (cfg.backbone, cfg.neck, cfg.bbox_head):
        part.norm_cfg = dict(type='SN')
    model = build('mmdet', cfg)
    assert len(messages) == 1
    assert f'{len(switch_norms(model))} SN layer(s) of RTMDet' in messages[0]


def test_watching_is_idempotent_and_reaches_every_importer():
    function = mmengine.model.utils.convert_sync_batchnorm
    method = nn.SyncBatchNorm.convert_sync_batchnorm.__func__
    watch_sync_bn()
    assert mmengine.model.utils.convert_sync_batchnorm is function
    assert nn.SyncBatchNorm.convert_sync_batchnorm.__func__ is method
    original = function.__wrapped__
    assert not hasattr(original, '__wrapped__')
    assert mmengine.runner.runner.convert_sync_batchnorm is function
    for module in list(sys.modules.values()):
        held = getattr(module, '__dict__', {}).get('convert_sync_batchnorm')
        assert held is not original
