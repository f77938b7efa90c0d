# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Reading many configs in little time.

For every base that is another package's, mmengine reads all metafiles of that
package anew, which takes ten times as long as reading the config.
"""

from __future__ import annotations

import functools

from mmengine.config import utils


def read_once() -> None:
    """Let mmengine keep what it has read of metafiles; they do not change."""
    if not hasattr(utils.load, 'cache_info'):
        utils.load = functools.cache(utils.load)
