# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
import pytest
import torch
from mmengine.config import Config

from sn_mm import SN2d, cli

BACKBONE = dict(
    type='ResNet',
    depth=18,
    base_channels=8,
    stem_channels=8,
    norm_cfg=dict(type='SN'),
)


@pytest.mark.parametrize('scope', ['mmdet', 'mmseg'])
def test_a_configs_model_is_its_toolboxes(scope, tmp_path):
    start = dict(type='Pretrained', checkpoint=str(tmp_path / 'none.pth'))
    cfg = Config(
        dict(default_scope=scope, model=dict(BACKBONE, init_cfg=start))
    )
    model = cli.build_model(cfg)  # which loads no weights
    assert type(model).__module__.startswith(scope)
    assert isinstance(model.sn1, SN2d)
    with torch.no_grad():
        assert len(model(torch.randn(1, 3, 32, 32))) == 4


def test_a_toolbox_that_is_not_there():
    cfg = Config(dict(default_scope='mmnone', model=BACKBONE))
    with pytest.raises(cli.LaunchError, match="default_scope='mmnone'"):
        cli.build_model(cfg)
