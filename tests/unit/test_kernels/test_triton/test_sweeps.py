# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""The sweeps in Triton: on a GPU or, without one, in Triton's interpreter."""

import pytest
import torch

from sn_mm.kernels.triton import library, sweeps

DEVICE = 'cuda' if torch.cuda.is_available() else 'cpu'
pytestmark = pytest.mark.skipif(
    library.missing() is not None
    or (DEVICE == 'cpu' and not library.is_interpreted()),
    reason='needs a GPU or the interpreter of Triton 3',
)
SHAPES = [
    (5, 12, 7, 7),  # a RoI feature: many rows to a tile
    (2, 6, 13, 9),  # no size is a power of two
    (1, 1, 3, 5),
    (3, 5, 1, 1),
    (2, 70, 4, 6),  # channels last: a second, partial group of channels
    (1, 2, 90, 81),  # several splits
    (2, 3, 4, 5, 6),
    (4, 33),
    (3, 9, 11),
]
GATES = [False, True]
TIGHT = 3e-7  # of the largest value, in float32


@pytest.fixture(params=[1024, 1], ids=['many programs', 'few programs'])
def programs(request, monkeypatch):
    """Rows shared by programs, and rows of many tiles to one program."""
    monkeypatch.setattr(sweeps, '_PROGRAMS', request.param)
    sweeps.make_tiles.cache_clear()
    yield
    sweeps.make_tiles.cache_clear()


def formats(x):
    """x as it is and, where there is such a thing, with channels last."""
    last = {4: torch.channels_last, 5: torch.channels_last_3d}.get(x.dim())
    return [x] if last is None else [x, x.contiguous(memory_format=last)]


