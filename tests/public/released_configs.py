# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Models of the shipped configs, each built as the toolboxes build it."""

from mmengine.config import Config
from mmengine.registry import DefaultScope

from tests.paths import CONFIGS

RELEASED = CONFIGS / 'released'


def build(name: str, **changes):
    """(config, model in eval mode) of configs/released/NAME.py."""
    config = Config.fromfile(RELEASED / f'{name}.py')
    config.merge_from_dict(changes)
    with DefaultScope.overwrite_default_scope(config.default_scope):
        if config.default_scope == 'mmseg':
            from mmseg.registry import MODELS
            from mmseg.utils import register_all_modules
        else:
            from mmdet.registry import MODELS
            from mmdet.utils import register_all_modules
        register_all_modules(init_default_scope=False)
        model = MODELS.build(config.model)
    model.eval()
    return config, model
