# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Batch average: BN's test statistics from training batches.

"Switchable Normalization for Learning-to-Normalize Deep Representation",
TPAMI 2019, Sec. 3.1, 'Inference'.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, Callable

import torch
from mmengine import dist
from mmengine.logging import print_log
from mmengine.model import BaseDataPreprocessor, BaseModel
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.data import DataLoader

from sn_mm.anatomy.norms import parts_of_norms, running_names
from sn_mm.layers import RowNorm
from sn_mm.utils import join_names, progress_bar, unwrapped

from .averages import MomentAverage, merge_averages
from .fresh_loader import fresh_loader
from .restored import restored, restored_random_state


@dataclass
class BatchAverage:
    """What :func:`update_batch_average` did.

    Attributes:
        batches: training batches read, on all processes together.
        layers: names of the layers with new statistics.
        left: names of the layers with BN statistics that keep theirs, and
            why.
    """

    batches: int
    layers: list[str]
    left: dict[str, str]

    def summary(self) -> str:
        """One line for a log."""
        text = (
            f'batch average: statistics of {len(self.layers)} layers from '
            f'{self.batches} batches'
        )
        for why in sorted(set(self.left.values())):
            names = [n for n, reason in self.left.items() if reason == why]
            text += (
                f'; {len(names)} keep theirs ({why}): {join_names(names, 3)}'
            )
        return text


def update_batch_average(
    model: nn.Module,
    data: Iterable[Any],
    num_iters: int | None = None,
    include_bn: bool = False,
    second_moment: bool = False,
    progress: bool = True,
    context: Callable[[], AbstractContextManager] = nullcontext,
) -> BatchAverage:
    """Set BN's test statistics to averages over training batches.

    The model runs forward in training mode, with all parameters fixed, and
    ``running_mean`` and ``running_var`` become the averages of the means and
    variances that each layer saw: every call of a layer counts the same,
    also where a head serves several pyramid levels. Sums are float64. The
    variance is the one that a layer would track: SN's biased (or from
    unbiased instance variances), torch's BN unbiased.

    Layers keep their statistics if they do not train with the batch's: with
    ``bn_eval``, frozen ones, those in evaluation mode inside a model in
    training mode, and those that the batches never reached.

    Nothing else changes: parameters, other buffers, modes, momentum, random
    state, and the order of a DataLoader. After an error the statistics are
    the old ones, too. In a distributed job all processes must call; they
    average over all of their batches, and stop together at the shortest.

    Args:
        model: with SN layers; a mmengine model is run on its own loss,
            others on the batch (the first entry of a tuple, the entries of
            a dict as keywords). Wrappers such as DistributedDataParallel are
            looked through.
        data: a DataLoader, which is read through a second one
            (:func:`.fresh_loader.fresh_loader`), or any iterable of batches.
        num_iters: number of batches for each process, fewer if ``data`` has
            no more; None for all (of a DataLoader, ``len(data)``).
        include_bn: also the statistics of BatchNorm and SyncBN.
        second_moment: average E[x^2] instead of the variance, as the public
            code does; see :func:`sn_mm.recalibrate.averages.merge_averages`.
        progress: show a bar, in the first process's terminal.
        context: makes what each forward runs in, such as autocast.

    Returns:
        What was done.

    Raises:
        ValueError: without a batch, or without SN layers (or BN, if
            included).
        FloatingPointError: if statistics are not finite.

    Example:
        >>> import torch, sn_mm
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), sn_mm.SN(8))
        >>> batches = torch.randn(4, 2, 3, 8, 8)
        >>> sn_mm.update_batch_average(model, batches, 4).layers
        ['1']
    """
    if num_iters is not None and num_iters < 1:
        raise ValueError(
            f'num_iters must be at least 1, or None for all, got {num_iters}'
        )
    model = unwrapped(model)
    with restored_random_state(), restored(model):
        if not model.training:
            model.train()
        layers, left = find_averaged(model, include_bn)
        if not layers:
            print_log(
                'batch average: no layer has statistics to average',
                logger='current',
                level=logging.WARNING,
            )
            return BatchAverage(0, [], left)
        if isinstance(data, DataLoader):
            # a sampler may go on for ever
            num_iters = num_iters or len(data)
            data = fresh_loader(data)
        with _observed(layers) as averages:
            batches = _run(model, data, num_iters, progress, context)
    merged = _merged(averages, second_moment)
    for name, (count, mean, var) in list(merged.items()):
        if not count:
            left[name] = 'not reached by the batches'
            del merged[name]
        elif not (mean.isfinite().all() and var.isfinite().all()):
            raise FloatingPointError(
                f'the batch statistics of {name} are not finite: the weights '
                'or the data give NaN or infinity; statistics are as before'
            )
    if not merged:
        raise ValueError(
            'none of the layers ran: if the model is compiled, average the '
            'statistics of the uncompiled one'
        )
    with torch.no_grad():
        for name, (_, mean, var) in merged.items():
            _set_running(layers[name], mean, var)
    return BatchAverage(batches, list(merged), left)


