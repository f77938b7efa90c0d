# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Switchable Normalization for OpenMMLab: importing registers everything."""

import importlib
import os
import sys

from .version import __version__

__all__ = [
    'RowNorm',
    'SN',
    'SN1d',
    'SN2d',
    'SN3d',
    'SSN',
    'SyncSN',
    'SyncSSN',
    '__version__',
    'backends',
    'convert_norm',
    'find_norms',
    'fold',
    'fuse_relu',
    'gamma_decay',
    'harden',
    'load_pretrained',
    'normalize_weights',
    'share_lstm',
    'transplant',
    'update_batch_average',
]

# What training needs none of is loaded when it is first asked for: mmcv takes
# longer to import than all of sn_mm. By name, the package that has it.
_LATER = {
    'convert_norm': 'surgery',
    'fold': 'surgery',
    'fuse_relu': 'surgery',
    'harden': 'surgery',
    'normalize_weights': 'surgery',
    'share_lstm': 'surgery',
    'transplant': 'teaching',
}


def __getattr__(name: str):
    if name in _LATER:
        package = importlib.import_module(f'{__name__}.{_LATER[name]}')
        return getattr(package, name)
    if name in _LATER.values():
        return importlib.import_module(f'{__name__}.{name}')
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


def _is_the_doctor() -> bool:
    """Whether this program is the doctor, whose modules are imported alone.

    It has something to say where what is imported below fails.
    """
    program = os.path.basename((getattr(sys, 'argv', None) or [''])[0])
    if program == '-m':  # while Python looks for the module that it is to run
        words = getattr(sys, 'orig_argv', ['sn_mm.doctor'])  # Python 3.9
        return 'sn_mm.doctor' in words
    return os.path.splitext(program)[0] == 'sn-mm-doctor'


if not _is_the_doctor():
    from . import (  # noqa: F401
        converted_model,
        datasets,
        hooks,
        patches,
        visualization,
    )
    from .anatomy import find_norms
    from .checkpoints import load_pretrained
    from .kernels import backends
    from .layers import SSN, RowNorm, SN1d, SN2d, SN3d, SyncSN, SyncSSN
    from .recalibrate import gamma_decay, update_batch_average

    SN = SN2d

    patches.apply()
