# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
from mmengine.config import config, utils

from sn_mm.patches import metafiles


def test_what_mmengine_reads_of_packages_is_kept(monkeypatch, tmp_path):
    read = []
    monkeypatch.setattr(utils, 'load', lambda p: read.append(p) or {'a': 1})
    monkeypatch.setattr(config, 'is_installed', lambda p: read.append(p))
    monkeypatch.setattr(config, 'get_installed_path', lambda p: p + '/here')
    metafiles.read_once()
    for _ in range(2):
        assert utils.load('model-index.yml') == {'a': 1}
        config.is_installed('mmdet')
        assert config.get_installed_path('mmdet') == 'mmdet/here'
    assert read == ['model-index.yml', 'mmdet']
    kept = utils.load
    metafiles.read_once()
    assert utils.load is kept
