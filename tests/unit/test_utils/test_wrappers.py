# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Models inside of wrappers."""

from mmengine.model import BaseTTAModel
from torch import nn

from sn_mm.utils import unwrapped


class Averaged(BaseTTAModel):
    def __init__(self, module):
        nn.Module.__init__(self)
        self.module = module

    def merge_preds(self, data_samples_list):
        return data_samples_list


def test_looks_through_any_number_of_wrappers():
    model = nn.Conv2d(1, 1, 1)
    assert unwrapped(model) is model
    assert unwrapped(Averaged(nn.DataParallel(model))) is model
    assert unwrapped(nn.DataParallel(Averaged(model))) is model