def batch(shape, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    offsets = 3 * torch.randn(shape[:2], generator=generator)
    x = 2 * torch.randn(shape, generator=generator) + as_rows(offsets, shape)
    dy = torch.randn(shape, generator=generator)
    return x.to(DEVICE, dtype), dy.to(DEVICE, dtype)


def numbers(shape, *names):
    """Numbers of rows, float32, other ones for each name."""
    generator = torch.Generator().manual_seed(len(names))
    return [
        torch.randn(shape[:2], generator=generator).to(DEVICE) for _ in names
    ]


def as_rows(t, shape):
    """(N, C) numbers so that they go with x."""
    return t.reshape(*shape[:2], *[1] * (len(shape) - 2))


def exact_moments(x):
    rows = x.double().reshape(*x.shape[:2], -1)
    mean = rows.mean(2)
    return torch.stack([mean, (rows - mean[:, :, None]).square().mean(2)])


def exact_sums(dy, x, near, gate=None):
    d = x.double() - as_rows(near.double(), x.shape)
    dy = exact_gated(dy.double(), d, gate)
    products = torch.stack([dy, dy * d])
    return products.reshape(2, *x.shape[:2], -1).sum(3)


def assert_sums_close(got, dy, x, near, gate=None):
    """Beside what is summed: its signs may leave little of it."""
    assert got.dtype == torch.float64
    off = (got - exact_sums(dy, x, near, gate)).abs()
    d = (x.double() - as_rows(near.double(), x.shape)).abs()
    summed = torch.stack([dy.double().abs(), dy.double().abs() * d])
    summed = summed.reshape(2, *x.shape[:2], -1).sum(3)
    assert (off <= TIGHT * summed.amax((1, 2), keepdim=True)).all()


def exact_gated(dy, d, gate):
    if gate is None:
        return dy
    scale, shift = (as_rows(t.double(), d.shape) for t in gate)
    return dy * (scale * d + shift > 0)


def assert_close(got, want, tolerance):
    """Beside the largest value."""
    assert got.shape == want.shape
    off = (got.double() - want.double()).abs().max()
    assert off <= tolerance * want.abs().max(), float(off / want.abs().max())


@pytest.mark.parametrize('shape', SHAPES)
def test_moments(shape, programs):
    for x in formats(batch(shape)[0]):
        got, want = sweeps.moments(x), exact_moments(x)
        assert got.dtype == torch.float64
        for ours, theirs in zip(got, want):
            assert_close(ours, theirs, TIGHT)


@pytest.mark.parametrize('shape', SHAPES)
def test_affine(shape):
    near, scale, shift = numbers(shape, 'near', 'scale', 'shift')
    for x in formats(batch(shape)[0]):
        y = as_rows(scale, shape).double()
        y = y * (x.double() - as_rows(near, shape)) + as_rows(shift, shape)
        assert_close(sweeps.affine(x, near, scale, shift), y, TIGHT)
        got = sweeps.affine(x, near, scale, shift, relu=True)
        assert_close(got, y.relu(), TIGHT)


@pytest.mark.parametrize('gated', GATES)
@pytest.mark.parametrize('shape', SHAPES)
def test_products(shape, gated, programs):
    near, *gate = numbers(shape, 'near', 'scale', 'shift')
    gate = tuple(gate) if gated else None
    values, dy = batch(shape)
    for x in formats(values):
        got = sweeps.products(dy, x, near, gate)
        assert_sums_close(got, dy, x, near, gate)


@pytest.mark.parametrize('gated', GATES)
@pytest.mark.parametrize('shape', SHAPES)
def test_combine(shape, gated):
    scale, near, slope, shift, *gate = numbers(shape, *range(6))
    gate = tuple(gate) if gated else None
    values, dy = batch(shape)
    for x in formats(values):
        d = x.double() - as_rows(near, shape)
        want = as_rows(scale, shape) * exact_gated(dy.double(), d, gate)
        want += as_rows(slope, shape) * d + as_rows(shift, shape)
        got = sweeps.combine(dy, x, scale, near, slope, shift, gate)
        assert_close(got, want, TIGHT)


@pytest.mark.parametrize('shape', SHAPES)
def test_remeasure(shape, programs):
    values, dy = batch(shape)
    for x in formats(values):
        moments, sums = sweeps.remeasure(dy, x)
        for ours, theirs in zip(moments, exact_moments(x)):
            assert_close(ours, theirs, TIGHT)
        assert_sums_close(sums, dy, x, moments[0].float())


def far_off(x):
    return x + 2e4


def very_far_off(x):
    return x + 1e6


def spike_first(x):
    x = x.clone()
    x.view(-1, 70 * 60)[:, 0] = 1e4
    return x


def first_tile_elsewhere(x):
    """What sums are centred on says nothing about most of the row."""
    x = 100 + x / 100
    x.view(-1, 70 * 60)[:, :2048] = 0
    return x


@pytest.mark.parametrize(
    'change', [far_off, very_far_off, spike_first, first_tile_elsewhere]
)
def test_little_cancels(change, programs):
    values, dy = batch((1, 3, 70, 60))
    for x in formats(change(values)):
        want = exact_moments(x)
        moments, sums = sweeps.remeasure(dy, x)
        for got in (sweeps.moments(x), moments):
            # beside the values: float32 sums of a spike carry its rounding
            size = (want[0].square() + want[1]).sqrt()
            assert ((got[0] - want[0]).abs() / size).max() < TIGHT
            # of each variance, not of the largest
            off = (got[1] - want[1]).abs() / want[1]
            assert off.max() < 2e-6
        exact = exact_sums(dy, x, moments[0].float())
        size = exact_sums(dy.abs(), x, moments[0].float())[0].max()
        assert (sums[0] - exact[0]).abs().max() < TIGHT * size
        size = size * want[1].sqrt().max()
        assert (sums[1] - exact[1]).abs().max() < 2e-6 * size


def test_constant_rows_have_no_variance():
    values = torch.full((2, 3, 40, 60), 1 / 3, device=DEVICE)
    for x in formats(values):
        mean, var = sweeps.moments(x)
        assert_close(mean, exact_moments(x)[0], 1e-12)
        assert var.abs().max() < 1e-14


@pytest.mark.parametrize('value', [float('nan'), float('inf')])
def test_what_is_not_finite_shows(value):
    x, dy = batch((2, 2, 5, 5))
    x[0, 1, 2, 2] = value
    moments = sweeps.moments(x)
    assert not moments[:, 0, 1].isfinite().any()
    assert moments[:, 0, 0].isfinite().all()
    one = torch.ones(2, 2, device=DEVICE)
    y = sweeps.affine(x, one, one, one, relu=True)
    assert y[0, 1, 2, 2].isnan() == x[0, 1, 2, 2].isnan()


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
@pytest.mark.parametrize('shape', [(2, 6, 13, 9), (3, 64, 7, 7)])
def test_half_precision(shape, dtype):
    """Only what is written is rounded."""
    near, scale, slope, shift = numbers(shape, *range(4))
    values, dy = batch(shape, dtype)
    for x in formats(values):
        for ours, theirs in zip(sweeps.moments(x), exact_moments(x)):
            assert_close(ours, theirs, TIGHT)
        assert_sums_close(sweeps.products(dy, x, near), dy, x, near)
        d = x.double() - as_rows(near, shape)
        y = sweeps.affine(x, near, scale, shift)
        want = as_rows(scale, shape) * d + as_rows(shift, shape)
        assert y.dtype == dtype
        assert_close(y, want, torch.finfo(dtype).eps)
        dx = sweeps.combine(dy, x, scale, near, slope, shift)
        want = as_rows(scale, shape) * dy.double() + as_rows(shift, shape)
        want += as_rows(slope, shape) * d
        assert dx.dtype == dtype
        assert_close(dx, want, torch.finfo(dtype).eps)


def test_results_lie_as_the_input_does():
    near, scale, slope, shift = numbers((2, 6, 5, 4), *range(4))
    values, dy = batch((2, 6, 5, 4))
    for x in formats(values):
        y = sweeps.affine(x, near, scale, shift)
        dx = sweeps.combine(dy, x, scale, near, slope, shift)
        assert y.stride() == dx.stride() == x.stride()
        assert y._base is None and dx._base is None


def test_any_strides_and_dtypes_of_gradients():
    near, scale, slope, shift = numbers((2, 6, 5, 4), *range(4))
    x, dy = batch((2, 6, 5, 4))
    gaps = torch.stack([x, x], -1)[..., 0]
    assert not gaps.is_contiguous()
    one = torch.ones((), device=DEVICE, dtype=torch.float16).expand(x.shape)
    turned = dy.transpose(2, 3).contiguous().transpose(2, 3)
    for gradient in (turned, one):
        args = scale, near, slope, shift
        want = sweeps.combine(gradient.float().contiguous(), x, *args)
        assert torch.equal(sweeps.combine(gradient, gaps, *args), want)
        got = sweeps.products(gradient, gaps, near)
        assert_sums_close(got, gradient, x, near)
    assert_close(sweeps.moments(gaps), exact_moments(x), TIGHT)


def test_order_of_sums_is_fixed(programs):
    x, dy = batch((2, 3, 70, 60))
    first, again = (sweeps.remeasure(dy, x) for _ in range(2))
    assert all(map(torch.equal, first, again))


def test_memory_that_holds_no_values_is_not_read():
    """Aten computes these, or refuses them."""
    near, scale, slope, shift = numbers((2, 3, 4, 4), *range(4))
    x, dy = batch((2, 3, 4, 4))
    zero = torch._efficientzerotensor(x.shape, device=DEVICE)
    negative = torch._neg_view(dy)
    want = sweeps.combine(-dy, x, scale, near, slope, shift)
    got = sweeps.combine(negative, x, scale, near, slope, shift)
    assert_close(got, want, TIGHT)
    want = sweeps.combine(torch.zeros_like(x), x, scale, near, slope, shift)
    got = sweeps.combine(zero, x, scale, near, slope, shift)
    assert_close(got, want, TIGHT)
    assert_close(sweeps.moments(torch._neg_view(x)), exact_moments(-x), TIGHT)


@pytest.mark.parametrize('name', ['near', 'scale', 'shift'])
def test_numbers_of_other_rows_are_refused(name):
    x, _ = batch((2, 3, 4, 4))
    rows = dict.fromkeys(['near', 'scale', 'shift'], x.new_ones(2, 3))
    rows[name] = x.new_ones(2, 2)
    with pytest.raises(ValueError, match=rf'{name} is \(2, 2\).*\(2, 3\)'):
        sweeps.affine(x, **rows)


def test_gradients_of_another_shape_are_refused():
    x, _ = batch((2, 3, 4, 4))
    with pytest.raises(ValueError, match=r'dy is \(2, 3, 4\)'):
        sweeps.products(x[..., 0], x, x.new_ones(2, 3))


def test_why_not():
    x = torch.ones(2, 3, 4, 4, device=DEVICE)
    assert sweeps.why_not(x) is None
    assert sweeps.why_not(torch.nn.Parameter(x)) is None
    assert 'float64' in sweeps.why_not(x.double())
    assert 'plain' in sweeps.why_not(torch._neg_view(x))
    zero = torch._efficientzerotensor(x.shape, device=DEVICE)
    assert 'plain' in sweeps.why_not(zero)
    assert 'plain' in sweeps.why_not(x.to_sparse())

    class Other(torch.Tensor):
        pass

    assert 'plain' in sweeps.why_not(x.as_subclass(Other))
    rows = x.new_ones(1).expand(2**15, 2**14)
    assert 'rows' in sweeps.why_not(rows)
    long = x.new_ones(1).expand(1, 1, 2**31)
    assert 'positions' in sweeps.why_not(long)

    seen = []
    torch.func.vmap(lambda t: seen.append(sweeps.why_not(t)) or t)(x)
    assert 'plain' in seen[0]


@pytest.mark.parametrize('last', [False, True])
@pytest.mark.parametrize(
    'n, c, size',
    [
        (1, 1, 1),
        (1024, 256, 49),
        (512, 1000, 1),
        (2, 64, 200 * 304),
        (2, 64, 1024 * 2048),  # more blocks than a grid has room for in y
        (1, 33, 128**3),
        (16, 512, 713 * 713),
        (1, 3, 2**30),
    ],
)
def test_tiles_cover_every_row(n, c, size, last):
    tiles = sweeps.make_tiles(n, c, size, last)
    per_program = tiles.per_split * tiles.block
    assert tiles.splits * per_program >= size
    assert (tiles.splits - 1) * per_program < size
    assert tiles.per_split <= 64
    assert (tiles.blocks - 1) * tiles.block < size
    assert tiles.blocks * tiles.block >= size
    assert tiles.groups * tiles.rows >= n * c
    assert tiles.rows * tiles.block <= 2048
    assert tiles.groups * tiles.blocks < 2**31
    inner = tiles.channels if last else tiles.positions
    assert inner * tiles.align == (c if last else size)
    # offsets in a tile and positions of a row are 32 bits wide
    assert size + per_program < 2**31
    assert tiles.rows * (1 if last else size) < 2**31
    assert tiles.block * (c if last else 1) < 2**31
