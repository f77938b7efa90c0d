# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""The file that a transplant ends in: an ordinary checkpoint."""

from __future__ import annotations

import platform
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import mmengine
import torch
from torch import nn

from sn_mm.version import __version__

from .outputs import taught_modules
from .transplant import Transplant


def start_content(
    student: nn.Module,
    parts: Sequence[str],
    done: Transplant,
    about: Mapping[str, Any],
    dataset_meta: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """What to save.

    Args:
        student: taught.
        parts: that were taught. Of the backbone alone, keys are the bare
            backbone's, for ``init_cfg``; of more, the whole model's.
        done: the account.
        about: teacher, number of pictures, and what else is to be noted.
        dataset_meta: the teacher's classes, which a whole model keeps.

    Returns:
        'state_dict', on the CPU, and 'meta', of text and numbers.
    """
    modules = taught_modules(student, parts)
    alone = len(modules) == 1
    state, settings = OrderedDict(), OrderedDict()
    for name, module in modules.items():
        front = '' if alone or not name else f'{name}.'
        own = module.state_dict()
        state.update((front + k, v.detach().cpu()) for k, v in own.items())
        settings.update(
            ((front + k).rstrip('.'), v) for k, v in own._metadata.items()
        )
    # where layers keep what their tensors do not say
    state._metadata = settings
    noted = dict(
        about,
        parts=list(parts),
        steps=done.steps,
        best_step=done.best,
        before=[list(a) for a in done.before],
        after=[list(a) for a in done.after],
        versions=dict(
            sn_mm=__version__,
            # of a class that loading without code refuses
            torch=str(torch.__version__),
            mmengine=mmengine.__version__,
            python=platform.python_version(),
        ),
    )
    kept = {}
    if 'heads' in parts and dataset_meta:
        kept['dataset_meta'] = dict(dataset_meta)
    return dict(meta=dict(kept, transplant=noted), state_dict=state)


def size_of(content: Mapping[str, Any]) -> int:
    """Bytes of the weights, about the size of the file."""
    return sum(
        v.numel() * v.element_size() for v in content['state_dict'].values()
    )
