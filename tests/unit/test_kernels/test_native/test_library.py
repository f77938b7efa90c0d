# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""C files compiled, kept and loaded, and what can go wrong with that."""

import ctypes
import os
import pwd
import shutil
import stat
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import pytest
import torch

from sn_mm.kernels.native import library as module
from sn_mm.kernels.native import sweeps
from sn_mm.kernels.native.library import (
    Library,
    cache_folder,
    check_fields,
    write_whole,
)
from tests.unit.test_kernels.rows import WITHOUT_THE_REST

needs_compiler = pytest.mark.skipif(
    shutil.which('cc') is None, reason='no C compiler'
)
SOURCE = """
#include <stdint.h>
void twice(int64_t *x) { *x *= 2; }
"""


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    monkeypatch.setattr(module, '_warned', False)
    monkeypatch.delenv('CC', raising=False)


@pytest.fixture
def source(tmp_path):
    path = tmp_path / 'small.c'
    path.write_text(SOURCE)
    return path


def make(source, **kwargs):
    return Library(source, {'twice': (ctypes.c_void_p,)}, **kwargs)


def works(library):
    """Whether it loads, without a warning, and computes."""
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        return computes(library)


def computes(library):
    loaded = library.get()
    if loaded is None:
        return False
    value = ctypes.c_int64(21)
    loaded.twice(ctypes.byref(value))
    return value.value == 42


def kept():
    return sorted(cache_folder().glob('*.so'))


def write_compiler(tmp_path, text):
    """An executable that stands for a compiler, as CC names it."""
    path = tmp_path / 'compiler'
    path.write_text(f'#!{sys.executable}\n{text}')
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


@needs_compiler
def test_compiled_once_and_kept(source, monkeypatch):
    assert works(make(source))
    (path,) = kept()
    monkeypatch.setenv('CC', '/no/such/compiler')
    assert works(make(source))
    assert kept() == [path]


@needs_compiler
def test_another_source_header_or_flag_is_compiled_anew(source):
    assert works(make(source))
    assert works(make(source, flags=('-O1',)))
    source.with_name('new.h').write_text('/* */')
    assert works(make(source))
    assert len(kept()) == 3


@needs_compiler
@pytest.mark.parametrize('standard', ['c89', 'iso9899:199409', 'gnu17'])
def test_whatever_standard_of_c_the_users_compiler_is_set_to(
    standard, source, monkeypatch
):
    source.write_text(
        '#include <stdint.h>\n'
        'void twice(int64_t *x) { for (int i = 0; i < 1; i++) *x *= 2; }'
    )
    monkeypatch.setenv('CC', f'cc -std={standard} -pedantic-errors')
    assert works(make(source))


