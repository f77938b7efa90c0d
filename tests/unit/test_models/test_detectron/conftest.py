# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Arrays that the public detection code computed."""

import numpy as np
import pytest
import torch

from tests.paths import DATA


@pytest.fixture(scope='module')
def conventions():
    path = DATA / 'detectron_conventions.npz'
    with np.load(path) as arrays:
        return {k: torch.from_numpy(arrays[k]) for k in arrays.files}
