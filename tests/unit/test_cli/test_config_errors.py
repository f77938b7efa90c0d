# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Configs that cannot be read end in one sentence with file and line."""

from __future__ import annotations

import pytest

from sn_mm.cli import LaunchError, build_model, command, load_config
from sn_mm.cli.config_errors import why_not_built, why_unreadable

LAZY = 'from mmengine.config import read_base\nwith read_base():\n'
TEXT = '_base_ = "mmdet::_base_/default_runtime.py"\n'
NEVER_CLOSED = 'a = 1\nb = dict(c=1\n'
UNCLOSED = '.*(never closed|unexpected EOF)'  # Python 3.10, and 3.9
FILES = {
    'text.py': (NEVER_CLOSED, f'line 2: {UNCLOSED}'),
    'on_text.py': (
        '_base_ = "./text.py"\n',
        rf'line 2 of \S*text.py: {UNCLOSED}',
    ),
    'lazy.py': (LAZY + '    from .good import *\nb = dict(\n', 'line 4: '),
    'on_lazy.py': (
        LAZY + '    from .lazy import *\n',
        r'line 4 of \S*lazy.py',
    ),
    'no_base.py': ('_base_ = "./gone.py"\n', 'gone.py'),
    'no_lazy_base.py': (LAZY + '    from .gone import *\n', 'gone'),
    'name.py': (
        'a = 1\n\nb = a + missing\n',
        "line 3: NameError: .*'missing'",
    ),
    'lazy_name.py': (
        LAZY + '    from .good import *\n\nb = missing\n',
        "line 5: NameError: .*'missing'",
    ),
    'zero.py': ('a = 1\nb = a / 0\n', 'line 2: ZeroDivisionError'),
    'of_base.py': (TEXT + 'b = _base_.missing\n', "line 2: .*'missing'"),
    'twice.py': (
        '_base_ = ["./good.py", "./good2.py"]\n',
        'Duplicate key is not allowed',
    ),
    'kinds.py': (TEXT + 'log_level = dict(a=1)\n', 'log_level='),
    'imports.py': (
        'custom_imports = dict(imports=["no_such_module"])\n',
        "No module named 'no_such_module'$",
    ),
    'itself.py': ('_base_ = "./itself.py"\n', 'inherits from itself'),
    'bytes.py': (b'\xff\xfe a = 1\n', 'UnicodeDecodeError'),
    'open.json': ('{"a": {"b": 1\n', 'JSONDecodeError: .*line 2'),
    'open.yaml': ('a:\n  b: [c\n', 'cannot be read: .*line 2'),
    'notes.txt': ('hello', 'Only py/yml/yaml/json'),
}


@pytest.fixture
def folder(tmp_path):
    for name in ('good.py', 'good2.py'):
        (tmp_path / name).write_text('good = 1\n')
    for name, (text, _) in FILES.items():
        content = text if isinstance(text, bytes) else text.encode()
        (tmp_path / name).write_bytes(content)
    return tmp_path


@pytest.mark.parametrize('name', FILES)
def test_one_sentence_with_file_and_line(folder, name):
    path = str(folder / name)
    with pytest.raises(LaunchError, match=FILES[name][1]) as caught:
        load_config(path)
    text = str(caught.value)
    assert text.startswith(f'config {path} cannot be read: ')
    assert '\n' not in text and len(text) < 700


def test_a_recursion_whose_cleaning_up_fails(tmp_path):
    """As mmengine's does on Python 3.9."""
    try:
        try:
            raise RecursionError('maximum recursion depth exceeded')
        finally:
            raise UnboundLocalError('temp_config_dir')
    except UnboundLocalError as error:
        text = why_unreadable(str(tmp_path / 'config.py'), error)
    assert text.endswith('a config inherits from itself by _base_')


MODELS = {
    'type': (dict(type='RetinaNett'), 'RetinaNett is not in the mmdet::model'),
    'argument': (dict(type='RetinaNet', backbne=1), "argument 'backbne'"),
    'no type': (dict(backbone=1), 'must contain the key "type"'),
    'norm': (
        dict(type='ResNet', depth=18, norm_cfg=dict(type='SNN')),
        'a type in a norm_cfg, act_cfg or conv_cfg is misspelt',
    ),
    "norm's argument": (
        dict(type='ResNet', depth=18, norm_cfg=dict(type='SN', num_group=3)),
        "'num_group'",
    ),
    'value': (
        dict(type='ResNet', depth=17),
        'invalid depth 17 for resnet (mmdet.models.backbones.resnet, line',
    ),
    "norm's value": (
        dict(
            type='ResNet',
            depth=18,
            norm_cfg=dict(type='SN', eps=1, **{'statistics': ('in', 'lm')}),
        ),
        "'lm'",
    ),
}


@pytest.mark.parametrize('name', MODELS)
def test_what_cannot_be_built_is_one_sentence_too(tmp_path, name, capsys):
    model, words = MODELS[name]
    file = tmp_path / 'config.py'
    file.write_text(f'default_scope = "mmdet"\nmodel = {model!r}\n')
    main = command()(lambda args: build_model(load_config(str(file))))
    assert main([]) == 1
    error = capsys.readouterr().err
    assert error.startswith('error: the config describes what cannot be built')
    assert words in error and len(error.splitlines()) == 1


@pytest.mark.parametrize('text', ['a = 1\n', 'model = 5\n'])
def test_a_fragment_is_no_config(tmp_path, text):
    file = tmp_path / 'fragment.py'
    file.write_text(text)
    with pytest.raises(LaunchError, match='has no model=dict'):
        build_model(load_config(str(file)))


def test_faults_of_the_program_keep_their_traceback():
    def main(args):
        raise KeyError('of our own')

    with pytest.raises(KeyError, match='of our own'):
        command()(main)([])
    assert why_not_built(KeyError('never raised')) is None