@needs_compiler
@pytest.mark.parametrize('content', [b'', b'no library', None])
def test_a_broken_library_is_compiled_again(source, content):
    assert works(make(source))
    (path,) = kept()
    whole = path.read_bytes()
    path.unlink()  # this process has it in memory
    path.write_bytes(whole[: len(whole) // 2] if content is None else content)
    with pytest.warns(RuntimeWarning, match='XDG_CACHE_HOME') as caught:
        assert computes(make(source))
    assert len(caught) == 1
    assert path.read_bytes() == whole
    module._warned = False
    assert works(make(source))


@needs_compiler
def test_a_library_that_cannot_be_read_is_compiled_again(source):
    assert works(make(source))
    (path,) = kept()
    path.unlink()
    path.mkdir()
    with pytest.warns(RuntimeWarning, match='XDG_CACHE_HOME') as caught:
        assert computes(make(source))
    assert len(caught) == 1


def no_home(monkeypatch):
    def unknown(uid):
        raise KeyError(uid)

    monkeypatch.delenv('XDG_CACHE_HOME')
    monkeypatch.delenv('HOME')
    monkeypatch.setattr(pwd, 'getpwuid', unknown)
    # as Python 3.9 does; later ones raise RuntimeError
    monkeypatch.setattr(Path, 'home', lambda: unknown(0))


@needs_compiler
@pytest.mark.parametrize('root', ['file', 'missing', 'no home'])
def test_where_nothing_can_be_kept_it_is_compiled_for_the_process(
    root, source, monkeypatch, tmp_path
):
    if root == 'no home':
        no_home(monkeypatch)
    elif root == 'file':
        monkeypatch.setenv('XDG_CACHE_HOME', str(source))
    else:
        monkeypatch.setenv('XDG_CACHE_HOME', '/proc/no/such/folder')
    with pytest.warns(RuntimeWarning, match='XDG_CACHE_HOME') as caught:
        assert computes(make(source))
        assert computes(make(source))
    assert len(caught) == 1 and '..' not in str(caught[0].message)


@needs_compiler
def test_a_cache_that_libraries_cannot_be_loaded_from(source, monkeypatch):
    """As where it is mounted with noexec."""
    load = ctypes.CDLL

    def refuse(path):
        if path.startswith(str(cache_folder())):
            raise OSError('failed to map segment from shared object')
        return load(path)

    monkeypatch.setattr(module.ctypes, 'CDLL', refuse)
    with pytest.warns(RuntimeWarning, match='failed.*XDG_CACHE_HOME') as seen:
        assert computes(make(source))
    assert len(seen) == 1 and not kept()


@needs_compiler
def test_a_relative_cache_counts_as_none(source, monkeypatch, tmp_path):
    monkeypatch.setenv('XDG_CACHE_HOME', 'here')
    monkeypatch.setenv('HOME', str(tmp_path / 'home'))
    assert works(make(source))
    assert cache_folder() == tmp_path / 'home/.cache/sn_mm/kernels'


@needs_compiler
def test_without_a_temporary_folder_the_cache_is_used(source, monkeypatch):
    monkeypatch.setattr(tempfile, 'tempdir', '/proc/no/such/folder')
    assert works(make(source))
    assert [p.suffix for p in cache_folder().iterdir()] == ['.so']


@pytest.mark.parametrize(
    'text,said',
    [
        (
            r"import os; os.write(2, b'Erreur \xe9\xff'); exit(1)",
            'Erreur',
        ),
        ('exit(1)', 'said nothing'),
        ('exit(0)', 'said nothing'),
        ("import sys; open(sys.argv[-1], 'w').write('text')", 'small'),
        ('import os; os.kill(os.getpid(), 9)', 'said nothing'),
    ],
)
def test_a_compiler_that_fails(text, said, source, monkeypatch, tmp_path):
    monkeypatch.setenv('CC', write_compiler(tmp_path, text))
    library = make(source)
    with pytest.warns(RuntimeWarning, match='with PyTorch alone') as caught:
        assert library.get() is None
        assert library.get() is None
    assert len(caught) == 1 and said in str(caught[0].message)
    assert said in library.why_not()
    assert not kept()  # nothing that the next process would stumble over


@pytest.mark.parametrize('name', ['/no/such/compiler', "cc 'unclosed", ' '])
def test_a_compiler_that_cannot_be_started(name, source, monkeypatch):
    monkeypatch.setenv('CC', name)
    with pytest.warns(RuntimeWarning, match='small.c was not compiled'):
        assert make(source).get() is None


def test_no_compiler(source, monkeypatch, tmp_path):
    monkeypatch.setenv('PATH', str(tmp_path))
    with pytest.warns(RuntimeWarning, match='no C compiler'):
        assert make(source).get() is None


@needs_compiler
def test_a_library_without_its_functions_is_none(source):
    library = Library(source, {'thrice': ()})
    with pytest.warns(RuntimeWarning, match='thrice'):
        assert library.get() is None


@needs_compiler
def test_a_library_that_fails_its_check_is_none(source):
    def check(loaded):
        raise OSError('other fields')

    with pytest.warns(RuntimeWarning, match='other fields'):
        assert make(source, check=check).get() is None


@needs_compiler
def test_several_processes_at_once(source):
    code = f"""
import ctypes, warnings
from pathlib import Path
from sn_mm.kernels.native.library import Library
warnings.simplefilter('error')
library = Library(Path({str(source)!r}), {{'twice': (ctypes.c_void_p,)}})
value = ctypes.c_int64(21)
library.get().twice(ctypes.byref(value))
print(value.value)
"""
    running = [
        subprocess.Popen(
            [sys.executable, '-c', WITHOUT_THE_REST + code],
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    assert [p.communicate()[0].strip() for p in running] == ['42'] * 3
    assert len(kept()) == 1 and list(cache_folder().iterdir()) == kept()


def test_a_failed_write_leaves_nothing(monkeypatch, tmp_path):
    def fail(*args):
        raise OSError('no space')

    monkeypatch.setattr(os, 'replace', fail)
    with pytest.raises(OSError, match='no space'):
        write_whole(tmp_path / 'folder/file', b'content')
    assert list((tmp_path / 'folder').iterdir()) == []


def test_without_a_library_sweeps_are_right_through_aten(tmp_path):
    """In a process of its own, whose only compiler fails."""
    compiler = write_compiler(
        tmp_path, r"import sys; sys.stderr.buffer.write(b'\xe9'); exit(1)"
    )
    code = """
import torch
from sn_mm.kernels.native import sweeps
x = torch.randn(2, 3, 4, 5)
assert 'sweeps.c was not compiled' in sweeps.why_not(x), sweeps.why_not(x)
assert 'sweeps.c was not compiled' in sweeps.describe_library()
mean, var = sweeps.moments(x)
print(torch.allclose(mean.float(), x.mean((2, 3)), atol=1e-6))
"""
    done = subprocess.run(
        [sys.executable, '-c', WITHOUT_THE_REST + code],
        capture_output=True,
        text=True,
        env={**os.environ, 'CC': compiler},
    )
    assert done.stdout.strip() == 'True', done.stderr
    assert done.stderr.count('Warning') == 1, done.stderr


@needs_compiler
@pytest.mark.skipif(sys.platform != 'linux', reason="the linker's default")
def test_a_compiler_without_its_openmp_runtime_compiles_without_threads(
    source,
):
    """What clang calls of its runtime; nothing here has it."""
    source.write_text(
        '#include <stdint.h>\nvoid __kmpc_none(void);\n'
        'void twice(int64_t *x) {\n *x *= 2;\n'
        '#ifdef _OPENMP\n __kmpc_none();\n#endif\n}'
    )
    assert works(make(source))


@needs_compiler
def test_a_cache_whose_name_is_no_text(source, monkeypatch, tmp_path):
    """Once a library there is loaded, it is among the mapped files."""
    cache = os.fsencode(tmp_path) + b'/\xe9\xff'
    monkeypatch.setenv('XDG_CACHE_HOME', os.fsdecode(cache))
    assert works(make(source))
    assert str(kept()[0]) in module._mapped_files()
    assert works(make(source, flags=('-O1',)))


@needs_compiler
def test_linked_with_the_openmp_runtime_that_pytorch_has_loaded():
    runtimes = {
        Path(path).resolve()
        for path in module._mapped_files()
        if Path(path).name.startswith(('libgomp', 'libiomp5', 'libomp'))
    }
    assert sweeps.why_not(torch.zeros(1, 1)) is None
    after = {
        Path(path).resolve()
        for path in module._mapped_files()
        if Path(path).name.startswith(('libgomp', 'libiomp5', 'libomp'))
    }
    assert after == runtimes


# -- structures -----------------------------------------------------------
PAIR = """
#include <stddef.h>
#include <stdint.h>
typedef struct { int64_t first; double second; } pair;
const int64_t pair_fields[] = {sizeof(pair), offsetof(pair, first),
                               offsetof(pair, second)};
void twice(int64_t *x) { *x *= 2; }
"""


def structure(*fields):
    return type('Pair', (ctypes.Structure,), {'_fields_': list(fields)})


@needs_compiler
@pytest.mark.parametrize(
    'kinds,fits',
    [
        ((ctypes.c_int64, ctypes.c_double), True),
        ((ctypes.c_int32, ctypes.c_float), False),
        ((ctypes.c_char * 16, ctypes.c_double), False),
    ],
)
def test_a_structure_that_c_lays_out_otherwise_is_refused(source, kinds, fits):
    source.write_text(PAIR)
    pair = structure(*zip(('first', 'second'), kinds))
    library = make(
        source, check=lambda found: check_fields(found, 'pair_fields', pair)
    )
    if fits:
        assert works(library)
        return
    with pytest.warns(RuntimeWarning, match='pair_fields are'):
        assert library.get() is None
    assert 'in Python' in library.why_not()
