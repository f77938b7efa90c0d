# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Where things are in this repository."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ROOT / 'configs'
TOOLS = ROOT / 'tools'
DATA = ROOT / 'tests' / 'data'

# what the tests use in place of installed packages
PLAIN = ROOT / 'tests' / 'plain'


def python_path(*folders) -> str:
    """PYTHONPATH of a process: these folders, then those of this one's."""
    own = os.environ.get('PYTHONPATH')
    return os.pathsep.join([*map(str, folders), *([own] if own else [])])
