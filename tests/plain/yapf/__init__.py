# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Stands before yapf in the tests: configs are written without layout.

mmengine formats a config for each log and for each checkpoint, which takes
longer than the few training steps of a test do.
"""

__version__ = '0.43.0'
