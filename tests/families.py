# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""The paper's rows and the families' configs, read once for all tests."""

from __future__ import annotations

import functools

from catalog import ConfigEntry, Paper, read_entries, read_paper
from sn_mm.patches import metafiles
from tests.paths import CONFIGS

metafiles.read_once()


@functools.cache
def paper() -> Paper:
    """What configs/paper.yml says."""
    return read_paper(CONFIGS)


@functools.cache
def entries() -> tuple[ConfigEntry, ...]:
    """Every config of the folders that configs/paper.yml names."""
    folders = {family.folder for family in paper().families}
    return read_entries(
        CONFIGS, paper(), lambda config: config.partition('/')[0] in folders
    )
