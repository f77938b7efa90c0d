# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""A second data loader, which does not move the first one on."""

from __future__ import annotations

import inspect
import math
from typing import Any

import torch
from mmengine.dist import get_world_size
from torch.utils.data import DataLoader, IterableDataset, Sampler


def fresh_loader(loader: DataLoader) -> DataLoader:
    """A loader of the same batches in an order of its own.

    To iterate over ``loader`` itself would draw from samplers that go on
    for ever (mmengine's InfiniteSampler), empty half-filled batches
    (mmdet's AspectRatioBatchSampler) and restart persistent workers under a
    training loop. The samplers are therefore built anew: same kind, seed,
    epoch and rank. The data set is shared.

    Args:
        loader: over a data set with indices.

    Raises:
        TypeError: for a sampler that does not keep what it was built with,
            and for data sets without indices.
    """
    if isinstance(loader.dataset, IterableDataset):
        raise TypeError(
            f'{type(loader.dataset).__name__} has no indices, so its batches '
            'cannot be read without moving the loader on; pass a list of '
            'batches'
        )
    options: dict[str, Any] = dict(
        num_workers=loader.num_workers,
        collate_fn=loader.collate_fn,
        pin_memory=loader.pin_memory,
        timeout=loader.timeout,
        worker_init_fn=loader.worker_init_fn,
    )
    if loader.num_workers > 0:
        options.update(
            multiprocessing_context=loader.multiprocessing_context,
            prefetch_factor=loader.prefetch_factor,
        )
    if loader.batch_sampler is None:
        sampler = _rebuilt(loader.sampler)
        return DataLoader(loader.dataset, None, sampler=sampler, **options)
    return DataLoader(
        loader.dataset, batch_sampler=_rebuilt(loader.batch_sampler), **options
    )


def batches_for(loader: DataLoader, num_samples: int) -> int:
    """Batches of each process that hold so many images of all, together.

    No more than it takes to see the whole data set once, also where the
    sampler would go on for ever.
    """
    images = images_per_batch(loader) * get_world_size()
    return math.ceil(min(num_samples, len(loader.dataset)) / images)


def images_per_batch(loader: DataLoader) -> int:
    """Images in a batch of this process; a list is one number per source."""
    size = loader.batch_size
    if size is None:
        size = getattr(loader.batch_sampler, 'batch_size', 1)
    return sum(size) if isinstance(size, (list, tuple)) else size


def _rebuilt(sampler: Any) -> Any:
    """A new sampler out of the attributes that its constructor names."""
    if isinstance(sampler, torch.Generator):
        clone = torch.Generator(sampler.device)
        return clone.set_state(sampler.get_state())
    if not isinstance(sampler, Sampler):
        return sampler
    arguments = {}
    for name, parameter in inspect.signature(type(sampler)).parameters.items():
        if hasattr(sampler, name):
            arguments[name] = _rebuilt(getattr(sampler, name))
        elif parameter.default is inspect.Parameter.empty:
            raise TypeError(
                f'{type(sampler).__name__} does not keep its argument '
                f'{name!r}, so it cannot be built again without moving the '
                f'loader on; let it set self.{name}, or pass a list of '
                'batches'
            )
    rebuilt = type(sampler)(**arguments)
    if hasattr(sampler, 'set_epoch') and hasattr(sampler, 'epoch'):
        rebuilt.set_epoch(sampler.epoch)
    return rebuilt
