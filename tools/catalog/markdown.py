# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Configs as tables in Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from .config_entries import ConfigEntry
from .paper import Row

_HEADER = (
    "| config | paper | paper's result | starts from | GPUs x images "
    '| length |',
    '| --- | --- | --- | --- | --- | --- |',
)
BEGIN = '<!-- configs: made by tools/list_configs.py --write -->'
END = '<!-- configs end -->'


def table(
    entries: Sequence[ConfigEntry], link: str = '', old: str = ''
) -> str:
    """One row per config.

    Args:
        entries: the configs.
        link: path to configs/ from where the table will stand; '' for plain
            names.
        old: text with an earlier table, whose rows stand for configs that
            cannot be read here.
    """
    rows = {
        line.split(' | ')[0]: line
        for line in old.splitlines()
        if line.startswith('| ')
    }
    lines = []
    for entry in entries:
        line = _line(entry, link)
        if entry.missing and link:
            # what this machine lacks is nothing to write down
            unknown = line.replace(_start_text(entry), '')
            line = rows.get(line.split(' | ')[0], unknown)
        lines.append(line)
    return '\n'.join([*_HEADER, *lines])


def _line(entry: ConfigEntry, link: str) -> str:
    name = f'`{entry.name}`'
    if link:
        name = f'[{name}]({link}/{entry.config}.py)'
    cells = (
        name,
        '<br>'.join(f'{row.table}: {row.label}' for row in entry.rows),
        '<br>'.join(result_of(row) for row in entry.rows),
        _start_text(entry),
        '{} x {}'.format(*entry.batch) if entry.batch else '',
        length_text(entry),
    )
    return f'| {" | ".join(cells)} |'


def _start_text(entry: ConfigEntry) -> str:
    if entry.missing:
        return f'({entry.missing})'
    plain = not entry.start.endswith('.pth') and '://' not in entry.start
    return entry.start if plain else f'`{entry.start}`'


def result_of(row: Row) -> str:
    """The first metric of every task, and multi-scale mIoU."""
    parts = []
    for result in row.results:
        metrics = list(result.metrics.items())
        shown = metrics if 'mIoU' in result.metrics else metrics[:1]
        parts += [f'{name} {value}' for name, value in shown]
    return ', '.join(parts)


def length_text(entry: ConfigEntry) -> str:
    """'90k', '12 epochs', or nothing."""
    if entry.length is None:
        return ''
    number, unit = entry.length
    if unit == 'epochs':
        return f'{number} epochs'
    return f'{number // 1000}k' if number % 1000 == 0 else str(number)


def replaced(text: str, block: str) -> str | None:
    """``text`` with ``block`` between the two marks; None without marks."""
    head, begin, rest = text.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        return None
    return f'{head}{BEGIN}\n\n{block}\n\n{END}{tail}'
