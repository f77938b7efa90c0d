# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Errors that callers may want to catch."""

from __future__ import annotations


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message names why and the fix."""
