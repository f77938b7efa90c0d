# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""ONNX files of layers: every option, both exporters, sizes not fixed."""

from __future__ import annotations

import inspect
import itertools

import pytest
import torch
from torch import nn

import sn_mm

onnxruntime = pytest.importorskip('onnxruntime')
pytest.importorskip('onnx')

ALL = ('in', 'ln', 'bn', 'gn')
OPTIONS = {
    'default': dict(type='SN'),
    'unbiased': dict(type='SN', unbiased=True),
    'gn': dict(type='SN', statistics=ALL, num_groups=2),
    'ratio groups': dict(type='SN', ratio_groups=2),
    'all of them': dict(
        type='SN', statistics=ALL, num_groups=2, ratio_groups=2, unbiased=True
    ),
    'no bn': dict(type='SN', statistics=('in', 'ln')),
    'hard': dict(type='SN', hard_ratios=True),
    'bn_eval': dict(type='SN', bn_eval=True),
    'no running statistics': dict(type='SN', track_running_stats=False),
    'no affine': dict(type='SN', affine=False),
    'SyncSN': dict(type='SyncSN', unbiased=True),
    'SSN': dict(type='SSN'),
    'SSN, grown': dict(type='SSN', radius=0.5),
    'SSN, chosen': dict(type='SSN', radius=1.0),
    'SSN of groups': dict(type='SSN', radius=0.5, ratio_groups=2),
}
# the number of images, height and width: of the example, then others
SIZES = ((2, 20, 28), (1, 32, 16), (3, 17, 23))
HAS_DYNAMO = (
    'dynamic_shapes' in inspect.signature(torch.onnx.export).parameters
)
EXPORTERS = ('traced', 'dynamo')


def network(options: dict) -> nn.Module:
    options = dict(options)
    kind = getattr(sn_mm, options.pop('type'))
    radius = options.pop('radius', 0.0)
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        kind(8, **options),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, stride=2, padding=1),
        kind(8, **options),
    )
    for layer in model:
        if isinstance(layer, kind):
            for parameter in layer.parameters():
                nn.init.uniform_(parameter, 0.5, 2)
            for name, buffer in layer.named_buffers():
                if name.startswith('running'):
                    buffer.uniform_(0.5, 2)
            if isinstance(layer, sn_mm.SSN):
                layer.radius.fill_(radius)
    return model.eval()


def written(model: nn.Module, exporter: str, path) -> None:
    x = torch.randn(SIZES[0][0], 3, *SIZES[0][1:])
    if exporter == 'traced':
        options = dict(
            opset_version=17,
            dynamic_axes={'image': {0: 'n', 2: 'h', 3: 'w'}},
        )
        if 'dynamo' in inspect.signature(torch.onnx.export).parameters:
            options['dynamo'] = False
    else:
        free = torch.export.Dim.DYNAMIC
        options = dict(
            opset_version=18,
            dynamo=True,
            dynamic_shapes=({0: free, 2: free, 3: free},),
            verbose=False,
        )
    torch.onnx.export(model, (x,), str(path), input_names=['image'], **options)


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize(
    ('exporter', 'name'), list(itertools.product(EXPORTERS, OPTIONS))
)
@torch.no_grad()
def test_onnxruntime_computes_the_same(exporter, name, tmp_path):
    if exporter == 'dynamo':
        pytest.importorskip('onnxscript')
        if not HAS_DYNAMO:
            pytest.skip('this torch has no such exporter')
    model, path = network(OPTIONS[name]), tmp_path / 'm.onnx'
    written(model, exporter, path)
    session = onnxruntime.InferenceSession(
        str(path), providers=['CPUExecutionProvider']
    )
    for n, *size in SIZES:
        x = torch.randn(n, 3, *size)
        (got,) = session.run(None, {'image': x.numpy()})
        want = model(x)
        error = (torch.from_numpy(got) - want).abs().max()
        assert error <= 1e-5 * want.abs().max(), (n, size)
