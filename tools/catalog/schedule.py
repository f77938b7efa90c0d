# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""A config's schedule, for the batch that it is for and for others.

Learning rates go with the batch (linear scaling, P. Goyal et al., Accurate,
Large Minibatch SGD, arXiv 1706.02677), iterations against it, so that every
run sees as many images. Warm-up keeps its number of iterations.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from mmengine.config import Config

from .catalog_error import CatalogError


@dataclass(frozen=True)
class Schedule:
    """How long and how fast a config trains.

    Attributes:
        gpus: number of GPUs.
        images: images per GPU.
        lr: base learning rate.
        length: iterations, or epochs.
        unit: 'iterations' or 'epochs'.
        steps: where the learning rate falls tenfold, in that unit.
        options: settings that make the config so, for ``--cfg-options``.
    """

    gpus: int
    images: int
    lr: float
    length: int
    unit: str
    steps: tuple[int, ...]
    options: dict[str, object]


def batch_of(cfg: Config, name: str = '') -> tuple[int, int] | None:
    """(GPUs, images per GPU) that a config's learning rate is for.

    From ``auto_scale_lr``, else from the '4xb2' in its name; None where
    neither says.
    """
    loader = cfg.get('train_dataloader') or {}
    images = loader.get('batch_size')
    named = re.search(r'_(\d+)xb(\d+)', name)
    if not images:
        return None
    base = (cfg.get('auto_scale_lr') or {}).get('base_batch_size')
    if base and base % images == 0:
        return base // images, images
    if named and int(named[2]) == images:
        return int(named[1]), images
    return None


def length_of(cfg: Config) -> tuple[int, str] | None:
    """(number, 'iterations' or 'epochs'), None for a config without."""
    loop = cfg.get('train_cfg') or {}
    if loop.get('max_iters'):
        return loop['max_iters'], 'iterations'
    if loop.get('max_epochs'):
        return loop['max_epochs'], 'epochs'
    return None


def schedule_for(path: Path, gpus: int, images: int) -> Schedule:
    """The schedule of a config for another number of GPUs and images.

    Args:
        path: the config.
        gpus: GPUs of the run.
        images: images per GPU of the run.

    Raises:
        CatalogError: the config does not exist, does not train, or does not
            tell the batch that it is for; or a number is not positive.
    """
    if gpus < 1 or images < 1:
        raise CatalogError(
            f'{gpus} GPUs with {images} images each: both must be 1 or more'
        )
    if not path.is_file():
        raise CatalogError(f'config {path} not found')
    cfg = Config.fromfile(path, import_custom_modules=False)
    batch, length = batch_of(cfg, path.name), length_of(cfg)
    if batch is None or length is None:
        raise CatalogError(
            f'{path} does not tell the batch and the length that it is for; '
            'set auto_scale_lr.base_batch_size and train_cfg'
        )
    factor = gpus * images / (batch[0] * batch[1])
    lr = cfg.optim_wrapper.optimizer.lr * factor
    options = {
        'train_dataloader.batch_size': images,
        'optim_wrapper.optimizer.lr': float(f'{lr:.6g}'),
    }
    count, unit = length
    stretch = 1 / factor if unit == 'iterations' else 1.0
    count = _rounded(count * stretch)
    if unit == 'iterations':
        options['train_cfg.max_iters'] = count
    steps: tuple[int, ...] = ()
    for i, scheduler in enumerate(cfg.get('param_scheduler') or []):
        if 'milestones' in scheduler:
            steps = tuple(_rounded(m * stretch) for m in scheduler.milestones)
            if unit == 'iterations':
                options[f'param_scheduler.{i}.milestones'] = list(steps)
        is_main = scheduler.get('end') == length[0]
        if is_main and unit == 'iterations':
            options[f'param_scheduler.{i}.end'] = count
    lr = options['optim_wrapper.optimizer.lr']
    return Schedule(gpus, images, lr, count, unit, steps, options)


def _rounded(number: float) -> int:
    return max(1, round(number))
