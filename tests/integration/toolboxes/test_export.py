# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Export passes fold batch norms and leave SN's arithmetic as it is."""

from pathlib import Path

import pytest
import torch
from mmengine.utils import digit_version

from sn_mm import SyncSN
from tests.builders import flatten, randomize_norms, resnet

OLD = digit_version(torch.__version__) < digit_version('2.4')
SIZES = [(40, 56), (64, 32), (33, 47)]  # the first one is traced


@pytest.fixture(params=['SN', 'SyncSN'])
def model(request):
    model = randomize_norms(resnet(norm_cfg=dict(type=request.param)))
    model.eval()
    return model


def images(size):
    gen = torch.Generator().manual_seed(0)
    return torch.randn(2, 3, *size, generator=gen)


def assert_same(exported, model, sizes):
    for size in sizes:
        x = images(size)
        outputs = list(flatten(exported(x)))
        assert len(outputs) == 4
        for got, want in zip(outputs, model(x)):
            torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-4)


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize(
    'optimize',
    [lambda m: m, torch.jit.freeze, torch.jit.optimize_for_inference],
    ids=['trace', 'freeze', 'optimize_for_inference'],
)
def test_jit(model, optimize):
    with torch.no_grad():
        traced = torch.jit.trace(model, images(SIZES[0]))
        assert_same(optimize(traced), model, SIZES)


@pytest.mark.filterwarnings('ignore')
@pytest.mark.skipif(OLD, reason="torch.export cannot read SN's Python yet")
def test_torch_export(model):
    with torch.no_grad():
        program = torch.export.export(model, (images(SIZES[0]),))
        assert_same(program.module(), model, SIZES[:1])
    kinds = {str(n.target) for n in program.graph.nodes}
    assert not any('batch_norm' in kind for kind in kinds)


@pytest.mark.filterwarnings('ignore')
@pytest.mark.skipif(OLD, reason="torch.export cannot read SN's Python yet")
def test_torch_export_of_any_size(model):
    axes = {2: torch.export.Dim.AUTO, 3: torch.export.Dim.AUTO}
    if not hasattr(torch.export.Dim, 'AUTO'):
        pytest.skip('this version wants the divisors of each extent')
    with torch.no_grad():
        program = torch.export.export(
            model, (images(SIZES[0]),), dynamic_shapes=(axes,)
        )
        # maps of one position are another graph
        assert_same(program.module(), model, [(40, 56), (64, 96)])


def to_onnx(model, exporter: str, file: Path) -> None:
    """Write the model as an ONNX file of dynamic height and width."""
    axes = {2: 'height', 3: 'width'}
    options = dict(input_names=['image'], opset_version=17)
    if exporter == 'trace':
        options['dynamic_axes'] = {'image': axes}
        if not OLD:
            options['dynamo'] = False
    else:
        options.update(dynamo=True, dynamic_shapes=(axes,), opset_version=18)
    with torch.no_grad():
        torch.onnx.export(model, (images(SIZES[0]),), str(file), **options)


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('exporter', ['trace', 'dynamo'])
def test_onnx(model, exporter, tmp_path):
    """onnxruntime gives what PyTorch gives, at sizes not exported."""
    runtime = pytest.importorskip('onnxruntime')
    pytest.importorskip('onnx')
    if exporter == 'dynamo':
        if isinstance(model.norm1, SyncSN):
            pytest.skip('the same as SN in evaluation, and slow to export')
        if digit_version(torch.__version__) < digit_version('2.7'):
            pytest.skip('dynamic_shapes came with torch 2.7')
        pytest.importorskip('onnxscript')
    file = tmp_path / 'model.onnx'
    to_onnx(model, exporter, file)
    session = runtime.InferenceSession(
        str(file), providers=['CPUExecutionProvider']
    )

    def run(x):
        return [
            torch.from_numpy(y)
            for y in session.run(None, dict(image=x.numpy()))
        ]

    with torch.no_grad():
        assert_same(run, model, SIZES)
