# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""How every command line ends: status 0, or one line of text and another."""

from __future__ import annotations

import functools
import os
import sys
from typing import Callable

from sn_mm.utils.errors import CheckpointError

from .config_errors import why_not_built
from .launch_error import LaunchError

# 128 and the numbers of SIGINT and SIGPIPE
_INTERRUPTED, _CLOSED = 130, 141


def command(*errors: type[Exception]) -> Callable:
    """Make a tool's ``main`` end with one line where the user can mend it.

    A LaunchError or CheckpointError goes to standard error as ``error: ...``
    without a traceback, and the exit status is 1; so does what a config
    describes and a registry cannot build. An interruption (Ctrl-C) is one
    line too, and status 130, as shells have it; status 141, and nothing to
    read, is for whoever has stopped reading (``| head``). All other
    exceptions are faults of the program, and keep their traceback.

    Args:
        errors: further kinds of exceptions that the user can mend.

    Returns:
        A decorator. The decorated function takes the arguments of the command
        line (those of ``sys.argv`` by default) and returns the exit status,
        for ``sys.exit(main())``.
    """
    expected = (LaunchError, CheckpointError, *errors)

    def decorate(main: Callable[[list | None], None]) -> Callable:
        @functools.wraps(main)
        def wrapped(args: list | None = None) -> int:
            try:
                main(args)
                sys.stdout.flush()
            except BrokenPipeError:
                # nor may Python complain when it ends
                os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
                return _CLOSED
            except expected as error:
                print(f'error: {error}', file=sys.stderr)
                return 1
            except KeyboardInterrupt:
                print('interrupted', file=sys.stderr)
                return _INTERRUPTED
            except Exception as error:
                text = why_not_built(error)
                if text is None:
                    raise
                print(f'error: {text}', file=sys.stderr)
                return 1
            return 0

        return wrapped

    return decorate
