# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""What `help` and torch see of a layer's arguments."""

import inspect

import pytest
import torch
from torch.nn.utils import skip_init

from sn_mm import SN, SSN, SN1d, SN3d, SyncSN, SyncSSN

NORMS = (SN, SN1d, SN3d, SyncSN, SSN, SyncSSN)


@pytest.mark.parametrize('norm', NORMS, ids=lambda norm: norm.__name__)
def test_arguments_of_all_bases(norm):
    parameters = inspect.signature(norm).parameters
    assert next(iter(parameters)) == 'num_features'
    assert {'statistics', 'hard_ratios', 'device', 'dtype'} <= set(parameters)
    assert ('sync_group' in parameters) == norm.is_synchronized


@pytest.mark.parametrize('norm', NORMS, ids=lambda norm: norm.__name__)
def test_skip_init(norm):
    layer = skip_init(norm, 8, ratio_groups=2)
    layer.reset_parameters()
    fresh = norm(8, ratio_groups=2).state_dict()
    for name, value in layer.state_dict().items():
        assert torch.equal(value, fresh[name]), name
