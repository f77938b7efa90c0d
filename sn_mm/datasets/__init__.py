# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""The paper's data sets on the disk: importing registers the Runner."""

from .data_checks import (
    DataError,
    DataWarning,
    check_dataloaders,
    check_dataset,
)
from .data_layouts import LAYOUTS, DataLayout
from .runner import DataCheckedRunner

__all__ = [
    'LAYOUTS',
    'DataCheckedRunner',
    'DataError',
    'DataWarning',
    'DataLayout',
    'check_dataloaders',
    'check_dataset',
]
