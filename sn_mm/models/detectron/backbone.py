# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""A ResNet whose first stages keep to the statistics of the batch."""

from __future__ import annotations

from mmdet.models.backbones import ResNet
from mmdet.registry import MODELS

from sn_mm.anatomy.norms import has_ratios


@MODELS.register_module()
class DetectronResNet(ResNet):
    """mmdet's ResNet; SN in some stages never uses running BN statistics.

    In the public detection code, with frozen first stages (FREEZE_AT: 2),
    the norms of res2 stay in training mode, in testing too: BN's term there
    is the statistics of the test batch, which is one image. The published
    numbers of such models with BN in SN were measured like that.

    Args:
        batch_stats_stages: stages of this kind, 1 being layer1 (res2).
        others: as for mmdet's ResNet.
    """

    def __init__(
        self, *args, batch_stats_stages: tuple[int, ...] = (1,), **kwargs
    ) -> None:
        super().__init__(*args, **kwargs)
        for stage in batch_stats_stages:
            for module in getattr(self, f'layer{stage}').modules():
                if has_ratios(module):
                    # the buffers stay, so that state dicts do not change
                    module.track_running_stats = False
