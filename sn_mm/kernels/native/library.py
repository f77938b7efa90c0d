# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""C files of this package, compiled and loaded.

They need no header of PyTorch: one compiles in seconds, once a machine, at
first use, and is kept in the user's cache. Where that cannot be, one warning
says why and PyTorch's own kernels do the work.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

# Of two -std the later one holds, and CC may name an old one.
_BASE = ('-std=gnu11', '-march=native', '-fno-math-errno', '-shared', '-fPIC')
if sys.platform == 'linux':
    # Else a compiler whose OpenMP is not there links what cannot be loaded.
    _BASE += ('-Wl,-z,defs',)
# Tried in turn: not every compiler knows every flag, and no threads are
# better than no library (Apple's clang has no OpenMP).
_THREADS = (('-fopenmp',), ('-fopenmp-simd',), ())
_SECONDS = 120  # for one compilation, on a machine that does much else
_ERRORS = (
    OSError,  # files, also what ctypes raises for a broken library
    RuntimeError,  # no home folder
    ValueError,  # a compiler's name that is no command line
    AttributeError,  # a library that lacks a function
    subprocess.SubprocessError,
)


class Library:
    """One C file, compiled and loaded when it is first asked for.

    Args:
        source: the C file; headers beside it are part of what is compiled.
        functions: argument types by function name; they return nothing.
        flags: the compiler's, beside those that all files get.
        check: called with the loaded library; raises OSError if it is not
            what is expected.
    """

    def __init__(
        self,
        source: Path,
        functions: Mapping[str, Sequence[type]],
        flags: Sequence[str] = (),
        check: Callable[[ctypes.CDLL], None] | None = None,
    ) -> None:
        self.source = source
        self.functions = functions
        self.flags = tuple(flags)
        self.check = check
        self._lock = threading.Lock()
        self._tried = False
        self._loaded: ctypes.CDLL | None = None
        self._reason = ''
        if hasattr(os, 'register_at_fork'):
            os.register_at_fork(after_in_child=self._forget_lock)

    def get(self) -> ctypes.CDLL | None:
        """The loaded library, or None; :meth:`why_not` then says why."""
        if not self._tried:
            with self._lock:
                if not self._tried:
                    self._load()
                    self._tried = True
        return self._loaded

    def why_not(self) -> str | None:
        """Why there is no library, in a sentence; None where there is."""
        return None if self.get() is not None else self._reason

    def command(self) -> list[str]:
        """Compiler and flags, for reports; empty without a compiler."""
        try:
            command, attempts = self._commands()
        except _ERRORS:
            return []
        return [*command[:-1], *attempts[0]]

    def files(self) -> list[Path]:
        """The C file and the headers beside it."""
        return [self.source, *sorted(self.source.parent.glob('*.h'))]

    def _forget_lock(self) -> None:
        # another thread may have held it when this process was forked off
        self._lock = threading.Lock()

    def _load(self) -> None:
        try:
            self._loaded = self._from_cache() or self._compiled()
        except _ERRORS as error:
            self._reason = f'{self.source.name} was not compiled: {error}'
            _warn(
                f'sn_mm computes on the CPU with PyTorch alone, several '
                f'times slower than with its own C kernels: {self._reason} '
                '(what is compiled is kept in ~/.cache, or where '
                'XDG_CACHE_HOME says)'
            )

    def _from_cache(self) -> ctypes.CDLL | None:
        """The library as it was kept, if it is whole."""
        with contextlib.suppress(OSError, RuntimeError):  # no such folder
            for path in cache_folder().glob(f'{self._name()}-*.so'):
                try:
                    # a library cut short would crash where it is used
                    if not path.stem.endswith(_digest(path.read_bytes())):
                        raise OSError(f'{path} is not whole')
                    return self._opened(path)
                except _ERRORS as error:
                    _warn(
                        f'sn_mm compiles its C kernels again, since what was '
                        f'kept cannot be loaded: {error}. If that repeats, '
                        'set XDG_CACHE_HOME to another folder.'
                    )
        return None

    def _compiled(self) -> ctypes.CDLL:
        """Compile, keep if possible, and load."""
        command, attempts = self._commands()
        with _build_folder() as folder:
            built = Path(folder) / f'{self._name()}.so'
            _compile(command, attempts, built)
            kept = self._keep(built)
            try:
                return self._opened(kept or built)
            except _ERRORS as error:
                if kept is None:
                    raise
                with contextlib.suppress(OSError):
                    kept.unlink()  # else the next process would warn of it
                loaded = self._opened(built)
                _warn_of_cache(error)  # a folder that allows no programs
                return loaded

    def _keep(self, built: Path) -> Path | None:
        """Put a compiled library into the cache; None if that fails."""
        content = built.read_bytes()
        try:
            path = cache_folder() / f'{built.stem}-{_digest(content)}.so'
            write_whole(path, content)
            return path
        except (OSError, RuntimeError) as error:
            _warn_of_cache(error)
            return None

    def _commands(self) -> tuple[list[str], list[tuple[str, ...]]]:
        """How to compile, and flags to try in turn."""
        name = os.environ.get('CC') or next(
            filter(None, map(shutil.which, ('cc', 'gcc', 'clang'))), None
        )
        if name is None:
            raise OSError('there is no C compiler (cc, gcc or clang)')
        runtime = _openmp()
        linked = ('-Wl,--as-needed', runtime) if runtime else ()
        attempts = [(*f, *linked) for f in _THREADS[:1] if linked]
        command = [*shlex.split(name), *_BASE, *self.flags, str(self.source)]
        return command, [*attempts, *_THREADS]

    def _opened(self, path: Path) -> ctypes.CDLL:
        loaded = ctypes.CDLL(str(path))
        for name, types in self.functions.items():
            function = getattr(loaded, name)
            function.restype = None
            function.argtypes = types
        if self.check is not None:
            self.check(loaded)
        return loaded

    def _name(self) -> str:
        """Of what the library depends on: sources, flags and the machine."""
        digest = hashlib.sha256()
        for path in self.files():
            digest.update(path.read_bytes())
        made_with = (_BASE, _THREADS, self.flags, processor(), _openmp())
        digest.update(repr(made_with).encode())
        return f'{self.source.stem}-{digest.hexdigest()[:16]}'


