# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""ONNX files of layers: every option, both exporters, sizes not fixed."""

from __future__ import annotations

import inspect
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

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
    'hard, bn alone': dict(type='SN', hard='bn'),
    'hard, in alone': dict(type='SN', hard='in'),
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


class Networks(nn.Module):
    """A small network with each of several kinds of layers.

    Args:
        names: keys of ``OPTIONS``.
    """

    def __init__(self, names) -> None:
        super().__init__()
        self.networks = nn.ModuleList(
            network(OPTIONS[n], seed) for seed, n in enumerate(names)
        )

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        return tuple(network(image) for network in self.networks)


def network(options: dict, seed: int) -> nn.Module:
    options = dict(options)
    kind = getattr(sn_mm, options.pop('type'))
    radius = options.pop('radius', 0.0)
    chosen = options.pop('hard', None)
    torch.manual_seed(seed)
    layer = kind(8, **options)
    for parameter in layer.parameters():
        nn.init.uniform_(parameter, 0.5, 2)
    for name, buffer in layer.named_buffers():
        if name.startswith('running'):
            buffer.uniform_(0.5, 2)
    if isinstance(layer, sn_mm.SSN):
        layer.radius.fill_(radius)
    if chosen is not None:
        index = layer.statistics.index(chosen)
        for weight in (layer.mean_weight, layer.var_weight):
            weight.data[index] = 3
        layer.harden_()
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1), layer, nn.ReLU()
    )


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


def assert_onnxruntime_agrees(names: Sequence[str], exporter, path) -> None:
    model = Networks(names).eval()
    written(model, exporter, path)
    session = onnxruntime.InferenceSession(
        str(path), providers=['CPUExecutionProvider']
    )
    for n, *size in SIZES:
        x = torch.randn(n, 3, *size)
        outputs = session.run(None, {'image': x.numpy()})
        for name, got, want in zip(names, outputs, model(x)):
            error = (torch.from_numpy(got) - want).abs().max()
            assert error <= 1e-5 * want.abs().max(), (name, n, size)


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('name', OPTIONS)
@torch.no_grad()
def test_by_tracing(name, tmp_path):
    assert_onnxruntime_agrees([name], 'traced', tmp_path / 'm.onnx')


@pytest.mark.filterwarnings('ignore')
@torch.no_grad()
def test_by_dynamo(tmp_path):
    """Of options that have other operations; each takes seconds."""
    pytest.importorskip('onnxscript')
    if not HAS_DYNAMO:
        pytest.skip('this torch has no such exporter')
    names = (
        'all of them',
        'no running statistics',
        'SSN of groups',
        'hard, bn alone',
        'hard, in alone',
    )
    assert_onnxruntime_agrees(names, 'dynamo', tmp_path / 'm.onnx')
