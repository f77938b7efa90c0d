# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Where the weights of every norm layer come from."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from sn_mm.anatomy.components import component_of
from sn_mm.anatomy.norms import find_norms, sets_ratios
from sn_mm.anatomy.starts import frozen_in_training, noted_start
from sn_mm.checkpoints.bn import EQUAL, Ratios, in_words, share_of_bn
from sn_mm.checkpoints.sources import parse
from sn_mm.utils.errors import CheckpointError

from .advice import Start
from .start_files import filled_norms


def starts_of_layers(
    model: nn.Module, starts: Sequence[Start]
) -> dict[str, str]:
    """What each norm layer starts from, in words.

    Layers that were filled know it. Of others the config tells: which weights
    fill their component, and with which ratios. A file that is here already
    is looked at: it may have nothing for them.

    Args:
        model: built from a config, filled or not.
        starts: the weights that the config names.

    Returns:
        By name; layers that no weights fill are left out.
    """
    frozen = frozen_in_training(model)
    filled = [filled_norms(model, start) for start in starts]
    found = {}
    for name, layer in find_norms(model).items():
        component = component_of(name, model)
        text = noted_start(layer) or next(
            (
                _planned(start.checkpoint, layer, layer in frozen)
                for start, names in zip(starts, filled)
                if start.component in (None, component)
                and (names is None or name in names)
            ),
            None,
        )
        if text:
            found[name] = text
    return found


def _planned(checkpoint: str, layer: nn.Module, frozen: bool) -> str:
    """A checkpoint that is not loaded, and the ratios that it will give."""
    if not sets_ratios(layer):
        return checkpoint
    try:
        source = parse(checkpoint)
        asked = share_of_bn(source.options.get('ratios', EQUAL))
    except CheckpointError:
        return checkpoint
    if not source.is_bn:
        return checkpoint
    share = Ratios.of(layer, frozen).share(asked)
    return f'{checkpoint}: {in_words(share)}'
