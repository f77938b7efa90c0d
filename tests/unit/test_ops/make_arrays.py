# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Store what mmcv's compiled operators give in every case of cases.py.

    python -m tests.unit.test_ops.make_arrays

Needs an mmcv with compiled operators. Writes tests/data/mmcv_operators.npz.
"""

from __future__ import annotations

import mmcv._ext
import numpy as np
import torch

from tests.paths import DATA
from tests.unit.test_ops.cases import all_cases

ARRAYS = DATA / 'mmcv_operators.npz'


def main() -> None:
    if not mmcv._ext.__file__.endswith(('.so', '.pyd')):
        raise SystemExit('mmcv has no compiled operators here')
    torch.set_num_threads(1)
    arrays = {
        f'{name}/{key}': value.numpy()
        for name, case in all_cases().items()
        for key, value in case().items()
    }
    np.savez_compressed(ARRAYS, **arrays)
    print(f'{len(arrays)} arrays, {ARRAYS.stat().st_size / 1e3:.0f} kB')


if __name__ == '__main__':
    main()
