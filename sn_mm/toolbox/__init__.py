# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""What the unmodified toolboxes need around SN, set up on import."""

from .checkpoint_loading import register_local_loader
from .cityscapes_scripts import restore_in1d
from .packages import name_onedl_packages
from .sync_bn import watch_sync_bn

register_local_loader()
name_onedl_packages()
restore_in1d()
watch_sync_bn()

__all__ = [
    'name_onedl_packages',
    'register_local_loader',
    'restore_in1d',
    'watch_sync_bn',
]
