# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""A batch as data loaders give it, made into what networks take."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.model import BaseDataPreprocessor
from torch import Tensor, nn


def prepared(model: nn.Module, batch: Any) -> Any:
    """A batch normalized, padded and moved to the model's device.

    Args:
        model: its ``data_preprocessor``, if it has one, does the work, as at
            test time.
        batch: a tensor (N, C, H, W), a sequence that begins with one, or the
            dict with 'inputs' that the toolboxes' pipelines give.

    Returns:
        A tensor, or a dict with 'inputs' and 'data_samples'.
    """
    preprocessor = getattr(model, 'data_preprocessor', None)
    if isinstance(batch, dict) and preprocessor is not None:
        preprocessor.to(device_of(model))
        if _differ_in_size(batch['inputs']):
            return _padded(preprocessor, batch)
        return preprocessor(batch, False)
    if isinstance(batch, (list, tuple)):
        batch = batch[0]
    return BaseDataPreprocessor().to(device_of(model)).cast_data(batch)


def images_in(batch: Any) -> int:
    """Number of pictures of a prepared batch."""
    inputs = batch['inputs'] if isinstance(batch, dict) else batch
    return inputs.shape[0]


def device_of(model: nn.Module) -> torch.device:
    """That of the first parameter; the CPU without one."""
    first = next(model.parameters(), None)
    return torch.device('cpu') if first is None else first.device


def endless(batches: Iterable[Any], first: int = 0) -> Iterator[Any]:
    """The batches from number ``first`` on, again and again.

    What has a length and takes an index is asked for each batch by its
    number; other iterables are read from the start, and those before
    ``first`` passed over.

    Raises:
        ValueError: no batch, or an iterator that gives its batches once.
    """
    if hasattr(batches, '__getitem__') and hasattr(batches, '__len__'):
        if not len(batches):
            raise ValueError('batches is empty: a transplant needs pictures')
        while True:
            yield batches[first % len(batches)]
            first += 1
    number = 0
    while True:
        before = number
        for batch in batches:
            if number >= first:
                yield batch
            number += 1
        if number == before:
            raise ValueError(
                f'batches ended after {number}: give a list or a DataLoader, '
                'which can be read more than once, or fewer steps'
            )


def _differ_in_size(inputs: Any) -> bool:
    return (
        not isinstance(inputs, Tensor) and len({x.shape for x in inputs}) > 1
    )


def _padded(preprocessor: nn.Module, batch: dict) -> dict:
    """Pictures of several sizes in one batch.

    mmdet's preprocessor pads them; mmseg's refuses to at test time. There
    each is normalized alone and then padded with zeros, at the right and the
    bottom, as in training.
    """
    if not hasattr(preprocessor, 'test_cfg'):
        return preprocessor(batch, False)
    samples = batch.get('data_samples')
    alone = [
        preprocessor(
            dict(inputs=[x], data_samples=samples and [samples[i]]), False
        )['inputs']
        for i, x in enumerate(batch['inputs'])
    ]
    height = max(x.shape[-2] for x in alone)
    width = max(x.shape[-1] for x in alone)
    inputs = [
        F.pad(x, (0, width - x.shape[-1], 0, height - x.shape[-2]))
        for x in alone
    ]
    return dict(inputs=torch.cat(inputs), data_samples=samples)
