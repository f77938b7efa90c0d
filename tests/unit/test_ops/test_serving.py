# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Where mmcv._ext comes from, and what a missing operator says."""

import os
import subprocess
import sys
import types
from pathlib import Path

import mmcv._ext
import pytest
import torch

import sn_mm
import sn_mm_ops

ROOT = Path(sn_mm.__file__).resolve().parents[1]
COMPILED = mmcv._ext.__file__.endswith(('.so', '.pyd'))


def run_python(code: str, path=()) -> str:
    """Standard output of a fresh interpreter; it must succeed."""
    path = [*path, ROOT]
    done = subprocess.run(
        [sys.executable, '-W', 'ignore', '-c', code],
        cwd=path[0],
        env={**os.environ, 'PYTHONPATH': os.pathsep.join(map(str, path))},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture
def bare_mmcv(tmp_path):
    """A package mmcv without operators."""
    (tmp_path / 'mmcv').mkdir()
    (tmp_path / 'mmcv' / '__init__.py').touch()
    return tmp_path


def test_serving_imports_neither_torch_nor_sn_mm():
    code = (
        'import sys, sn_mm_ops; sn_mm_ops.serve(); '
        'print({"torch", "sn_mm", "importlib.util"} & set(sys.modules))'
    )
    assert run_python(code).startswith(('set()', "{'importlib.util'}"))


def test_operators_do_not_import_the_rest_of_sn_mm(bare_mmcv):
    code = (
        'import sys, sn_mm_ops; sn_mm_ops.serve(); import mmcv._ext; '
        'print(mmcv._ext.nms.__module__, "sn_mm" in sys.modules)'
    )
    printed = run_python(code, path=[bare_mmcv])
    assert printed == 'mmcv._ext.nms False'


def test_a_compiled_module_is_found_first(bare_mmcv):
    (bare_mmcv / 'mmcv' / '_ext.py').write_text('compiled = True')
    code = (
        'import sn_mm_ops; sn_mm_ops.serve(); import mmcv._ext; '
        'print(mmcv._ext.compiled, hasattr(mmcv._ext, "nms"))'
    )
    assert run_python(code, path=[bare_mmcv]) == 'True False'


def test_a_compiled_module_that_does_not_load_stays_an_error(bare_mmcv):
    (bare_mmcv / 'mmcv' / '_ext.py').write_text('raise ImportError("torch")')
    code = (
        'import sn_mm_ops; sn_mm_ops.serve()\n'
        'try: import mmcv._ext\n'
        'except ImportError as error: print(error)'
    )
    assert run_python(code, path=[bare_mmcv]) == 'torch'


def test_nothing_is_served_once_the_operators_are_gone(tmp_path, bare_mmcv):
    left = tmp_path / 'left'
    left.mkdir()
    (left / 'sn_mm_ops.py').write_text(
        Path(sn_mm_ops.__file__).read_text(encoding='utf-8')
    )
    code = (
        'import sn_mm_ops; sn_mm_ops.serve()\n'
        'try: import mmcv._ext\n'
        'except ModuleNotFoundError as error: print(error.name)'
    )
    printed = run_python(code, path=[left, bare_mmcv])
    assert printed == 'mmcv._ext'


def test_import_of_sn_mm_serves():
    assert sn_mm_ops._Finder in sys.modules['sys'].meta_path
    sn_mm_ops.serve()
    assert sys.meta_path.count(sn_mm_ops._Finder) == 1


@pytest.fixture
def served():
    """The stand-in under the name that mmcv imports, here and now."""
    spec = sn_mm_ops._Finder.find_spec('mmcv._ext')
    module = types.ModuleType('mmcv._ext')
    module.__spec__, module.__path__ = spec, spec.submodule_search_locations
    module.__package__ = 'mmcv._ext'
    before = {n: m for n, m in sys.modules.items() if n[:9] == 'mmcv._ext'}
    for name in before:
        del sys.modules[name]
    sys.modules['mmcv._ext'] = module
    spec.loader.exec_module(module)
    yield module
    for name in [n for n in sys.modules if n[:9] == 'mmcv._ext']:
        del sys.modules[name]
    sys.modules.update(before)


def test_it_has_every_name_that_mmcv_asks_for(served):
    for name in ('nms', 'carafe_forward', 'an_operator_of_tomorrow'):
        assert callable(getattr(served, name))
    assert not hasattr(served, '__wrapped__')
    assert not hasattr(sn_mm.ops, 'carafe_forward')


class Upsample(torch.nn.Module):
    def __init__(self, operator):
        super().__init__()
        self.operator = operator

    def forward(self, x):
        return self.operator(x, x, scale=2)


class Detector(torch.nn.Module):
    def __init__(self, neck):
        super().__init__()
        self.neck = neck

    def forward(self, x):
        return self.neck(x)


def test_a_missing_operator_is_one_sentence(served):
    model = Detector(Upsample(served.carafe_forward))
    with pytest.raises(NotImplementedError) as error:
        model(torch.ones(1))
    text = str(error.value)
    for part in ("'carafe_forward'", 'Upsample in Detector', 'mmcv>=2.0'):
        assert part in text
    assert '\n' not in text and text.endswith('.')
    assert not text.rstrip('.').count('. ')


def test_without_a_model_the_function_is_named(served):
    with pytest.raises(NotImplementedError, match='test_without_a_model'):
        served.nms_match(torch.ones(1, 5), 0.5)


@pytest.mark.skipif(COMPILED, reason='mmcv has compiled operators here')
def test_a_layer_of_mmcv_that_lacks_its_operator():
    from mmcv.ops import CARAFEPack

    with pytest.raises(NotImplementedError, match='carafe_.*CARAFEPack'):
        CARAFEPack(4, 2)(torch.ones(1, 4, 3, 3))
