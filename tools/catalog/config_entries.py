# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""What a config says of itself: batch, length, where its weights come from."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mmengine.config import Config

from sn_mm.checkpoints.locate import FOLDER_VARIABLE
from sn_mm.cli import without_packaging_warnings
from sn_mm.patches.metafiles import read_once
from sn_mm.utils import progress_bar

from .catalog_error import CatalogError
from .paper import Paper, Row
from .schedule import batch_of, length_of

# Folders whose configs are no experiments of their own, and fragments.
_NO_CONFIGS = ('_base_', '__pycache__')
_RELEASED = 'released'


@dataclass(frozen=True)
class ConfigEntry:
    """One config.

    Attributes:
        config: path under configs/, without the ending.
        rows: of the paper's tables, usually one or none.
        start: checkpoint that the backbone starts from, or 'scratch'.
        batch: (GPUs, images per GPU), if the config says.
        length: (number, 'iterations' or 'epochs'), if it trains.
        missing: why nothing but its name is known: a toolbox that it
            inherits from is not installed. None as a rule.
    """

    config: str
    rows: tuple[Row, ...]
    start: str
    batch: tuple[int, int] | None
    length: tuple[int, str] | None
    missing: str | None = None

    @property
    def name(self) -> str:
        """The config's file name, without the ending."""
        return self.config.rpartition('/')[2]

    @property
    def folder(self) -> str:
        """The family's folder, under configs/."""
        return self.config.partition('/')[0]


def read_entries(
    configs: Path,
    paper: Paper,
    wanted: Callable[[str], bool] = lambda config: True,
) -> tuple[ConfigEntry, ...]:
    """Every config, in the order of folders and names.

    Args:
        configs: the folder of all configs.
        paper: its rows.
        wanted: whether to read the config of that path under configs/,
            without the ending; all by default.

    Raises:
        CatalogError: a config cannot be read.
    """
    paths = [
        path
        for path in sorted(configs.glob('*/**/*.py'))
        if not set(_NO_CONFIGS) & set(path.relative_to(configs).parts)
        and wanted(_name(path, configs))
    ]
    read_once()
    entries = []
    bar = progress_bar('reading configs', len(paths))
    with _default_folder(), without_packaging_warnings(), bar as advance:
        for path in paths:
            entries.append(_entry(path, configs, paper))
            advance()
    return tuple(entries)


def _name(path: Path, configs: Path) -> str:
    return path.relative_to(configs).with_suffix('').as_posix()


def _entry(path: Path, configs: Path, paper: Paper) -> ConfigEntry:
    name = _name(path, configs)
    try:
        cfg = Config.fromfile(path, import_custom_modules=False)
    except ModuleNotFoundError as error:
        rows = paper.rows_of(name)
        return ConfigEntry(name, rows, '', None, None, missing=str(error))
    except Exception as error:  # a config may raise whatever Python can
        raise CatalogError(
            f'{path} cannot be read: {error}; correct it'
        ) from error
    start = 'the released file' if _is_released(name) else _start(cfg)
    return ConfigEntry(
        name, paper.rows_of(name), start, batch_of(cfg, name), length_of(cfg)
    )


def _is_released(name: str) -> bool:
    return name.startswith(f'{_RELEASED}/')


def _start(cfg: Config) -> str:
    """The checkpoint that training starts from."""
    model = cfg.get('model') or {}
    init = (model.get('backbone') or {}).get('init_cfg')
    found = [init] if isinstance(init, dict) else init or []
    # load_from comes after the initialization and overrides it
    names = [cfg.get('load_from'), *(i.get('checkpoint') for i in found)]
    names.append(model.get('pretrained'))
    return next(filter(None, names), 'scratch')


@contextmanager
def _default_folder() -> Iterator[None]:
    """Name checkpoints as by default, wherever the user keeps them."""
    kept = os.environ.pop(FOLDER_VARIABLE, None)
    try:
        yield
    finally:
        if kept is not None:
            os.environ[FOLDER_VARIABLE] = kept
