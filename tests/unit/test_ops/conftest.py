# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
import importlib

import pytest

import sn_mm.ops

_CALLERS = ('deform_conv', 'modulated_deform_conv', 'nms', 'roi_align')
_CHOOSERS = ('deform_conv', 'nms', 'roi_align')


@pytest.fixture
def stand_in(monkeypatch):
    """mmcv.ops with the stand-in, also where mmcv has compiled operators."""
    for name in _CALLERS:
        module = importlib.import_module(f'mmcv.ops.{name}')
        monkeypatch.setattr(module, 'ext_module', sn_mm.ops)


@pytest.fixture(params=['torch', 'torchvision'])
def backend(request, stand_in, monkeypatch):
    """Each way to compute, in turn."""
    modules = [importlib.import_module(f'sn_mm.ops.{n}') for n in _CHOOSERS]
    if request.param == 'torchvision':
        if modules[0].torchvision_ops('nms') is None:
            pytest.skip('torchvision, with its operators, is not there')
    else:
        for module in modules:
            monkeypatch.setattr(module, 'torchvision_ops', lambda name: None)
    return request.param
