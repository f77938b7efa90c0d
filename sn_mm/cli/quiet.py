# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Command lines whose output is what they were asked for."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator

from mmengine.config import Config
from mmengine.logging import MMLogger


@contextlib.contextmanager
def without_packaging_warnings() -> Iterator[None]:
    """Let mmengine look for packages, which setuptools warns of each time.

    mmengine 0.10 asks pkg_resources where a base config's package is; nothing
    that a user writes changes that. Other warnings are heard.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings('ignore', message='pkg_resources is deprec')
        yield


def log_warnings_alone(cfg: Config) -> None:
    """Let a Runner not log its config, environment and hooks.

    Args:
        cfg: changed in place, unless it asks for a level of its own.
    """
    if cfg.get('log_level', 'INFO') == 'INFO':
        cfg.log_level = 'WARNING'


def hush_model_building() -> None:
    """Silence what building a model logs and warns of, for this process.

    For tools that build a model to look at it: how each of its parameters is
    initialized, and what the toolbox would rather have called otherwise, is
    not what their users asked for.
    """
    MMLogger.get_current_instance().setLevel(logging.ERROR)
    warnings.simplefilter('ignore')


@contextlib.contextmanager
def without_prints() -> Iterator[None]:
    """Drop what libraries print while they load data and checkpoints.

    Standard error, with warnings and progress bars, is left alone.
    """
    with (
        contextlib.redirect_stdout(io.StringIO()),
        without_packaging_warnings(),
    ):
        yield
