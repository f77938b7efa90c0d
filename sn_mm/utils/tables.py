# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Tables for terminals and for Markdown files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def text_table(
    head: Sequence[str], rows: Iterable[Sequence[str]], rule: bool = False
) -> str:
    """Align columns of text, two blanks apart.

    Args:
        head: names of the columns.
        rows: as many cells each.
        rule: draw a line below the head, as long as the head.

    Returns:
        Lines without blanks at their ends.
    """
    cells = [head, *rows]
    widths = [max(map(len, column)) for column in zip(*cells)]
    lines = [
        '  '.join(
            cell.ljust(width) for cell, width in zip(row, widths)
        ).rstrip()
        for row in cells
    ]
    if rule:
        lines.insert(1, '-' * len(lines[0]))
    return '\n'.join(lines)


def markdown_table(
    head: Sequence[str],
    rows: Iterable[Sequence[object]],
    numbers: bool = False,
) -> str:
    """Write a table in Markdown.

    Args:
        head: names of the columns.
        rows: as many cells each; str() is taken of them.
        numbers: all columns but the first hold numbers, and go to the right.
    """
    others = '---:' if numbers else '---'
    lines = [head, ['---', *[others] * (len(head) - 1)], *rows]
    return '\n'.join(f'| {" | ".join(map(str, line))} |' for line in lines)
