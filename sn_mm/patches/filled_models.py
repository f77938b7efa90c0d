# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Let the checkpoints of ``sn://`` and ``bn2sn://`` fill models themselves.

mmengine (0.10.0 to 0.10.7 at least) reads a checkpoint first and then copies
it into the model with ``_load_checkpoint_to_model``, name by name; what does
not fit is a line in the log. A public SN checkpoint has to be fitted to the
model and checked against it, and mmengine has no hook there. Nor has it one
for what a transplanted start says of frozen layers, beside its tensors. And
where it strips prefixes ('module.') from the keys of a state dict, it leaves
them in the metadata, in which layers then do not find what they are checked
against.
"""

from __future__ import annotations

import functools
import re
import sys
from collections.abc import Iterable
from typing import Any

from mmengine.runner import checkpoint as mmengine_checkpoint

from sn_mm.anatomy import find_norms
from sn_mm.checkpoints import CheckpointError
from sn_mm.checkpoints.fill_bn import hold_frozen

_LOAD = '_load_checkpoint_to_model'
_PREFIXES = ((r'^module\.', ''),)  # mmengine's default


def fill_models() -> None:
    """Let mmengine's loading of our schemes into models be checked, once.

    The wrapper takes our own checkpoints aside and passes on all others; of
    those, frozen layers of a transplanted start stay the BN that they are
    there. Modules that imported the function by name get it too.
    """
    original = getattr(mmengine_checkpoint, _LOAD)
    if hasattr(original, '_sn_mm_fills'):
        return

    @functools.wraps(original)
    def load(model, checkpoint, strict=False, *args, **kwargs):
        own_fill = getattr(checkpoint, 'fill', None)
        if own_fill is None:
            _revise_metadata(checkpoint, *args, **kwargs)
            loaded = original(model, checkpoint, strict, *args, **kwargs)
            if 'transplant' in (checkpoint.get('meta') or ()):
                hold_frozen(model, set(find_norms(model)))
            return loaded
        report = own_fill(model)
        if strict and not report.complete:
            raise CheckpointError(report.summary())
        return checkpoint

    load._sn_mm_fills = True
    for module in list(sys.modules.values()):
        if getattr(module, '__dict__', {}).get(_LOAD) is original:
            setattr(module, _LOAD, load)


def _revise_metadata(
    checkpoint: Any,
    logger: Any = None,
    revise_keys: Iterable[tuple[str, str]] = _PREFIXES,
) -> None:
    """Enter a state dict's metadata under its revised names, too.

    Args:
        checkpoint, logger, revise_keys: mmengine's.
    """
    state = checkpoint.get('state_dict', checkpoint)
    metadata = getattr(state, '_metadata', None) or {}
    for name in list(metadata):
        new = f'{name}.'
        for pattern, replacement in revise_keys:
            new = re.sub(pattern, replacement, new)
        metadata.setdefault(new[:-1], metadata[name])
