# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""The rows of the paper's tables, as configs/paper.yml has them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

from .catalog_error import CatalogError

_DAGGERS = {'BN-frozen': 'BN†', 'none': '–'}


@dataclass(frozen=True)
class Result:
    """What a row reports of one task.

    Attributes:
        task: as metafiles name it, 'Object Detection' for example.
        dataset: its name.
        metrics: values, in per cent, by metric.
    """

    task: str
    dataset: str
    metrics: dict[str, float]


@dataclass(frozen=True)
class Row:
    """One row of a table.

    Attributes:
        table: its number, as in the paper.
        setting: what the row says about norms: 'backbone' and 'head', or
            'norm' and 'pretrained'; 'scratch' where it starts from nothing.
        results: of every task.
        configs: paths under configs/, without the ending.
    """

    table: str
    setting: dict[str, object]
    results: tuple[Result, ...]
    configs: tuple[str, ...]

    @property
    def label(self) -> str:
        """'BN† / SN', 'SN / SN, scratch', 'SyncSN (8, 32)'."""
        norms = [
            str(self.setting[key])
            for key in ('backbone', 'head', 'norm')
            if key in self.setting
        ]
        text = ' / '.join(_DAGGERS.get(norm, norm) for norm in norms)
        if 'pretrained' in self.setting:
            text += f' {self.setting["pretrained"]}'
        return f'{text}, scratch' if self.setting.get('scratch') else text


@dataclass(frozen=True)
class Family:
    """A folder of configs.

    Attributes:
        folder: under configs/.
        name: of its collection in the metafile.
        architecture: what the collection's models are made of.
    """

    folder: str
    name: str
    architecture: tuple[str, ...]


@dataclass(frozen=True)
class Paper:
    """Everything in configs/paper.yml."""

    rows: tuple[Row, ...]
    families: tuple[Family, ...]

    def rows_of(self, config: str) -> tuple[Row, ...]:
        """The rows that a config is for; usually one, or none."""
        return tuple(row for row in self.rows if config in row.configs)


def read_paper(configs: Path) -> Paper:
    """Read configs/paper.yml.

    Args:
        configs: the folder of all configs.

    Raises:
        CatalogError: it is missing or malformed, or a row has no config, a
            config that does not exist, or another number of values than its
            table has metrics.
    """
    path = configs / 'paper.yml'
    try:
        content = yaml.safe_load(path.read_text(encoding='utf-8'))
        families = tuple(
            Family(f['folder'], f['name'], tuple(f['architecture']))
            for f in content['families']
        )
        rows = tuple(_rows(content['tables']))
    except OSError as error:
        raise CatalogError(
            f'{path} cannot be read: {error.strerror}; name the folder of '
            'the configs'
        ) from error
    except (yaml.YAMLError, KeyError, TypeError) as error:
        raise CatalogError(f'{path} is malformed: {error!r}') from error
    for row in rows:
        _check_configs(row, configs)
    return Paper(rows, families)


def _rows(tables: list[dict]) -> Iterator[Row]:
    for table in tables:
        for raw in table['rows']:
            results = _results(table, raw)
            yield Row(
                table['table'], raw['row'], results, tuple(raw['configs'])
            )


def _results(table: dict, raw: dict) -> tuple[Result, ...]:
    values = list(raw['values'])
    count = sum(len(r['metrics']) for r in table['results'])
    if len(values) != count:
        raise CatalogError(
            f'Table {table["table"]}, row {raw["row"]}: {len(values)} values '
            f'for {count} metrics; give each metric its value'
        )
    rest = iter(values)
    results = []
    for r in table['results']:
        metrics = {name: next(rest) for name in r['metrics']}
        results.append(Result(r['task'], r['dataset'], metrics))
    return tuple(results)


def _check_configs(row: Row, configs: Path) -> None:
    if not row.configs:
        raise CatalogError(
            f'Table {row.table}, row {row.label}: no config runs it; name '
            'one in configs/paper.yml'
        )
    for name in row.configs:
        if not (configs / f'{name}.py').is_file():
            raise CatalogError(
                f'Table {row.table}, row {row.label}: {name}.py is not in '
                f'{configs}; write it, or correct configs/paper.yml'
            )
