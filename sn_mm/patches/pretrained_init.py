# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Let ``init_cfg`` read a part of an SN checkpoint, strictly.

mmengine's initializer ``Pretrained`` (0.10.0 to 0.10.7 at least) takes the
part of a file called ``prefix`` by the names in the file, and says nothing of
what it did not find. The names of a public SN checkpoint are known only once
the model is; so ours replaces it in the registry, under the same name.
"""

from __future__ import annotations

from mmengine.logging import print_log
from mmengine.model import PretrainedInit
from mmengine.model.weight_init import update_init_info
from mmengine.registry import WEIGHT_INITIALIZERS
from torch import nn

from sn_mm.checkpoints import load_pretrained
from sn_mm.checkpoints.sources import SCHEMES


def register_pretrained() -> None:
    """Make :class:`PretrainedSN` mmengine's initializer ``Pretrained``."""
    WEIGHT_INITIALIZERS.register_module(
        name='Pretrained', module=PretrainedSN, force=True
    )


class PretrainedSN(PretrainedInit):
    """mmengine's ``Pretrained``, with a strict ``prefix`` for our schemes.

    For all other checkpoints mmengine's own does the work.
    """

    def __call__(self, module: nn.Module) -> None:
        """Fill ``module``, or with the part of the file called ``prefix``."""
        if not self.checkpoint.startswith(SCHEMES) or '?to=' in (
            self.checkpoint
        ):
            super().__call__(module)
            return
        print_log(f'load model from: {self.checkpoint}', logger='current')
        load_pretrained(module, self.checkpoint, prefix=self.prefix)
        if hasattr(module, '_params_init_info'):
            update_init_info(module, init_info=self._get_init_info())
