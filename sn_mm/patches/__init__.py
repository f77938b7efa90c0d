# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Every change to torch, numpy and mmengine that sn_mm makes.

Each has a module, which says what is changed, in which versions, and why it
cannot be done otherwise. ``import sn_mm`` calls :func:`apply`.

- :mod:`.local_checkpoints`: mmengine's reader of local files, where torch is
  2.6 or later and mmengine lacks its own fix.
- :mod:`.onedl_packages`: mmengine's table of distributions, where toolboxes
  of onedl are installed.
- :mod:`.numpy_in1d`: ``numpy.in1d``, where numpy is 2.4 or later and
  cityscapesscripts is installed.
- :mod:`.sync_bn`: torch's and mmengine's ``convert_sync_batchnorm``.
- :mod:`.filled_models`: mmengine's copying of state dicts into models.
- :mod:`.own_configs`: where mmengine's configs find a base of sn_mm's.
- :mod:`.foreign_norms`: the same, for state dicts of other norms; and
  ``val`` and ``test`` of mmengine's Runner.
- :mod:`.buffers_before_saving`: mmengine's ``SyncBuffersHook``.
- :mod:`.fusion`: torch's ``fuse_conv_bn_eval``.
- :mod:`.pretrained_init`: mmengine's initializer ``Pretrained``.
- :mod:`.handed_on_starts`: ``init_weights`` of mmengine's BaseModule.
- :mod:`.ratio_rate`: mmengine's ``build_optim_wrapper``.
- :mod:`.runner_hooks`: the hooks of mmengine's Runner.
- :mod:`sn_mm_ops`, beside the package: ``mmcv._ext``, where mmcv has none.

Two more are made by whoever needs them: :mod:`.metafiles`, by what reads many
configs, and :mod:`.cpu_processes`, while a Runner is built.
"""

import sn_mm_ops

from .buffers_before_saving import sync_before_saving
from .filled_models import fill_models
from .foreign_norms import refuse_in_tests, watch_loading
from .fusion import refuse_fusion
from .handed_on_starts import leave_starts_to_parents
from .local_checkpoints import register_local_loader
from .numpy_in1d import restore_in1d
from .onedl_packages import name_onedl_packages
from .own_configs import read_own_configs
from .pretrained_init import register_pretrained
from .ratio_rate import read_ratio_rates
from .runner_hooks import watch_runners
from .sync_bn import watch_sync_bn


def apply() -> None:
    """Make the changes that hold for the whole process, each of them once."""
    sn_mm_ops.serve()
    register_local_loader()
    name_onedl_packages()
    read_own_configs()
    restore_in1d()
    watch_sync_bn()
    fill_models()
    watch_loading()
    refuse_in_tests()
    sync_before_saving()
    refuse_fusion()
    register_pretrained()
    leave_starts_to_parents()
    read_ratio_rates()
    watch_runners()


__all__ = [
    'apply',
    'fill_models',
    'leave_starts_to_parents',
    'name_onedl_packages',
    'read_own_configs',
    'read_ratio_rates',
    'refuse_fusion',
    'refuse_in_tests',
    'register_local_loader',
    'register_pretrained',
    'restore_in1d',
    'sync_before_saving',
    'watch_loading',
    'watch_runners',
    'watch_sync_bn',
]
