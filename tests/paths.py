# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Where things are in this repository."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ROOT / 'configs'
TOOLS = ROOT / 'tools'
DATA = ROOT / 'tests' / 'data'
