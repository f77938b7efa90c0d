# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Numbers of other normalizers than SN that were computed elsewhere."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from tests.paths import DATA


def fixture_of(name: str) -> dict[str, Tensor]:
    """The arrays of a file in tests/data/family; 'info' is left out."""
    with np.load(DATA / 'family' / f'{name}.npz') as file:
        return {
            key: torch.from_numpy(file[key])
            for key in file.files
            if key != 'info'
        }
