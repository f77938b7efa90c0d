# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
import pytest
from mmengine.config import Config

import sn_mm  # noqa: F401  (lets mmengine find the configs)
from sn_mm.patches import read_own_configs
from tests.paths import CONFIGS

NAME = 'demo/faster-rcnn_r18_fpn_sn-all_demo.py'


def test_a_base_of_ours_is_the_same_config(tmp_path):
    path = tmp_path / 'config.py'
    path.write_text(f"_base_ = 'sn_mm::{NAME}'\nmodel = dict(neck=None)\n")
    got, want = Config.fromfile(path), Config.fromfile(CONFIGS / NAME)
    want.model.neck = None
    assert got.to_dict() == want.to_dict()


def test_a_base_that_is_not_there_is_named(tmp_path):
    path = tmp_path / 'config.py'
    path.write_text("_base_ = 'sn_mm::demo/none.py'")
    with pytest.raises(FileNotFoundError, match=r'sn_mm::demo/none\.py'):
        Config.fromfile(path)


def test_other_packages_are_mmengines_matter(tmp_path):
    before = Config._get_cfg_path
    read_own_configs()
    assert Config._get_cfg_path is before
    path = tmp_path / 'config.py'
    name = 'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py'
    path.write_text(f'_base_ = {name!r}')
    assert Config.fromfile(path).model.type == 'RetinaNet'
