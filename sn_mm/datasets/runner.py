# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""A Runner that looks at the data before it starts."""

from __future__ import annotations

from mmengine.registry import RUNNERS
from mmengine.runner import Runner
from torch import nn

from .data_checks import check_dataloaders


@RUNNERS.register_module()
class DataCheckedRunner(Runner):
    """mmengine's Runner, whose first error says which data is missing.

    For configs that run under the toolboxes' own tools/train.py and
    tools/test.py: ``runner_type = 'DataCheckedRunner'``. Everything else is
    mmengine's.

    Raises:
        DataError: from train, val and test, before anything is loaded.
    """

    def train(self) -> nn.Module:
        """Train, if the data is there."""
        check_dataloaders(self.cfg, ('train_dataloader', 'val_dataloader'))
        return super().train()

    def val(self) -> dict:
        """Validate, if the data is there."""
        check_dataloaders(self.cfg, ('val_dataloader',))
        return super().val()

    def test(self) -> dict:
        """Test, if the data is there."""
        check_dataloaders(self.cfg, ('test_dataloader',))
        return super().test()
