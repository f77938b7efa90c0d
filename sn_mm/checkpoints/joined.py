# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""The public files of one model, converted, in one state dict."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from .convert import convert, name_of, style_of
from .layouts import Layout
from .reader import CheckpointFile
from .report import Report
from .sources import named_in_errors


def convert_files(
    found: Sequence[tuple[CheckpointFile, Layout]], to: str
) -> tuple[OrderedDict[str, Tensor], list[str], list[Report]]:
    """Convert files of the public layouts, and join them.

    Args:
        found: one file, or encoder and decoder of a segmentor.
        to: see :func:`.style_of`.

    Returns:
        The state dict with its metadata; each file's style of names and its
        account.

    Raises:
        CheckpointError: see :func:`.convert`; it names the file.
    """
    state: OrderedDict[str, Tensor] = OrderedDict()
    metadata: dict[str, Any] = {}
    styles, reports = [], []
    for file, layout in found:
        style = style_of(to, layout, len(found) > 1)
        report = Report(str(file.path), str(layout))
        with named_in_errors(file):
            part = convert(file.state, layout, name_of(style), report)
        state.update(part)
        metadata.update(part._metadata)
        styles.append(style)
        reports.append(report)
    state._metadata = metadata
    return state, styles, reports
