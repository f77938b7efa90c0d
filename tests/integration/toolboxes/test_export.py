# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Export passes fold batch norms and leave SN's arithmetic as it is."""

import pytest
import torch
from mmengine.utils import digit_version

from tests.builders import flatten, randomize_norms, resnet

OLD = digit_version(torch.__version__) < digit_version('2.4')
SIZES = [(40, 56), (64, 32), (33, 47)]  # the first one is traced


@pytest.fixture
def model():
    model = randomize_norms(resnet())
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
