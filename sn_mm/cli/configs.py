# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""From the path of a config to a Runner, in either toolbox."""

from __future__ import annotations

import os.path as osp
from importlib import import_module
from importlib.util import find_spec

from mmengine.config import Config
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

from sn_mm.patches.cpu_processes import cpu_processes
from sn_mm.patches.own_configs import configs_folder

from .config_errors import why_unreadable
from .launch_error import LaunchError
from .quiet import without_packaging_warnings

_TOOLBOXES = ('mmdet', 'mmseg')


def load_config(
    path: str,
    options: dict | None = None,
    work_dir: str | None = None,
    launcher: str = 'none',
) -> Config:
    """Load a config and put the command line's settings into it.

    Args:
        path: the config file; 'mmdet::NAME', as in ``_base_``, is one of a
            toolbox's own.
        options: settings that override it, by dotted key.
        work_dir: folder of the run. Default: that of the config, or else
            ``./work_dirs/`` and the name of the config.
        launcher: 'none', 'pytorch', 'slurm' or 'mpi'.

    Raises:
        LaunchError: if the file, or one that it inherits from, is missing or
            cannot be read; with the line, where it is a line's fault.
    """
    path = _file_of(path)
    try:
        with without_packaging_warnings():
            cfg = Config.fromfile(path)
    except Exception as error:  # whatever the Python in a config raises
        raise LaunchError(why_unreadable(path, error)) from error
    cfg.launcher = launcher
    if options:
        cfg.merge_from_dict(options)
    if work_dir is not None:
        cfg.work_dir = work_dir
    elif cfg.get('work_dir') is None:
        name = osp.splitext(osp.basename(path))[0]
        cfg.work_dir = osp.join('./work_dirs', name)
    return cfg


def _file_of(path: str) -> str:
    """The file of a config, 'mmdet::NAME' being one of a toolbox's own."""
    toolbox, _, name = path.rpartition('::')
    if toolbox:
        found = find_spec(toolbox) if toolbox.isidentifier() else None
        if found is None or not found.submodule_search_locations:
            raise LaunchError(
                f"'{toolbox}' of config {path} is not installed; use 'mmdet' "
                "or 'mmseg', or install it"
            )
        folder = osp.join(
            found.submodule_search_locations[0], '.mim', 'configs'
        )
        if toolbox == 'sn_mm':
            folder = configs_folder()
        path = osp.join(folder, name)
    if not osp.isfile(path):
        raise LaunchError(
            f'config {path} not found; name a config file, such as '
            'configs/demo/faster-rcnn_r18_fpn_sn-all_demo.py, or a '
            "toolbox's, such as "
            'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py'
        )
    return path


def type_name(kind: str | type) -> str:
    """The name of a ``type``, which pure Python configs give as a class.

    >>> type_name('mmengine.OptimWrapper')
    'OptimWrapper'
    """
    name = kind.__name__ if isinstance(kind, type) else str(kind)
    return name.rpartition('.')[2]


def register_toolbox(cfg: Config) -> str | None:
    """Import the toolbox of a config, so that its modules are registered.

    Args:
        cfg: its ``default_scope`` is the name of the toolbox's package; pure
            Python configs may lack it, and name the model by its class.

    Returns:
        The toolbox, None where the config does not tell.

    Raises:
        LaunchError: if there is no such toolbox, or no model.
    """
    if not isinstance(cfg.get('model'), dict):
        raise LaunchError(
            'the config has no model=dict(...): name a whole config; '
            'fragments such as configs/_base_/sn.py are for its _base_'
        )
    scope = cfg.get('default_scope') or _package_of_model(cfg)
    if scope is None or scope == 'mmengine':
        return scope
    try:
        utils = import_module(f'{scope}.utils')
    except ModuleNotFoundError as error:
        # a broken toolbox is another matter than a missing one
        if error.name not in (scope, f'{scope}.utils'):
            raise
        utils = None
    register = getattr(utils, 'register_all_modules', None)
    if register is None:
        raise LaunchError(
            f"default_scope='{scope}' of the config is no toolbox that is "
            "installed; use 'mmdet' or 'mmseg', or install it"
        )
    register(init_default_scope=False)
    return scope


def _package_of_model(cfg: Config) -> str | None:
    """'mmdet' for ``model=dict(type=RetinaNet)``, in whatever file it is."""
    model = cfg.get('model')
    kind = model.get('type') if isinstance(model, dict) else None
    bases = kind.__mro__ if isinstance(kind, type) else ()
    packages = [base.__module__.partition('.')[0] for base in bases]
    return next((p for p in packages if p in _TOOLBOXES), None)


def build_runner(cfg: Config) -> Runner:
    """Build the config's Runner, of its ``runner_type`` if it has one.

    A distributed run goes over CPUs where there is no GPU. A
    :class:`~sn_mm.datasets.DataCheckedRunner` becomes mmengine's own: the
    tools have checked the data before they build anything.
    """
    kind = cfg.get('runner_type', Runner)
    with cpu_processes(cfg):
        if type_name(kind) in ('Runner', 'DataCheckedRunner'):
            return Runner.from_cfg(cfg)
        return RUNNERS.build(cfg)
