# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
import sys
import types

import pytest
import torch

from sn_mm.ops.torchvision_ops import torchvision_ops


@pytest.fixture(autouse=True)
def nothing_kept():
    torchvision_ops.cache_clear()
    yield
    torchvision_ops.cache_clear()


def test_a_torchvision_that_cannot_be_imported_is_none(monkeypatch):
    monkeypatch.setitem(sys.modules, 'torchvision', None)
    assert torchvision_ops('nms') is None


def test_only_operators_that_it_has(monkeypatch):
    library = types.SimpleNamespace(nms=object())
    module = types.ModuleType('torchvision')
    monkeypatch.setitem(sys.modules, 'torchvision', module)
    monkeypatch.setattr(torch.ops, 'torchvision', library, raising=False)
    assert torchvision_ops('nms') is library
    assert torchvision_ops('roi_align') is None
