# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Frozen norms: what takes their place has to compute what they did.

SN that is frozen with the ratios of a new layer computes something else for
good. Its ratios can stand for one statistic alone, which is what the old norm
has.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from sn_mm.anatomy.norms import has_batch_statistics
from sn_mm.layers import RowNorm


def statistic_of(norm: nn.Module) -> str | None:
    """SN's name of what a norm normalizes with, where it is one alone."""
    if isinstance(norm, RowNorm):
        is_bn = not norm.ratios() and norm.inference_moments() is not None
        return 'bn' if is_bn else None
    if isinstance(norm, nn.GroupNorm):
        return 'ln' if norm.num_groups == 1 else 'gn'
    if isinstance(norm, _InstanceNorm):
        return None if norm.track_running_stats else 'in'
    if isinstance(norm, _BatchNorm) or has_batch_statistics(norm):
        return 'bn'
    return None


def takes_over(old: nn.Module, new: nn.Module) -> bool:
    """Whether a frozen ``new`` can go on where ``old`` is.

    Only what has ratios is asked: another kind of norm that a user wants
    frozen is his own affair.
    """
    if not isinstance(new, RowNorm):
        return True
    mixes = hasattr(new, 'set_ratios_')
    if isinstance(old, RowNorm) and (old.ratios() or not mixes):
        return True
    if not mixes:
        return (
            statistic_of(old) == 'bn' and new.inference_moments() is not None
        )
    if statistic_of(old) not in new.statistics:
        return False
    own = getattr(new, 'num_groups', None)
    return statistic_of(old) != 'gn' or old.num_groups == own


@torch.no_grad()
def keep_function(old: nn.Module, new: nn.Module) -> None:
    """Let ``new`` compute what the frozen ``old`` does, in training too."""
    statistic = statistic_of(old)
    if statistic is None or not isinstance(new, RowNorm):
        return
    if statistic == 'bn' and new.running_mean is not None:
        new.bn_eval = True
    if hasattr(new, 'set_ratios_'):
        ratios = new.ratios()
        index = new.statistics.index(statistic)
        for ratio in ratios.values():
            ratio.zero_()[..., index] = 1
        new.set_ratios_(ratios)
