# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Configs at a size that a test has time for: depth and norms stay."""

from __future__ import annotations

import copy
import functools
import os
from collections.abc import Iterator
from pathlib import Path

from mmengine.config import Config, ConfigDict

from sn_mm.cli import register_toolbox
from sn_mm.patches import metafiles
from tests.paths import CONFIGS

metafiles.read_once()

FAMILIES = (
    'faster_rcnn',
    'mask_rcnn',
    'deeplabv3',
    'fcn_c1',
    'pspnet',
    'swap_in',
)
RESIZES = ('Resize', 'RandomResize', 'DetectronResize')
# sides of images, in pixels, for detectors and for segmentors
SIDES = dict(mmdet=(64, 96), mmseg=(32, 48))


def paths(*folders: str) -> list[Path]:
    """Configs of these folders, sorted; by default of all families."""
    return sorted(
        path
        for folder in folders or FAMILIES
        for path in (CONFIGS / folder).glob('*.py')
    )


def load(path: Path) -> Config:
    """A config as it is, with its toolbox registered."""
    cfg = copy.deepcopy(_parsed(path))
    # a Runner writes its config down: laying it out takes longer than a step
    object.__setattr__(cfg, '_format_python_code', False)
    return cfg


@functools.cache
def _parsed(path: Path) -> Config:
    cfg = Config.fromfile(path)
    register_toolbox(cfg)
    return cfg


def without_pretrained(cfg: Config) -> Config:
    """Takes out what would have to be downloaded."""
    for part in dicts(cfg.model):
        init = part.get('init_cfg')
        if isinstance(init, dict) and 'checkpoint' in init:
            part.init_cfg = None
        if isinstance(part.get('pretrained'), str):
            part.pretrained = None
    cfg.load_from = None
    return cfg


