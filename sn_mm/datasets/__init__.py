# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""The paper's data sets on the disk: importing registers the Runner."""

from .checks import (
    DataError,
    DataWarning,
    check_dataloaders,
    check_dataset,
)
from .layouts import LAYOUTS, Layout
from .runner import DataCheckedRunner

__all__ = [
    'LAYOUTS',
    'DataCheckedRunner',
    'DataError',
    'DataWarning',
    'Layout',
    'check_dataloaders',
    'check_dataset',
]
