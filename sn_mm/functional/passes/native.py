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
_BASE = ('-O3', '-march=native', '-fno-math-errno', '-shared', '-fPIC')
_WIDE = '-mprefer-vector-width=512'
# Tried in turn: not every compiler knows every flag, and no threads are
# better than no library (Apple's clang has no OpenMP).
_FLAGS = ((_WIDE, '-fopenmp'), ('-fopenmp',), ('-fopenmp-simd',), ())
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
    """See :func:`.aten.moments`; likewise the others here."""
    out = _doubles(rows)
    _call('moments', rows, *rows.shape, out)
    return out


def apply(rows, m, mixed, weight, bias, eps) -> Tensor:
    out = torch.empty_like(rows)
    weight, bias = _wide(weight), _wide(bias)
    channels = _channels(rows, weight, bias)
    _call(
        'apply', rows, *rows.shape, channels, m, mixed, weight, bias, eps, out
    )
    return out


def reduce(dy, rows, m, mixed, weight, eps) -> tuple[Tensor, Tensor]:
    sums, d_mixed, weight = _doubles(rows), _doubles(rows), _wide(weight)
    _call(
        'reduce',
        dy,
        rows,
        *rows.shape,
        _channels(rows, weight),
        m,
        mixed,
        weight,
        eps,
        sums,
        d_mixed,
    )
    return sums, d_mixed


def input_grad(dy, rows, m, var, weight, eps, d_moments) -> Tensor:
    out, weight = torch.empty_like(rows), _wide(weight)
    _call(
        'input_grad',
        dy,
        rows,
        *rows.shape,
        _channels(rows, weight),
        m,
        var,
        weight,
        eps,
        d_moments,
        out,
    )
    return out


def _doubles(rows: Tensor) -> Tensor:
    return torch.empty(2, rows.shape[0], dtype=torch.float64)


def _wide(t: Tensor | None) -> Tensor | None:
    return None if t is None else t.detach().to(torch.float64)


def _channels(rows: Tensor, *vectors: Tensor | None) -> int:
    lengths = [len(t) for t in vectors if t is not None]
    return lengths[0] if lengths else rows.shape[0]


def _call(name: str, *args) -> None:
    """Call sn_<name>; tensors go as the addresses of contiguous data."""
    kept = [t.contiguous() if isinstance(t, Tensor) else t for t in args]
    getattr(_library(), f'sn_{name}')(
        *(t.data_ptr() if isinstance(t, Tensor) else t for t in kept),
        torch.get_num_threads(),
    )


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
    p, i, d = ctypes.c_void_p, ctypes.c_int64, ctypes.c_double
    for name, types in {
        'moments': (p, i, i, p),
        'apply': (p, i, i, i, p, p, p, p, d, p),
        'reduce': (p, p, i, i, i, p, p, p, d, p, p),
        'input_grad': (p, p, i, i, i, p, p, p, d, p, p),
    }.items():
        function = getattr(library, f'sn_{name}')
        function.restype = None
        function.argtypes = (*types, ctypes.c_int)
    return library


def _cached() -> Path:
    """Where this machine's build of this source is kept."""
    root = os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache'
    key = _SOURCE.read_bytes() + repr((_BASE, _FLAGS, _processor())).encode()
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
        for flags in _FLAGS:
            command = [*compiler.split(), *_BASE, *flags, str(_SOURCE)]
            command += ['-o', str(built)]
            result = subprocess.run(command, capture_output=True, text=True)
            if result.returncode == 0:
                os.replace(built, path)
                return
    raise OSError(result.stderr.strip() or f'{compiler} failed')
