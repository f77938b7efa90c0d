# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""The sweeps in C against float64, and what must not reach C."""

import os
import subprocess
import sys

import pytest
import torch

from sn_mm.kernels.native import sweeps
from sn_mm.kernels.native.calibration import Variant
from sn_mm.kernels.native.library import Library
from tests.unit.test_kernels.rows import (
    SHAPES,
    TOLERANCES,
    WITHOUT_THE_REST,
    expected,
    make_factors,
    make_input,
)
from tests.utils import relative_error

pytestmark = pytest.mark.skipif(
    sweeps.why_not(torch.zeros(1, 1)) is not None, reason='no C compiler'
)
DTYPES = list(TOLERANCES)


@pytest.fixture(autouse=True)
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def results(dy, x, relu=False, near=None):
    """Every sweep of x by C."""
    moments = sweeps.moments(x)
    near = moments[0].float() if near is None else near
    factors = make_factors(x.shape, 5)
    gate = tuple(factors[:2]) if relu else None
    blend, slope, shift = factors[2:]
    got = {
        'moments': moments,
        'y': sweeps.affine(x, near, *factors[:2], relu),
        'sums': sweeps.products(dy, x, near, gate),
        'dx': sweeps.combine(dy, x, blend, near, slope, shift, gate),
    }
    return got, expected(dy, x, near, factors, relu)


def check(dy, x, relu=False):
    got, want = results(dy, x, relu)
    for name, value in got.items():
        assert torch.isfinite(value).all(), name
        written = name in ('y', 'dx')
        tolerance = TOLERANCES[x.dtype] if written else 2e-6
        error = relative_error(value, getattr(want, name))
        assert error < tolerance, (name, error)
    return got


@pytest.mark.parametrize('relu', [False, True])
@pytest.mark.parametrize('channels_last', [False, True])
@pytest.mark.parametrize('dtype', DTYPES)
@pytest.mark.parametrize('shape', SHAPES)
def test_equal_float64(shape, dtype, channels_last, relu):
    x, dy = make_input(shape, dtype, channels_last)
    got = check(dy, x, relu)
    for name in ('y', 'dx'):
        assert got[name].dtype is dtype
        assert got[name].stride() == x.stride()
        assert got[name]._base is None


@pytest.mark.parametrize('channels_last', [False, True])
@pytest.mark.parametrize('dtype', DTYPES)
@pytest.mark.parametrize('shape', SHAPES)
def test_remeasure_is_moments_and_products_about_them(
    shape, dtype, channels_last
):
    x, dy = make_input(shape, dtype, channels_last)
    moments, sums = sweeps.remeasure(dy, x)
    want = expected(dy, x, moments[0].float(), make_factors(shape, 5))
    assert relative_error(moments, want.moments) < 1e-6
    assert relative_error(sums, want.sums) < 2e-6


@pytest.mark.parametrize('channels_last', [False, True])
@pytest.mark.parametrize(
    'shape', [(2, 6, 61, 47), (6, 12, 7, 7), (3, 20, 3, 1)]
)
def test_a_large_mean_costs_no_digits(shape, channels_last):
    x, dy = make_input(shape, channels_last=channels_last, mean=0.0)
    x = x / 2 + 1e4
    moments = sweeps.moments(x)
    want = expected(dy, x, moments[0].float(), make_factors(shape, 5))
    assert relative_error(moments[0], want.moments[0]) < 1e-9
    assert relative_error(moments[1], want.moments[1]) < 1e-6
    again, sums = sweeps.remeasure(dy, x)
    assert relative_error(again[1], want.moments[1]) < 1e-6
    assert relative_error(sums, want.sums) < 1e-5


@pytest.mark.parametrize('dtype', DTYPES)
def test_constant_rows_have_no_variance(dtype):
    x = torch.full((2, 3, 50, 41), 0.7).to(dtype)
    mean, var = sweeps.moments(x)
    assert torch.equal(mean, x[..., 0, 0].double())
    assert var.eq(0).all()


