# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""The one exception that reading, converting and loading raise."""


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message names why and the fix."""
