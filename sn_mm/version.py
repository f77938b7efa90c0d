# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""The version of sn_mm; setup.py reads it without importing the package."""

__version__ = '0.1.0'