@pytest.mark.parametrize('offset', [1, 3, 5])
@pytest.mark.parametrize('dtype', DTYPES)
def test_memory_that_is_not_aligned(dtype, offset):
    shape = (3, 5, 9, 7)
    x, dy = make_input(shape, dtype)
    moved = []
    for t in (x, dy):
        memory = torch.empty(t.numel() + offset, dtype=dtype)[offset:]
        moved.append(memory.copy_(t.flatten()).view(shape))
    x, dy = moved
    assert x.storage_offset() == offset
    check(dy, x)


@pytest.mark.parametrize(
    'view',
    [
        lambda t: t[:, ::2],
        lambda t: t[:, 1:5, 2:],
        lambda t: t.transpose(2, 3),
        lambda t: t[:1].expand(3, -1, -1, -1),
        lambda t: t[:, :, :1].expand(-1, -1, 6, -1),
        lambda t: t[::2],
        lambda t: t.flip(0),
    ],
)
@pytest.mark.parametrize('channels_last', [False, True])
def test_views(view, channels_last):
    x, dy = make_input((3, 10, 8, 6), channels_last=channels_last)
    check(view(dy), view(x))


def test_gradients_of_another_layout_and_dtype():
    x, dy = make_input((2, 6, 9, 5), channels_last=True)
    check(dy.contiguous(), x)
    check(dy, x.contiguous())
    check(dy.transpose(2, 3).contiguous().transpose(2, 3), x)
    check(dy.double(), x)
    check(dy[:, :, :1, :1].expand_as(x), x)


def test_a_gradient_of_another_shape_is_refused():
    x, dy = make_input((2, 6, 9, 5))
    near = sweeps.moments(x)[0].float()
    with pytest.raises(ValueError, match='the gradient has shape'):
        sweeps.products(dy[:1], x, near)


@pytest.mark.parametrize('channels_last', [False, True])
@pytest.mark.parametrize('dtype', DTYPES)
@pytest.mark.parametrize('shape', [(3, 140, 40, 31), (96, 33, 7, 7)])
def test_the_number_of_threads_changes_no_bit(shape, dtype, channels_last):
    x, dy = make_input(shape, dtype, channels_last)
    runs = []
    for count in (1, 2, 5):
        torch.set_num_threads(count)
        got, _ = results(dy, x)
        got['again'] = torch.stack(sweeps.remeasure(dy, x))
        runs.append(got)
    for other in runs[1:]:
        for name, value in runs[0].items():
            assert torch.equal(value, other[name]), name


@pytest.mark.parametrize('channels_last', [False, True])
@pytest.mark.parametrize('shape', [(5, 12, 7, 7), (4, 300, 9, 3)])
def test_a_part_of_the_samples_gets_the_same_bits(shape, channels_last):
    x, _ = make_input(shape, channels_last=channels_last)
    near, scale, shift = make_factors(shape, 3)
    moments, y = sweeps.moments(x), sweeps.affine(x, near, scale, shift)
    part = slice(1, 3)
    assert torch.equal(sweeps.moments(x[part]), moments[:, part])
    got = sweeps.affine(x[part], near[part], scale[part], shift[part])
    assert torch.equal(got, y[part])


@pytest.mark.parametrize('channels_last', [False, True])
@pytest.mark.parametrize('dtype', DTYPES)
@pytest.mark.parametrize('shape', SHAPES)
def test_no_variant_changes_a_bit(shape, dtype, channels_last):
    x, dy = make_input(shape, dtype, channels_last)
    runs = []
    try:
        for variant in ((2048, 2048, -1), (0, 0, -1), (0, 0, 0), (512, 0, 64)):
            sweeps.use_variant(Variant(*variant))
            runs.append(results(dy, x, relu=True)[0])
    finally:
        sweeps.use_variant(None)
    for other in runs[1:]:
        for name, value in runs[0].items():
            assert torch.equal(value, other[name]), name


