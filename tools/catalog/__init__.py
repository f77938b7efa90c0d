# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""The configs of this repository and what the paper reports for them.

``tools/list_configs.py`` is the command line over this package. Nothing here
is imported by ``import sn_mm``.
"""

from .entries import Entry, read_entries
from .errors import CatalogError
from .paper import Family, Paper, Result, Row, read_paper
from .schedule import Schedule, schedule_for
from .writer import write_catalog

__all__ = [
    'CatalogError',
    'Entry',
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
