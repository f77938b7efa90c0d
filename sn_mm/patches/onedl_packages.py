# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Let configs inherit ``mmseg::...`` where the onedl packages are installed.

mmengine looks a toolbox's configs up by the name of its distribution, and
onedl-mmengine still has mmsegmentation's, which no module is called.
"""

from __future__ import annotations

from importlib import metadata

from mmengine.config.utils import MODULE2PACKAGE


def name_onedl_packages() -> None:
    """Name the onedl distribution of every toolbox that has no other."""
    for module, package in MODULE2PACKAGE.items():
        if package != module and not _is_installed(package):
            if _is_installed(f'onedl-{package}'):
                MODULE2PACKAGE[module] = f'onedl-{package}'


def _is_installed(distribution: str) -> bool:
    try:
        metadata.distribution(distribution)
    except metadata.PackageNotFoundError:
        return False
    return True