@pytest.mark.parametrize('channels_last', [False, True])
@pytest.mark.parametrize('value', [float('nan'), float('inf')])
def test_a_value_that_is_not_finite_stays_in_its_row(value, channels_last):
    x, dy = make_input((2, 12, 7, 7), channels_last=channels_last)
    x[1, 3, 2, 2] = value
    near, scale, shift = make_factors(x.shape, 3)
    bad = torch.zeros(2, 12, dtype=torch.bool)
    bad[1, 3] = True
    for got in (
        *sweeps.moments(x),
        *torch.unbind(sweeps.products(dy, x, near)[1:]),
        *sweeps.remeasure(dy, x)[0],
    ):
        assert torch.equal(~torch.isfinite(got), bad)
    y = sweeps.affine(x, near, scale, shift, relu=True)
    want = (scale[..., None, None] * (x - near[..., None, None])) + shift[
        ..., None, None
    ]
    assert torch.equal(y.isnan(), want.isnan())
    assert relative_error(y.nan_to_num(), want.relu().nan_to_num()) < 1e-6


def test_half_precisions_round_to_the_nearest_even():
    """Every float16 and bfloat16, through a sweep that changes nothing."""
    bits = torch.arange(-(2**15), 2**15, dtype=torch.int16)
    for dtype in (torch.float16, torch.bfloat16):
        x = bits.view(dtype).view(1, -1, 1)
        one, zero = torch.ones(1, x.numel()), torch.zeros(1, x.numel())
        y = sweeps.affine(x.view(1, -1), zero, one, zero)
        assert torch.equal(y.isnan(), x.view(1, -1).isnan())
        finite = ~y.isnan()
        assert torch.equal(y[finite], x.view(1, -1)[finite])
        # between two neighbours, and beyond the largest
        scale = torch.rand(1, x.numel()) + 0.5
        y = sweeps.affine(x.view(1, -1), zero, scale, zero)
        want = (x.view(1, -1).float() * scale).to(dtype)
        assert torch.equal(y[finite], want[finite])


# -- what C cannot read ---------------------------------------------------
class Wrapped(torch.Tensor):
    pass


HOSTILE = {
    'float64': (lambda x: x.double(), 'dtype is torch.float64'),
    'complex': (lambda x: torch.complex(x, x), 'dtype is torch.complex64'),
    'meta': (lambda x: x.to('meta'), 'on meta'),
    'negative bit': (torch._neg_view, None),
    'zeros': (lambda x: torch._efficientzerotensor(x.shape), None),
    'mkldnn': (lambda x: x.to_mkldnn(), 'torch._mkldnn'),
    'sparse': (lambda x: x.to_sparse(), 'torch.sparse_coo'),
    'subclass': (lambda x: x.as_subclass(Wrapped), 'subclass of Tensor'),
}


@pytest.mark.parametrize('kind', HOSTILE)
def test_why_not_says_what_c_cannot_read(kind):
    make, reason = HOSTILE[kind]
    x, _ = make_input((2, 3, 4, 5))
    assert sweeps.why_not(x) is None
    found = sweeps.why_not(make(x))
    assert found == reason or reason in found


def test_a_default_device_and_dtype_do_not_matter():
    x, dy = make_input((2, 3, 4, 5))
    want = check(dy, x)
    near, scale, shift = make_factors(x.shape, 3)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with torch.device('meta'):
            moments = sweeps.moments(x)
            y = sweeps.affine(x, near, scale, shift)
    finally:
        torch.set_default_dtype(before)
    assert torch.equal(moments, want['moments'])
    assert torch.equal(y, sweeps.affine(x, near, scale, shift))


