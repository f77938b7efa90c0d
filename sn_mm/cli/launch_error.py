# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""The error that a command line ends with."""


class LaunchError(Exception):
    """A run cannot start: the message names the cause and the fix.

    For what is wrong with the user's input. Command lines print the message
    alone, without a traceback.
    """
