# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Lines of the doctor's page."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import NamedTuple

_MARKS = {'ok': 'ok', 'note': '-', 'misfit': '!!'}
_WIDTH = 78
_INDENT = 17


class Finding(NamedTuple):
    """One thing that was looked at.

    Attributes:
        name: what was looked at.
        text: what was found.
        state: 'ok', 'note' (works, or is not needed) or 'misfit'.
        fix: of a misfit, what to do; a command stands in a line of its own.
    """

    name: str
    text: str
    state: str = 'ok'
    fix: str = ''


def page(findings: Sequence[Finding]) -> str:
    """All findings, one below the other, with a summary at the end."""
    misfits = [f for f in findings if f.state == 'misfit']
    lines = [line for finding in findings for line in _lines(finding)]
    if not misfits:
        lines.append('\nAll of it fits together.')
    else:
        names = ', '.join(dict.fromkeys(f.name for f in misfits))
        lines.append(f'\nTo be mended: {names}.')
    return '\n'.join(lines)


def _lines(finding: Finding) -> list[str]:
    head = f'{_MARKS[finding.state]:2} {finding.name:{_INDENT - 4}} '
    lines = _wrapped(finding.text, head)
    for part in finding.fix.splitlines():
        lines += _wrapped(part, f'{"":{_INDENT}}')
    return lines


def _wrapped(text: str, head: str) -> list[str]:
    return textwrap.wrap(
        text,
        _WIDTH,
        initial_indent=head,
        subsequent_indent=' ' * _INDENT,
        break_long_words=False,
        break_on_hyphens=False,
    ) or [head.rstrip()]
