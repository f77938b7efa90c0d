# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""switch.c compiled and loaded.

It needs no header of PyTorch: it compiles in a second, once a machine, at
first use, and is kept in the user's cache.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import logging
import os
import platform
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

_SOURCE = Path(__file__).with_name('switch.c')
_HEADERS = [_SOURCE.with_name(name) for name in ('rows.h', 'columns.h')]
_BASE = ('-O3', '-march=native', '-fno-math-errno', '-shared', '-fPIC')
_WIDE = '-mprefer-vector-width=512'
# Tried in turn: not every compiler knows every flag, and no threads are
# better than no library (Apple's clang has no OpenMP).
_FLAGS = ((_WIDE, '-fopenmp'), ('-fopenmp',), ('-fopenmp-simd',), ())
_logger = logging.getLogger(__name__)

_P, _C = ctypes.c_void_p, ctypes.c_int
_SIGNATURES = {
    'collect': (_P, _P, _C),
    'apply': (_P, _P, _P, _C),
    'reduce': (_P, _P, _P, _C, *5 * (_P,), _C),
    'input_grad': (_P, _P, _P, _P, _P, _C),
    'move': (*4 * (_P,), *2 * (ctypes.c_int64,), ctypes.c_double),
}


@functools.cache
def library() -> ctypes.CDLL | None:
    """The library, or None where it cannot be made.

    That is without a C compiler, or with SN_MM_NATIVE=0 in the environment.
    """
    if os.environ.get('SN_MM_NATIVE', '1') == '0':
        return None
    try:
        path = _cached()
        if not path.exists():
            _compile(path)
        loaded = ctypes.CDLL(str(path))
    except (OSError, subprocess.CalledProcessError) as error:
        _logger.info('switch.c not compiled, PyTorch instead: %s', error)
        return None
    for name, types in _SIGNATURES.items():
        function = getattr(loaded, f'sn_{name}')
        function.restype = None
        function.argtypes = types
    return loaded


def _cached() -> Path:
    """Where this machine's build of this source is kept."""
    root = os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache'
    flags = (_BASE, _FLAGS, _processor(), _openmp())
    key = b''.join(p.read_bytes() for p in (_SOURCE, *_HEADERS))
    digest = hashlib.sha256(key + repr(flags).encode()).hexdigest()[:16]
    return Path(root) / 'sn_mm' / 'kernels' / f'switch-{digest}.so'


def _processor() -> str:
    """What -march=native depends on: a home may be shared by machines."""
    try:
        lines = Path('/proc/cpuinfo').read_text().splitlines()
    except OSError:
        lines = []
    flags = [x for x in lines if x.startswith(('flags', 'Features'))][:1]
    return ' '.join([platform.system(), platform.machine(), *flags])


def _openmp() -> str | None:
    """The OpenMP runtime that PyTorch has loaded.

    To be linked with: a second runtime would bring a second pool of
    threads, and the waiting ones of one keep the other's from the cores.
    """
    try:
        maps = Path('/proc/self/maps').read_text()
    except OSError:
        return None
    found = re.search(r'/\S*/lib(?:gomp|iomp5|omp)[-.]\S*', maps)
    return found.group() if found else None


def _compile(path: Path) -> None:
    """Compile switch.c; processes that do so at once do not disturb."""
    compiler = os.environ.get('CC') or next(
        filter(None, map(shutil.which, ('cc', 'gcc', 'clang'))), None
    )
    if compiler is None:
        raise OSError('no C compiler (cc, gcc or clang) on the PATH')
    runtime = _openmp()
    linked = ('-Wl,--as-needed', runtime) if runtime else ()
    attempts = [(*f, *linked) for f in _FLAGS if linked and '-fopenmp' in f]
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        built = Path(folder) / path.name
        for flags in (*attempts, *_FLAGS):
            command = [*compiler.split(), *_BASE, str(_SOURCE), *flags]
            command += ['-lm', '-o', str(built)]
            result = subprocess.run(command, capture_output=True, text=True)
            if result.returncode == 0:
                os.replace(built, path)
                return
    raise OSError(result.stderr.strip() or f'{compiler} failed')
