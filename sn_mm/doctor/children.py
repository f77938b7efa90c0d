# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Run probes in child processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

_SECONDS = 300  # for all imports, on a machine that does much else
# A script's folder would come first in the child's path, and these modules
# have common names.
_CODE = (
    'import runpy, sys; sys.argv = sys.argv[1:]; runpy.run_path({0!r}, {1})'
)


class Outcome(NamedTuple):
    """What a probe found.

    Attributes:
        found: its result; empty after an error.
        error: type and first line of what it raised, or how it ended; ''
            if it succeeded.
        message: the whole text of the error.
    """

    found: dict
    error: str = ''
    message: str = ''


def probe(names: Sequence[str]) -> dict[str, Outcome]:
    """Run probes, in turn, in as few processes as crashes allow.

    Args:
        names: see :func:`.probes.run`.
    """
    outcomes: dict[str, Outcome] = {}
    left = list(names)
    while left:
        done, ending = _run(left)
        outcomes.update(done)
        left = left[len(done) :]
        if left and ending:
            outcomes[left.pop(0)] = Outcome({}, ending, ending)
    return outcomes


def _run(names: Sequence[str]) -> tuple[dict[str, Outcome], str]:
    """Outcomes of the probes that ended, and how the process did."""
    script = str(Path(__file__).with_name('probes.py'))
    code = _CODE.format(script, "run_name='__main__'")
    with tempfile.TemporaryDirectory() as folder:
        file = os.path.join(folder, 'outcomes')
        command = [sys.executable, '-W', 'ignore', '-c', code, script, file]
        try:
            status = subprocess.run(
                [*command, *names],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=_SECONDS,
            ).returncode
            ending = f'its import ended Python (status {status})'
        except subprocess.TimeoutExpired:
            ending = f'its import did not end within {_SECONDS} s'
        except OSError as error:
            ending = f'{sys.executable} cannot be started: {error.strerror}'
        lines = []
        if os.path.exists(file):
            lines = Path(file).read_text(encoding='utf-8').splitlines()
    done = {}
    for line in map(json.loads, lines):
        done[line['probe']] = Outcome(
            line.get('found', {}),
            line.get('error', ''),
            line.get('message', ''),
        )
    return done, ending
