# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""The passes in C (rows.c): float32 on the CPU, where there is a compiler.

PyTorch has no CPU kernel that takes the moments of a row, or combines two
rows with per-row factors, in one sweep over memory. rows.c does, without any
header of PyTorch: it compiles in a second, once a machine, at first use.
Without a compiler, or with SN_MM_NATIVE=0 in the environment, PyTorch's
kernels do the same in more sweeps.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

import torch
from torch import Tensor

_SOURCE = Path(__file__).with_name('rows.c')
# No threads is better than no library: Apple's clang has no OpenMP.
_FLAGS = (('-fopenmp',), ('-fopenmp-simd',), ())
_logger = logging.getLogger(__name__)


def takes(rows: Tensor) -> bool:
    """Whether these rows (R, S) are the library's to work on."""
    return (
        rows.dtype == torch.float32
        and rows.device.type == 'cpu'
        and type(rows) is Tensor
        and _library() is not None
    )


def moments(rows: Tensor) -> Tensor:
    """Mean and biased variance (2, R) of every row (R, S), float64."""
    out = _pair(rows)
    _library().sn_moments(
        _at(rows),
        *rows.shape,
        _at(out[0]),
        _at(out[1]),
        torch.get_num_threads(),
    )
    return out


def affine(rows: Tensor, m: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """scale * (rows - m) + shift; m, scale, shift: (R,)."""
    m, scale, shift = _doubles(m, scale, shift)
    out = torch.empty_like(rows)
    _library().sn_affine(
        _at(rows),
        *rows.shape,
        _at(m),
        _at(scale),
        _at(shift),
        _at(out),
        torch.get_num_threads(),
    )
    return out


def grad_sums(dy: Tensor, rows: Tensor, m: Tensor) -> tuple[Tensor, Tensor]:
    """sum(dy) and sum(dy * (rows - m)), each (R,), float64."""
    (m,) = _doubles(m)
    out = _pair(rows)
    _library().sn_grad_sums(
        _at(dy),
        _at(rows),
        *rows.shape,
        _at(m),
        _at(out[0]),
        _at(out[1]),
        torch.get_num_threads(),
    )
    return tuple(out)


def input_grad(
    dy: Tensor,
    rows: Tensor,
    m: Tensor,
    scale: Tensor,
    slope: Tensor,
    offset: Tensor,
) -> Tensor:
    """scale * dy + slope * (rows - m) + offset; vectors (R,)."""
    m, scale, slope, offset = _doubles(m, scale, slope, offset)
    out = torch.empty_like(rows)
    _library().sn_input_grad(
        _at(dy),
        _at(rows),
        *rows.shape,
        _at(m),
        _at(scale),
        _at(slope),
        _at(offset),
        _at(out),
        torch.get_num_threads(),
    )
    return out


def _at(t: Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(t.data_ptr())


def _pair(rows: Tensor) -> Tensor:
    return torch.empty(2, rows.shape[0], dtype=torch.float64)


def _doubles(*ts: Tensor) -> list[Tensor]:
    return [t.to(torch.float64).contiguous() for t in ts]


@functools.cache
def _library() -> ctypes.CDLL | None:
    """rows.c compiled and loaded, or None where that is not possible."""
    if os.environ.get('SN_MM_NATIVE', '1') == '0':
        return None
    try:
        path = _cached()
        if not path.exists():
            _compile(path)
        library = ctypes.CDLL(str(path))
    except (OSError, subprocess.CalledProcessError) as error:
        _logger.info('rows.c not compiled, PyTorch kernels instead: %s', error)
        return None
    sizes = [ctypes.c_int64] * 2
    pointer, threads = ctypes.c_void_p, ctypes.c_int
    for name, inputs, vectors in (
        ('moments', 1, 2),
        ('affine', 1, 4),
        ('grad_sums', 2, 3),
        ('input_grad', 2, 5),
    ):
        function = getattr(library, f'sn_{name}')
        function.restype = None
        function.argtypes = [
            *[pointer] * inputs,
            *sizes,
            *[pointer] * vectors,
            threads,
        ]
    return library


def _cached() -> Path:
    """Where this machine's build of this source is kept."""
    root = os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache'
    key = _SOURCE.read_bytes() + _processor().encode()
    digest = hashlib.sha256(key).hexdigest()[:16]
    return Path(root) / 'sn_mm' / 'kernels' / f'rows-{digest}.so'


def _processor() -> str:
    """What -march=native depends on: a home may be shared by machines."""
    try:
        lines = Path('/proc/cpuinfo').read_text().splitlines()
    except OSError:
        lines = []
    flags = [x for x in lines if x.startswith(('flags', 'Features'))][:1]
    return ' '.join([platform.system(), platform.machine(), *flags])


def _compile(path: Path) -> None:
    """Compile rows.c; processes that do so at once do not disturb."""
    compiler = os.environ.get('CC') or next(
        filter(None, map(shutil.which, ('cc', 'gcc', 'clang'))), None
    )
    if compiler is None:
        raise OSError('no C compiler (cc, gcc or clang) on the PATH')
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        built = Path(folder) / path.name
        for openmp in _FLAGS:
            command = [
                *compiler.split(),
                '-O3',
                '-march=native',
                '-fno-math-errno',
                '-shared',
                '-fPIC',
                *openmp,
                str(_SOURCE),
                '-o',
                str(built),
            ]
            result = subprocess.run(command, capture_output=True, text=True)
            if result.returncode == 0:
                os.replace(built, path)
                return
    raise OSError(result.stderr.strip() or f'{compiler} failed')
