# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Serves ``mmcv._ext``, mmcv's compiled operators, where mmcv has none.

mmcv-lite is mmcv without that one module, so ``import mmcv.ops`` and with it
mmdet and mmseg fail there. :func:`serve` lets Python find the operators of
``sn_mm/ops`` under that name, after every other place has been searched: a
compiled ``mmcv._ext`` is found first and never touched.

This module lies beside the package because it runs at the start of the
interpreter (``python -m sn_mm.doctor --install-ops`` arranges that): it
imports neither torch nor sn_mm.
"""

import os
import sys

SERVED = 'mmcv._ext'
_FOLDER = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'sn_mm')


class _Finder:
    """Finds the stand-in; an entry of ``sys.meta_path``."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        if name != SERVED:
            return None
        folder = os.path.join(_FOLDER, 'ops')
        init = os.path.join(folder, '__init__.py')
        if not os.path.isfile(init):  # sn_mm was removed
            return None
        from importlib.util import spec_from_file_location

        return spec_from_file_location(
            name, init, submodule_search_locations=[folder]
        )


def serve() -> None:
    """Let ``mmcv._ext`` be found, behind every finder there is; once."""
    if _Finder not in sys.meta_path:
        sys.meta_path.append(_Finder)
