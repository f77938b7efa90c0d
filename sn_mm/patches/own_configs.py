# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""``_base_ = 'sn_mm::PATH'``: configs of sn_mm as bases of a user's own.

mmengine knows its own toolboxes by a table, and reads what comes from one in
that toolbox's scope; sn_mm's configs are of several toolboxes, each in its
``default_scope``. So a name of ours becomes the path of the file, wherever
the configs lie.
"""

from __future__ import annotations

import functools
from pathlib import Path

from mmengine.config import Config

_PREFIX = 'sn_mm::'
_PACKAGE = Path(__file__).resolve().parents[1]


def configs_folder() -> Path:
    """The configs: those of an installation, or of the repository."""
    installed = _PACKAGE / '.mim' / 'configs'
    return installed if installed.is_dir() else _PACKAGE.parent / 'configs'


def read_own_configs() -> None:
    """Let mmengine find ``sn_mm::`` configs; once."""
    find = Config._get_cfg_path
    if hasattr(find, '__wrapped__'):
        return

    @functools.wraps(find)
    def find_ours(cfg_path: str, filename: str):
        if not cfg_path.startswith(_PREFIX):
            return find(cfg_path, filename)
        path = configs_folder() / cfg_path[len(_PREFIX) :]
        if not path.is_file():
            raise FileNotFoundError(
                f'{cfg_path}, a base of {filename}: there is no {path}'
            )
        return str(path), None

    Config._get_cfg_path = staticmethod(find_ours)
