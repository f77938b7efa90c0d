# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""mmcv's operators from the start of the interpreter.

mmdet's and mmseg's own tools import mmcv.ops before they read a config, so
sn_mm in the config's ``custom_imports`` comes too late to serve operators. A
line in a ``.pth`` file of the environment, which Python runs at its start,
does it in time.
"""

from __future__ import annotations

import contextlib
import os
import site
import subprocess
import sys
import sysconfig
from pathlib import Path

NAME = 'sn_mm_ops.pth'
# site prints a traceback at every start for a line that fails, so this one
# must not: sn_mm may have been uninstalled.
LINE = (
    'import sys; exec("try:\\n import sn_mm_ops\\n sn_mm_ops.serve()\\n'
    'except Exception:\\n pass")\n'
)


def install() -> str:
    """Write the line where this interpreter finds it.

    Returns:
        What was done, for the user.

    Raises:
        OSError: if no folder of site-packages can be written.
    """
    failures = []
    for folder in _folders():
        path = folder / NAME
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _write(path, LINE)
        except OSError as error:
            failures.append(f'{path}: {error.strerror}')
            continue
        text = f'{sys.executable} serves operators to mmcv from now on: {path}'
        if not served_at_start():
            text += (
                '\nsn_mm is not installed in this environment, so that the '
                'line finds it only where PYTHONPATH does; `pip install` it '
                'there.'
            )
        return text
    raise OSError('cannot write ' + '; nor '.join(failures))


def remove() -> str:
    """Undo :func:`install`.

    Returns:
        What was done, for the user.

    Raises:
        OSError: if the file cannot be removed.
    """
    removed = []
    for folder in _folders():
        path = folder / NAME
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
            removed.append(str(path))
    if not removed:
        return f'{sys.executable} has no {NAME}; nothing was changed.'
    return 'removed ' + ', '.join(removed)


def installed() -> Path | None:
    """The file that holds the line, if there is one."""
    paths = [folder / NAME for folder in _folders()]
    return next((path for path in paths if path.is_file()), None)


def served_at_start() -> bool:
    """Whether a fresh interpreter serves the operators, wherever it runs."""
    code = 'import sys; print("sn_mm_ops" in sys.modules)'
    done = subprocess.run(
        [sys.executable, '-c', code],
        cwd=sys.prefix,
        capture_output=True,
        text=True,
    )
    return done.stdout.strip() == 'True'


def _folders() -> list[Path]:
    """Where Python reads .pth files, the environment's own first."""
    folders = [Path(sysconfig.get_paths()['purelib'])]
    if site.ENABLE_USER_SITE:
        folders.append(Path(site.getusersitepackages()))
    # a user without a home has '~/.local', which would be one of this folder
    return [folder for folder in folders if folder.is_absolute()]


def _write(path: Path, text: str) -> None:
    """Write a whole file, or none."""
    temporary = path.with_name(f'{path.name}.{os.getpid()}.tmp')
    try:
        temporary.write_text(text, encoding='utf-8')
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
