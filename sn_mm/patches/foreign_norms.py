# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Let mmengine's loading of state dicts tell of the weights of other norms.

mmengine (0.10.0 to 0.10.7 at least) logs keys that do not fit, hundreds in
one line, and goes on: half a network is loaded. ``load_state_dict`` is what
init_cfg, load_from, tests and the inferencers all come to. Training may start
from a half; what it would score in a test has no meaning, so a Runner that
validates or tests refuses.
"""

from __future__ import annotations

import functools
import sys

from mmengine.runner import Runner
from mmengine.runner import checkpoint as mmengine_checkpoint

from sn_mm.checkpoints.foreign import check_norms, other_norms_refused
from sn_mm.utils import unwrapped

_LOAD = 'load_state_dict'


def watch_loading() -> None:
    """Wrap mmengine's ``load_state_dict`` for models, once.

    The wrapper looks first and calls the original, arguments untouched.
    Modules that imported the function by name get it too.
    """
    original = getattr(mmengine_checkpoint, _LOAD)
    if hasattr(original, '_sn_mm_watched'):
        return

    @functools.wraps(original)
    def load(module, state_dict, *args, **kwargs):
        check_norms(unwrapped(module), state_dict)
        return original(module, state_dict, *args, **kwargs)

    load._sn_mm_watched = True
    for module in list(sys.modules.values()):
        if getattr(module, '__dict__', {}).get(_LOAD) is original:
            setattr(module, _LOAD, load)


def refuse_in_tests() -> None:
    """Let ``Runner.val`` and ``Runner.test`` load no half networks, once."""
    for name in ('val', 'test'):
        original = getattr(Runner, name)
        if not hasattr(original, '_sn_mm_strict'):
            setattr(Runner, name, _strict(original))


def _strict(run):
    @functools.wraps(run)
    def strictly(self: Runner) -> dict:
        with other_norms_refused():
            return run(self)

    strictly._sn_mm_strict = True
    return strictly
