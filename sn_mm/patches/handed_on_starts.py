# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Let a network that hands its ``init_cfg`` on start from our schemes.

mmpretrain's RepVGG (1.0 to 1.2 at least) gives its own ``init_cfg`` to each of
its blocks. mmengine (0.10.0 to 0.10.7 at least) initializes children before
their parent, so that every block is asked to take the file of the whole
network; a plain file fits nothing there and is a line in the log, a file of
our schemes is refused. The parent then fills all of them anyway.
"""

from __future__ import annotations

import functools

from mmengine.model import BaseModule
from torch import nn

from sn_mm.checkpoints.sources import SCHEMES


def leave_starts_to_parents() -> None:
    """Take a parent's start of our schemes from its children's, once."""
    original = BaseModule.init_weights
    if hasattr(original, '_sn_mm_leaves'):
        return

    @functools.wraps(original)
    def init_weights(self) -> None:
        starts = [c for c in _configs(self) if _is_start(c)]
        if starts:
            for child in self.modules():
                if child is not self:
                    _leave(child, starts)
        return original(self)

    init_weights._sn_mm_leaves = True
    BaseModule.init_weights = init_weights


def _configs(module: nn.Module) -> list[dict]:
    """Of one module, which may have one, several or none."""
    own = getattr(module, 'init_cfg', None) or []
    return [own] if isinstance(own, dict) else list(own)


def _is_start(config: dict) -> bool:
    return str(config.get('checkpoint', '')).startswith(SCHEMES)


def _leave(child: nn.Module, starts: list[dict]) -> None:
    own = _configs(child)
    rest = [c for c in own if c not in starts]
    if len(rest) < len(own):
        child.init_cfg = rest
