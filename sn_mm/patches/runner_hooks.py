# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Every Runner of mmengine's has the hooks that look at norm layers.

All versions. What is wrong with a model that was built from a config and
filled with weights shows nowhere else, what is missing from a config cannot
warn of itself, and layers do not know of epochs. The hooks do nothing where
there is nothing to say.
"""

from __future__ import annotations

import functools
from typing import Any

from mmengine.runner import Runner

from sn_mm.hooks.radius_hook import RadiusWatch
from sn_mm.hooks.start_watch import StartWatch


def watch_runners() -> None:
    """Register :class:`.StartWatch` and :class:`.RadiusWatch` in Runners."""
    original = Runner.register_hooks
    if hasattr(original, 'watches_norms'):
        return

    @functools.wraps(original)
    def register_hooks(self: Runner, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        self.register_hook(StartWatch())
        self.register_hook(RadiusWatch())

    register_hooks.watches_norms = True
    Runner.register_hooks = register_hooks
