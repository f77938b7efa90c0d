# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Sentences about configs that cannot be read, or describe nothing.

Python's and mmengine's errors come out of many frames of other people's code;
what a user needs of them is the config's file, the line and the words.
"""

from __future__ import annotations

import os.path as osp
import traceback
from pathlib import Path

_READER = 'mmengine.config'
# Errors that are raised there are about what a config gives to build.
_BUILDERS = (
    'mmengine.registry',
    'mmengine.optim.optimizer',
    'mmengine.runner.runner',
    'mmcv.cnn.bricks',
    'sn_mm.distributed.groups',
    'sn_mm.hooks',
    'sn_mm.layers',
    'sn_mm.patches.ratio_rate',
    'sn_mm.utils.counts',
)
_BUILD = ('mmengine.registry.build_functions', 'build_from_cfg')
_REFUSALS = (AssertionError, KeyError, TypeError, ValueError)
_LONGEST = 300


def why_unreadable(path: str, error: Exception) -> str:
    """The sentence about a config that mmengine could not read.

    Args:
        path: of the config, which may inherit from the one at fault.
        error: with its traceback.
    """
    file, line = _place(path, error)
    where = '' if file == path else f'{file}: '
    if line:
        where = f'line {line}: ' if file == path else f'line {line} of {where}'
    return f'config {path} cannot be read: {where}{_words(error)}'


def why_not_built(error: Exception) -> str | None:
    """The sentence about a part that a config describes wrongly.

    None if the error came from somewhere else than the registries, what
    checks arguments, and constructors that a registry called: then it is no
    matter of the config.
    """
    places = [
        (frame.f_globals.get('__name__', ''), frame.f_code.co_name, line)
        for frame, line in traceback.walk_tb(error.__traceback__)
    ]
    while places and places[-1][0] == 'inspect':  # asked about no class
        places.pop()
    if not places:
        return None
    module, function, line = places[-1]
    text = f'the config describes what cannot be built: {_words(error)}'
    if any(f'{module}.'.startswith(f'{name}.') for name in _BUILDERS):
        return text
    built = any(place[:2] == _BUILD for place in places)
    if built and function == '__init__' and isinstance(error, _REFUSALS):
        return f'{text} ({module}, line {line})'
    return None


def _place(path: str, error: Exception) -> tuple[str, int | None]:
    """File and line of the config at fault; no line where none is known."""
    file, line = path, None
    for frame, number in traceback.walk_tb(error.__traceback__):
        module = frame.f_globals.get('__name__', '')
        if f'{module}.'.startswith(f'{_READER}.'):
            name = frame.f_locals.get('filename')
            # the innermost one: a base, if the fault is in a base
            if isinstance(name, (str, Path)) and Path(name).is_file():
                file = path if osp.samefile(path, name) else osp.normpath(name)
                line = None
        elif frame.f_code.co_name == '<module>' and line is None:
            line = number  # of the config, which mmengine compiles
    if isinstance(error, SyntaxError):
        line = error.lineno
    return file, line


def _of_recursion(error: BaseException | None) -> bool:
    """Whether it was raised at, or while another was handled of, too many
    calls: mmengine's cleaning up may fail then."""
    while error is not None and not isinstance(error, RecursionError):
        error = error.__context__
    return error is not None


def _words(error: BaseException) -> str:
    if _of_recursion(error):
        return 'a config inherits from itself by _base_'
    if isinstance(error, SyntaxError):
        return str(error.msg)
    text = str(error.args[0] if isinstance(error, KeyError) else error)
    text, _, _ = text.partition(', the current sys.path is')
    text = ' '.join(text.split())
    if text == 'None is not a callable object':
        text = 'a type of optimizer is misspelt, or not registered'
    if text.startswith('Cannot find None'):  # mmcv of types of layers
        text += (
            ': a type in a norm_cfg, act_cfg or conv_cfg is misspelt, or not '
            'registered (custom_imports)'
        )
    if len(text) > _LONGEST:
        text = f'{text[:_LONGEST]} ...'
    text = f'{type(error).__name__}: {text}'
    cause = error.__cause__ or error.__context__
    if isinstance(error, ImportError) and isinstance(cause, ImportError):
        return f'{text}: {_words(cause)}'
    return text
