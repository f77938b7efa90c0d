# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""What tools/train.py and tools/test.py are made of.

From a config to a Runner, in both toolboxes: configs, checks of what a config
needs, and the switches of training and testing. Arguments are the tools' own
(tools/tool_arguments.py). Nothing here is imported by ``import sn_mm``.
"""

from .commands import command
from .configs import build_runner, load_config, register_toolbox
from .launch_error import LaunchError
from .model_weights import load_weights, put_weights
from .models import build_model
from .quiet import (
    hush_model_building,
    log_warnings_alone,
    without_packaging_warnings,
    without_prints,
)
from .run_inputs import check_checkpoint, check_starts
from .testing import draw_predictions, dump_predictions, enable_tta
from .training import enable_amp, enable_auto_scale_lr, resuming, set_resume

__all__ = [
    'LaunchError',
    'build_model',
    'build_runner',
    'check_checkpoint',
    'check_starts',
    'command',
    'draw_predictions',
    'dump_predictions',
    'enable_amp',
    'enable_auto_scale_lr',
    'enable_tta',
    'hush_model_building',
    'load_config',
    'load_weights',
    'log_warnings_alone',
    'put_weights',
    'register_toolbox',
    'resuming',
    'set_resume',
    'without_packaging_warnings',
    'without_prints',
]
