# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""The configs of this repository and what the paper reports for them.

``tools/list_configs.py`` is the command line over this package. Nothing here
is imported by ``import sn_mm``.
"""

from .catalog_error import CatalogError
from .config_entries import ConfigEntry, read_entries
from .made_files import write_catalog
from .paper import Family, Paper, Result, Row, read_paper
from .schedule import Schedule, schedule_for

__all__ = [
    'CatalogError',
    'ConfigEntry',
    'Family',
    'Paper',
    'Result',
    'Row',
    'Schedule',
    'read_entries',
    'read_paper',
    'schedule_for',
    'write_catalog',
]
