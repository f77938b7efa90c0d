# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Every Runner looks at its norm layers before it trains.

mmengine, all versions. What is wrong with a model that was built from a
config and filled with weights shows nowhere else: the Runner therefore gets a
hook, which does nothing where there is nothing to say.
"""

from __future__ import annotations

import functools
from typing import Any

from mmengine.runner import Runner

from sn_mm.hooks.start_watch import StartWatch


def watch_starts() -> None:
    """Register :class:`.StartWatch` in every Runner."""
    original = Runner.register_hooks
    if hasattr(original, 'watches_starts'):
        return

    @functools.wraps(original)
    def register_hooks(self: Runner, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        self.register_hook(StartWatch())

    register_hooks.watches_starts = True
    Runner.register_hooks = register_hooks
