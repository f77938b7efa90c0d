# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""mmengine's Runner watches the radius of sparse SN.

All versions. What is missing from a config cannot warn of itself, and the
layers do not know of epochs: every Runner therefore gets a hook that looks at
SSN layers, and does nothing where there are none.
"""

from __future__ import annotations

import functools
from typing import Any

from mmengine.runner import Runner

from sn_mm.hooks.radius_hook import RadiusWatch


def watch_radius() -> None:
    """Register :class:`.RadiusWatch` in every Runner."""
    original = Runner.register_hooks
    if hasattr(original, 'watches_radius'):
        return

    @functools.wraps(original)
    def register_hooks(self: Runner, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        self.register_hook(RadiusWatch())

    register_hooks.watches_radius = True
    Runner.register_hooks = register_hooks