def find_averaged(
    model: nn.Module, include_bn: bool = False
) -> tuple[dict[str, nn.Module], dict[str, str]]:
    """Layers that batch average is for, in the modes they are in.

    Args:
        model: in the modes of training.
        include_bn: also BatchNorm and SyncBN.

    Returns:
        The layers that track BN statistics of the batch, by name; and why
        the others that have BN statistics keep theirs, by name.

    Raises:
        ValueError: if the model has no layer of these kinds.
    """
    kinds = (RowNorm, _BatchNorm) if include_bn else (RowNorm,)
    layers, left, any_kind = {}, {}, False
    inside = parts_of_norms(model)
    for name, module in model.named_modules():
        # mmcv's SyncBN is no _BatchNorm
        is_sync = include_bn and type(module).__name__ == 'SyncBatchNorm'
        if not (isinstance(module, kinds) or is_sync):
            continue
        any_kind = True
        ours = isinstance(module, RowNorm)
        tracks = ours and module.track_running_stats
        if not (tracks or getattr(module, 'running_mean', None) is not None):
            continue
        if module in inside:
            continue
        why = None if module.training else 'frozen in evaluation mode'
        if ours:
            why = module.why_not_averaged()
        if why is None:
            layers[name] = module
        else:
            left[name] = why
    if not any_kind:
        fix = '' if include_bn else ' (include_bn=True takes BN layers)'
        raise ValueError(
            f'{type(model).__name__} has no SN layer to average the '
            f"statistics of{fix}; set norm_cfg=dict(type='SN') in its parts, "
            'or use sn_mm.convert_norm'
        )
    return layers, left


@contextmanager
def _observed(
    layers: dict[str, nn.Module],
) -> Iterator[dict[str, MomentAverage]]:
    """Averages, by layer, of the moments of all calls that happen inside.

    Our layers tell what they would track. Of torch's, with momentum 1, the
    running statistics are those of the last call. The caller puts the layers
    back.
    """
    averages, handles = {}, []
    try:
        for name, layer in layers.items():
            like = _running_of(layer)[0]
            average = MomentAverage(like.numel(), like.device)
            averages[name] = average
            if isinstance(layer, RowNorm):
                layer.measures = _taker(average)
                continue
            layer.momentum = 1.0
            # a NaN from before would outlive a weight of 0
            layer.running_mean.zero_()
            layer.running_var.zero_()
            handles.append(layer.register_forward_hook(_recorder(average)))
        yield averages
    finally:
        for handle in handles:
            handle.remove()


def _taker(average: MomentAverage) -> Callable:
    """Takes in the moments that a layer of ours tells."""

    def take(batch: Tensor) -> None:
        mean, var = batch[:2, 0]
        if batch.shape[0] == 2:
            average.update(mean, var)
            return
        seen = batch[2, 0, 0] > 0  # in any process
        zero = torch.zeros_like(mean)
        average.update(
            mean.where(seen, zero), var.where(seen, zero), seen.to(mean.dtype)
        )

    return take


def _recorder(average: MomentAverage) -> Callable:
    """Takes in the running statistics that a call left in a BN."""

    def record(layer: nn.Module, args: tuple, output: Tensor) -> None:
        if args[0].numel() or 'Sync' in type(layer).__name__:
            average.update(layer.running_mean, layer.running_var)

    return record


def _running_of(layer: nn.Module) -> tuple[Tensor, Tensor]:
    """The tensors of the running statistics."""
    return attrgetter(*running_names(layer))(layer)


def _set_running(layer: nn.Module, mean: Tensor, var: Tensor) -> None:
    if isinstance(layer, RowNorm):
        layer.set_running_(mean, var)
    else:
        layer.running_mean.copy_(mean)
        layer.running_var.copy_(var)


def _run(
    model: nn.Module,
    data: Iterable[Any],
    num_iters: int | None,
    progress: bool,
    context: Callable[[], AbstractContextManager],
) -> int:
    """Feed the batches to the model; their number, over all processes."""
    done, iterator = 0, iter(data)
    total = _length(data, num_iters)
    bar = progress_bar('batch average', total, progress)
    with torch.no_grad(), bar as advance:
        while num_iters is None or done < num_iters:
            batch = next(iterator, None)
            if not _everywhere(batch is not None):
                break
            with context():
                _forward(model, batch)
            done += 1
            advance()
    if not done:
        raise ValueError(
            'batch average needs at least one batch of training data on '
            'every process, got none; statistics are as before'
        )
    return done * dist.get_world_size()


def _length(data: Iterable[Any], num_iters: int | None) -> int | None:
    try:
        length = len(data)
    except TypeError:
        return num_iters
    return length if num_iters is None else min(length, num_iters)


def _everywhere(flag: bool) -> bool:
    """Whether it holds in all processes: nobody may wait for the others."""
    if dist.get_world_size() == 1:
        return flag
    value = torch.tensor([int(flag)])
    dist.all_reduce(value, 'min')
    return bool(value.item())


def _forward(model: nn.Module, batch: Any) -> None:
    """A training forward; its outputs are of no interest."""
    if isinstance(model, BaseModel):
        batch = model.data_preprocessor(batch, True)
        model._run_forward(batch, mode='loss')
        return
    tensor = next(itertools.chain(model.parameters(), model.buffers()))
    batch = BaseDataPreprocessor().to(tensor.device).cast_data(batch)
    if isinstance(batch, dict):
        model(**batch)
    elif isinstance(batch, (list, tuple)):
        model(batch[0])
    else:
        model(batch)


def _merged(
    averages: dict[str, MomentAverage], second_moment: bool
) -> dict[str, tuple[float, Tensor, Tensor]]:
    """Count, mean and variance of each layer over all processes."""
    flat = [average.flat() for average in averages.values()]
    parts = dist.all_gather(torch.cat(flat))  # one collective for all
    sizes = [f.numel() for f in flat]
    by_layer = zip(*(part.split(sizes) for part in parts))
    return {
        name: merge_averages(layer, second_moment)
        for name, layer in zip(averages, by_layer)
    }
