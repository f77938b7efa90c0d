# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Reading many configs in little time.

For every base that is another package's, mmengine 0.10 reads all metafiles of
that package and searches all installed packages anew, which takes ten times as
long as reading the config.
"""

from __future__ import annotations

import functools

from mmengine.config import config, utils


def read_once() -> None:
    """Let mmengine keep what it has read of packages; they do not change."""
    for module, name in (
        (utils, 'load'),
        (config, 'is_installed'),
        (config, 'get_installed_path'),
    ):
        function = getattr(module, name)
        if not hasattr(function, 'cache_info'):
            setattr(module, name, functools.cache(function))