def shrink(cfg: Config, work_dir: os.PathLike) -> Config:
    """One training step of two small images, then one evaluation step.

    Nothing that the paper sets is touched but lengths, image sizes, the
    number of proposals and the width of networks.
    """
    without_pretrained(cfg)
    short, _ = sides = SIDES[cfg.default_scope]
    cfg.work_dir = str(work_dir)
    cfg.train_cfg = dict(
        type='IterBasedTrainLoop', max_iters=1, val_interval=1
    )
    for key in ('train', 'val', 'test'):
        loader = cfg[f'{key}_dataloader']
        loader.update(num_workers=0, persistent_workers=False)
        _shrink_images(loader.dataset, *sides)
        loader.dataset.indices = 2 if key == 'train' else 1
    cfg.train_dataloader.update(batch_size=2)
    cfg.train_dataloader.sampler = dict(type='InfiniteSampler', shuffle=False)
    cfg.default_hooks.checkpoint = dict(
        type='CheckpointHook', by_epoch=False, interval=-1, save_last=False
    )
    cfg.default_hooks.logger.interval = 1
    cfg.visualizer.vis_backends = []
    if 'crop_size' in cfg:
        cfg.model.data_preprocessor.size = (short, short)
        if cfg.model.test_cfg.mode == 'slide':
            cfg.model.test_cfg.update(
                crop_size=(short, short), stride=(short // 2, short // 2)
            )
    for step in dicts(cfg.get('tta_pipeline')):
        if 'scale' in step:
            factor = short / 450
            step.scale = tuple(round(factor * side) for side in step.scale)
    _shrink_proposals(cfg.model)
    _shrink_heads(cfg.model)
    _halve_backbone(cfg.model)
    return cfg


def options(path: Path, work_dir: os.PathLike) -> list[str]:
    """What :func:`shrink` changes, as values of ``--cfg-options``."""
    old, new = load(path), shrink(load(path), work_dir)
    return list(_differences(old._cfg_dict, new._cfg_dict))


def _differences(old, new, place: str = '') -> Iterator[str]:
    if isinstance(new, dict) and isinstance(old, dict):
        pairs = [(key, old.get(key), value) for key, value in new.items()]
    elif _is_pipeline(old) and _is_pipeline(new):
        pairs = [(i, *both) for i, both in enumerate(zip(old, new))]
    else:
        if old != new or type(old) is not type(new):
            yield f'{place}={new}'.replace(' ', '')
        return
    for key, before, after in pairs:
        yield from _differences(before, after, f'{place}.{key}'.lstrip('.'))


def _is_pipeline(value) -> bool:
    """A list of dicts, whose steps are changed one by one."""
    if not isinstance(value, list):
        return False
    return all(isinstance(step, dict) for step in value)


@functools.cache
def kind_of(path: Path, depth: int | None = None) -> str:
    """The same text for configs that differ in their start alone.

    Args:
        path: the config.
        depth: take its backbone for one of so many layers.
    """
    cfg = without_pretrained(load(path)).to_dict()
    for name in ('norm_cfg', 'pretrained', 'sn_norm_cfg'):
        cfg.pop(name, None)  # variables of the file, which nothing reads
    if depth and 'depth' in cfg['model'].get('backbone', {}):
        cfg['model']['backbone']['depth'] = depth
    return repr(_sorted(cfg))


def distinct(found: list[Path]) -> list[Path]:
    """One config of every kind, deep backbones being as good as R50."""
    kinds: dict[str, Path] = {}
    for path in sorted(found, key=lambda path: ('_r101' in path.name, path)):
        kinds.setdefault(kind_of(path, depth=50), path)
    return list(kinds.values())


def _sorted(tree):
    if isinstance(tree, dict):
        return sorted((key, _sorted(value)) for key, value in tree.items())
    if isinstance(tree, (list, tuple)):
        return [_sorted(branch) for branch in tree]
    return tree


def dicts(tree) -> Iterator[ConfigDict]:
    """Every dict in nested dicts and lists, outermost first."""
    if isinstance(tree, dict):
        yield tree
        tree = list(tree.values())
    if isinstance(tree, (list, tuple)):
        for branch in tree:
            yield from dicts(branch)


def _shrink_images(dataset, short: int, long: int) -> None:
    for step in dicts(dataset):
        if step.get('type') in RESIZES:
            step.scale = (long, short)
        if step.get('type') == 'ResizeToStride':
            step.short = short
        if step.get('type') == 'RandomCrop':
            step.crop_size = (short, short)


def _shrink_proposals(model) -> None:
    # a stage of the backbone sees every RoI of the C4 detectors
    few = 4 if 'shared_head' in (model.get('roi_head') or {}) else 8
    for part in dicts(model):
        if part.get('type') == 'RandomSampler':
            part.num = min(part.num, few)
        if 'nms_pre' in part and 'max_per_img' in part:
            part.nms_pre = 50
        if 'max_per_img' in part:  # of the heads too, for each has a mask
            part.max_per_img = few
        if 'score_thr' in part:
            part.score_thr = 0.0


def _shrink_heads(model) -> None:
    for part in dicts(model):
        if part.get('fc_out_channels') == 1024:
            part.fc_out_channels = 64
    head = model.get('decode_head') or {}
    if head.get('channels') == 512:
        head.channels = 64


def _halve_backbone(model) -> None:
    """ResNets of half the channels, and what takes maps from them.

    The C4 detectors' heads have the backbone's last stage, of fixed width.
    """
    backbone = model.get('backbone') or {}
    neck, head = model.get('neck') or {}, model.get('decode_head') or {}
    if not str(backbone.get('type')).endswith('ResNet'):
        return
    if neck.get('in_channels') == [256, 512, 1024, 2048]:
        neck.in_channels = [128, 256, 512, 1024]
    elif head.get('in_channels') == 2048:
        head.in_channels = 1024
        if 'c1_in_channels' in head:
            head.c1_in_channels //= 2
        if model.get('auxiliary_head'):
            model.auxiliary_head.in_channels //= 2
    else:
        return
    backbone.update(base_channels=32, stem_channels=32)
