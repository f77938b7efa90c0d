# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Let the checkpoints of ``sn://`` and ``bn2sn://`` fill models themselves.

mmengine (0.10.0 to 0.10.7 at least) reads a checkpoint first and then copies
it into the model with ``_load_checkpoint_to_model``, name by name; what does
not fit is a line in the log. A public SN checkpoint has to be fitted to the
model and checked against it, and mmengine has no hook there.
"""

from __future__ import annotations

import functools
import sys

from mmengine.runner import checkpoint as mmengine_checkpoint

from sn_mm.checkpoints import CheckpointError

_LOAD = '_load_checkpoint_to_model'


def fill_models() -> None:
    """Let mmengine's loading of our schemes into models be checked, once.

    The wrapper takes our own checkpoints aside and passes on all others,
    untouched. Modules that imported the function by name get it too.
    """
    original = getattr(mmengine_checkpoint, _LOAD)
    if hasattr(original, '_sn_mm_fills'):
        return

    @functools.wraps(original)
    def load(model, checkpoint, strict=False, *args, **kwargs):
        own_fill = getattr(checkpoint, 'fill', None)
        if own_fill is None:
            return original(model, checkpoint, strict, *args, **kwargs)
        report = own_fill(model)
        if strict and not report.complete:
            raise CheckpointError(report.summary())
        return checkpoint

    load._sn_mm_fills = True
    for module in list(sys.modules.values()):
        if getattr(module, '__dict__', {}).get(_LOAD) is original:
            setattr(module, _LOAD, load)