def check_fields(
    library: ctypes.CDLL, name: str, structure: type[ctypes.Structure]
) -> None:
    """Raise OSError unless Python and C agree on where fields are.

    Args:
        library: a loaded C file.
        name: of an array of int64 in it: the structure's size, and the
            offset of each field.
        structure: the same in Python.
    """
    here = [ctypes.sizeof(structure)]
    here += [getattr(structure, f).offset for f, *_ in structure._fields_]
    there = list((ctypes.c_int64 * len(here)).in_dll(library, name))
    if there != here:
        raise OSError(f'{name} are {there} in C, {here} in Python')


def cache_folder() -> Path:
    """Where compiled files are kept; it need not exist.

    Raises:
        RuntimeError: if the user has no home folder.
    """
    root = os.environ.get('XDG_CACHE_HOME', '')
    if not os.path.isabs(root):  # such a setting counts as none
        home = os.path.expanduser('~')  # Path.home raises other errors in 3.9
        if not os.path.isabs(home):
            raise RuntimeError('this user has no home folder')
        root = os.path.join(home, '.cache')
    return Path(root) / 'sn_mm' / 'kernels'


def write_whole(path: Path, content: bytes) -> None:
    """Write a file that other processes see whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent)
    try:
        with os.fdopen(handle, 'wb') as file:
            file.write(content)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise


def processor() -> str:
    """What -march=native depends on: a home may be shared by machines."""
    try:
        lines = Path('/proc/cpuinfo').read_text().splitlines()
    except OSError:
        lines = []
    facts = ('model name', 'flags', 'Features')
    found = dict(x.split(':', 1) for x in lines if x.startswith(facts))
    return ' '.join([platform.system(), platform.machine(), *found.values()])


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _build_folder() -> contextlib.AbstractContextManager[str]:
    """A folder to compile in, gone afterwards.

    The temporary one, or the cache where there is none.
    """
    try:
        return tempfile.TemporaryDirectory()
    except OSError:
        cache_folder().mkdir(parents=True, exist_ok=True)
        return tempfile.TemporaryDirectory(dir=cache_folder())


def _compile(
    command: Sequence[str], attempts: Sequence[Sequence[str]], built: Path
) -> None:
    """Run the compiler with one set of flags after the other.

    Raises:
        OSError: with the compiler's last words, if none does.
    """
    said = b''
    for flags in attempts:
        result = subprocess.run(
            [*command, *flags, '-lm', '-o', str(built)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_SECONDS,
        )
        if result.returncode == 0 and built.exists():
            return
        said = result.stderr or result.stdout or said
    # in whatever language and encoding the compiler speaks
    text = said.decode(errors='replace').strip() or 'it said nothing'
    raise OSError(f'{command[0]} failed: {text[-500:]}')


def _openmp() -> str | None:
    """The OpenMP runtime that PyTorch has loaded.

    To be linked with: a second runtime would bring a second pool of
    threads, and the waiting ones of one keep the other's from the cores.
    """
    for path in _mapped_files():
        name = os.path.basename(path)
        if name.startswith(('libgomp', 'libiomp5', 'libomp')):
            return path
    return None


def _mapped_files() -> Iterator[str]:
    """Files that are mapped into this process's memory."""
    try:
        lines = Path('/proc/self/maps').read_bytes().splitlines()
    except OSError:
        return
    for line in lines:
        fields = line.split(maxsplit=5)
        if len(fields) == 6 and fields[5].startswith(b'/'):
            yield os.fsdecode(fields[5])  # names need be no text


_warned = False


def _warn(message: str) -> None:
    """One warning a process; the reasons of a second would be the same."""
    global _warned
    if not _warned:
        _warned = True
        warnings.warn(message, RuntimeWarning, stacklevel=2)


def _warn_of_cache(error: Exception) -> None:
    reason = str(error).rstrip('.')
    _warn(
        f'the C kernels of sn_mm cannot be kept: {reason}. Every process '
        'compiles them anew; set XDG_CACHE_HOME to a folder that this user '
        'can write to and load libraries from.'
    )