def test_wrappers_of_functorch_are_not_read():
    seen = []

    def look(x):
        seen.append(sweeps.why_not(x))
        return x.sum()

    x, _ = make_input((2, 3, 4, 5))
    torch.func.vmap(look)(x)
    torch.func.grad(look)(x)
    assert seen == ['it has no memory of its own'] * 2


@pytest.mark.parametrize('kind', ['float64', 'negative bit', 'zeros'])
def test_other_inputs_are_right(kind):
    x, dy = make_input((2, 3, 4, 5))
    x = HOSTILE[kind][0](x)
    near, scale, shift = (t.to(x.dtype) for t in make_factors(x.shape, 3))
    want = expected(dy, x.clone(), near, make_factors(x.shape, 5))
    assert relative_error(sweeps.moments(x), want.moments) < 1e-5
    assert relative_error(sweeps.products(dy, x, near), want.sums) < 1e-5


@pytest.mark.parametrize('kind', ['negative bit', 'zeros', 'float64'])
def test_gradients_that_only_stand_for_values(kind):
    x, dy = make_input((2, 3, 4, 5))
    check(HOSTILE[kind][0](dy), x)


@pytest.mark.parametrize('kind', ['negative bit', 'zeros', 'float64'])
def test_factors_that_only_stand_for_values(kind):
    x, dy = make_input((2, 3, 4, 5))
    factors = make_factors(x.shape, 3)
    hostile = [HOSTILE[kind][0](t) for t in factors]
    want = sweeps.affine(x, *(t.float().clone() for t in hostile))
    assert torch.equal(sweeps.affine(x, *hostile), want)
    strided = [torch.stack([t, t], -1)[..., 0] for t in factors]
    assert torch.equal(sweeps.affine(x, *strided), sweeps.affine(x, *factors))


@pytest.mark.parametrize('shape', [(2, 2), (1, 3), (3,), (2, 3, 1)])
def test_factors_of_another_shape_are_refused(shape):
    x, dy = make_input((2, 3, 4, 5))
    near, scale, shift = make_factors(x.shape, 3)
    with pytest.raises(ValueError, match='a factor of rows has shape'):
        sweeps.affine(x, near, torch.ones(shape), shift)
    with pytest.raises(ValueError, match='a factor of rows has shape'):
        sweeps.products(dy, x, torch.ones(shape))


def test_factors_elsewhere_are_refused():
    x, dy = make_input((2, 3, 4, 5))
    near, scale, shift = make_factors(x.shape, 3)
    with pytest.raises(TypeError, match='a factor of rows .* on meta'):
        sweeps.affine(x, near, scale.to('meta'), shift)


@pytest.mark.parametrize('count', [1, 2])
def test_outputs_for_which_huge_pages_come_slowly(count, monkeypatch):
    impatient = Library(
        sweeps._SOURCE, sweeps._FUNCTIONS, (*sweeps._FLAGS, '-DSTALL=-1.')
    )
    torch.set_num_threads(count)
    x = torch.randn(3, 64, 160, 180)  # 22 MB, ten huge pages
    want = results(x, x.flip(0))[0]
    variant = Variant(2048, 0, -1)
    impatient.get().sweeps_tune(*variant)
    monkeypatch.setitem(sweeps._ready, torch.float32, impatient.get())
    got = results(x, x.flip(0))[0]
    assert all(want[name].equal(got[name]) for name in want)


def test_a_forked_process_computes_too():
    code = """
import os, torch
from sn_mm.kernels.native import sweeps
torch.set_num_threads(2)
x = torch.randn(4, 64, 50, 50)
want = sweeps.moments(x)
child = os.fork()
if child == 0:
    os._exit(0 if torch.equal(sweeps.moments(x), want) else 1)
_, status = os.waitpid(child, 0)
print(os.waitstatus_to_exitcode(status))
"""
    done = subprocess.run(
        [sys.executable, '-c', WITHOUT_THE_REST + code],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, 'OMP_NUM_THREADS': '2'},
    )
    assert done.stdout.strip() == '0', done.stderr
