# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""The Triton engine: on a GPU or, without one, in Triton's interpreter."""

import os
import subprocess
import sys
import textwrap

import pytest
import torch

from sn_mm import SN2d, SN3d
from sn_mm.functional.engines import gpu
from tests.utils import assert_close, randomize, run, run_reference

pytestmark = pytest.mark.skipif(
    gpu._kernels() is None, reason='needs triton 3'
)
DEVICE = 'cuda' if torch.cuda.is_available() else 'cpu'
SUBSETS = [
    ('in', 'ln', 'bn'),
    ('bn', 'gn', 'in', 'ln'),
    ('gn', 'ln'),
    ('in',),
    ('ln',),
    ('bn',),
]
# (shape, ratio groups): RoI-like, no power of two, one sample, splits of
# rows, many blocks of channels
SHAPES = [
    ((5, 12, 7, 7), 1),
    ((2, 6, 13, 9), 3),
    ((1, 4, 3, 5), 2),
    ((2, 2, 90, 81), 1),
    ((2, 132, 2, 3), 2),
]


@pytest.fixture(autouse=True)
def engine(monkeypatch):
    if DEVICE == 'cpu':
        # by name in sys.modules: the package has a function of that name
        module = sys.modules['sn_mm.functional.normalize']
        monkeypatch.setattr(module, 'engine_for', lambda x, mixing: gpu)
        monkeypatch.setattr(gpu, '_PROGRAMS', 16)  # rows are split earlier


def layer_for(shape, groups, cls=SN2d, **kwargs):
    return randomize(
        cls(shape[1], num_groups=2, ratio_groups=groups, eps=1e-4, **kwargs)
    ).to(DEVICE)


def batch_for(shape, scale=3.0):
    gen = torch.Generator().manual_seed(0)
    offsets = torch.randn(*shape[:2], 1, 1, generator=gen)
    x = 2 * torch.randn(shape, generator=gen) + scale * offsets
    dy = torch.randn(shape, generator=gen)
    return x.to(DEVICE), dy.to(DEVICE)


@pytest.mark.parametrize('training', [True, False])
@pytest.mark.parametrize('statistics', SUBSETS)
@pytest.mark.parametrize('shape, groups', SHAPES)
def test_equals_the_oracle(shape, groups, statistics, training):
    layer = layer_for(shape, groups, statistics=statistics).train(training)
    x, dy = batch_for(shape)
    want = run_reference(
        layer, x, dy, use_running=not training and 'bn' in statistics
    )
    assert_close(run(layer, x, dy), want, 2e-4)


@pytest.mark.parametrize('shape', [(2, 6, 13, 9), (3, 4, 1, 1)])
def test_unbiased_and_single_positions(shape):
    layer = layer_for(shape, 1, unbiased=True)
    x, dy = batch_for(shape)
    want = run_reference(layer, x, dy, use_running=False)
    assert_close(run(layer, x, dy), want, 2e-4)


def test_without_affine():
    layer = layer_for((2, 6, 5, 5), 1, affine=False)
    x, dy = batch_for((2, 6, 5, 5))
    want = run_reference(layer, x, dy, use_running=False)
    assert_close(run(layer, x, dy), want, 2e-4)


def test_a_large_mean_costs_no_digits():
    layer = layer_for((2, 4, 70, 60), 1, statistics=('in', 'bn'))
    x, dy = batch_for((2, 4, 70, 60), scale=0.0)
    x = x + 2e4
    want = run_reference(layer, x, dy, use_running=False)
    assert_close(run(layer, x, dy), want, 2e-3)


@pytest.mark.parametrize('shape', [(2, 6, 13, 9), (2, 70, 40, 30)])
def test_channels_last(shape):
    layer = layer_for(shape, 1)
    x, dy = batch_for(shape)
    want = run_reference(layer, x, dy, use_running=False)
    x = x.contiguous(memory_format=torch.channels_last)
    got = run(layer, x, dy)
    assert got['y'].is_contiguous(memory_format=torch.channels_last)
    assert got['x'].is_contiguous(memory_format=torch.channels_last)
    assert_close(got, want, 2e-4)


def test_volumes():
    layer = layer_for((2, 4, 3, 5, 6), 1, cls=SN3d)
    gen = torch.Generator().manual_seed(0)
    x, dy = (
        torch.randn(2, 4, 3, 5, 6, generator=gen).to(DEVICE) for _ in range(2)
    )
    want = run_reference(layer, x, dy, use_running=False)
    form = torch.channels_last_3d
    assert_close(run(layer, x, dy), want, 2e-4)
    assert_close(run(layer, x.contiguous(memory_format=form), dy), want, 2e-4)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_input(dtype):
    layer = layer_for((2, 6, 13, 9), 1)
    x, dy = (t.to(dtype) for t in batch_for((2, 6, 13, 9)))
    want = run_reference(layer, x, dy, use_running=False)
    got = run(layer, x, dy)
    assert got['y'].dtype == got['x'].dtype == dtype
    # rounding of the outputs; everything else is float32
    eps = torch.finfo(dtype).eps
    assert_close({n: got[n] for n in ('y', 'x')}, {
        n: want[n] for n in ('y', 'x')
    }, eps)  # fmt: skip
    rest = [n for n in got if n not in ('y', 'x')]
    assert_close({n: got[n] for n in rest}, {n: want[n] for n in rest}, 2e-4)


def test_tracks_the_batch_statistics():
    layer = layer_for((4, 6, 9, 8), 1, momentum=1.0)
    x, _ = batch_for((4, 6, 9, 8))
    layer(x)
    flat = x.double().transpose(0, 1).flatten(1)
    assert torch.allclose(layer.running_mean.double(), flat.mean(1), atol=1e-5)
    var = flat.var(1, unbiased=False)
    assert torch.allclose(layer.running_var.double(), var, rtol=1e-5)


def test_kernels_compile_for_gpus():
    """Triton makes machine code for a GPU that need not be there."""
    env = {k: v for k, v in os.environ.items() if k != 'TRITON_INTERPRET'}
    done = subprocess.run(
        [sys.executable, '-c', textwrap.dedent(COMPILE)],
        capture_output=True,
        text=True,
        env=env,
    )
    if done.returncode == 77:
        pytest.skip(done.stdout.strip())
    assert done.returncode == 0, done.stderr[-2000:]


COMPILE = """
    import sys
    try:
        import triton
        from triton.backends.compiler import GPUTarget
        from triton.compiler import ASTSource
    except ImportError as error:
        print('this Triton compiles on a GPU only:', error)
        sys.exit(77)
    from sn_mm.functional.engines import triton_kernels as kernels

    doubles = ('moments parts out ln gn bn ratios sums d_ratios d_ln d_gn '
               'd_bn').split()
    values = 'x y dx dy'.split()
    vectors = 'weight bias d_affine'.split()
    floats = 'eps spread'.split()
    fixed = dict(IN=0, LN=1, GN=2, BN=3, K=4, BATCH=True, WEIGHT=True,
                 BIAS=True, ROWS=2, BLOCK=1024, CHANNELS=64, SPLITS=3)

    for name in ('moments', 'pool', 'apply', 'reduce', 'sums', 'input_grad'):
        kernel = getattr(kernels, name + '_kernel')
        for dtype in ('fp32', 'fp16', 'bf16'):
            signature, constants = {}, {}
            for i, arg in enumerate(kernel.arg_names):
                if arg in fixed:
                    signature[arg] = 'constexpr'
                    constants[(i,)] = fixed[arg]
                elif arg in doubles:
                    signature[arg] = '*fp64'
                elif arg in values:
                    signature[arg] = '*' + dtype
                elif arg in vectors:
                    signature[arg] = '*fp32'
                else:
                    signature[arg] = 'fp32' if arg in floats else 'i32'
            source = ASTSource(kernel, signature, constants)
            made = triton.compile(source, target=GPUTarget('cuda', 90, 32))
            assert made.asm['cubin'], name
"""


@pytest.fixture
def unseen():
    gpu._works.cache_clear()
    yield torch.device(DEVICE)
    gpu._works.cache_clear()


def test_working_kernels_are_taken(unseen, caplog):
    assert gpu._works(unseen) and not caplog.records


def no_compiler(*args):
    raise RuntimeError('no C compiler')


def wrong(*args, forward=gpu.forward):
    y, *rest = forward(*args)
    return (y + 0.01, *rest)


@pytest.mark.parametrize(
    'forward, problem', [(no_compiler, 'no C compiler'), (wrong, 'differ')]
)
def test_others_are_left_with_a_warning(
    unseen, monkeypatch, caplog, forward, problem
):
    monkeypatch.setattr(gpu, 'forward', forward)
    for _ in range(2):  # said once
        assert not gpu._works(unseen)
    (record,) = caplog.records
    assert problem in record.getMessage() and DEVICE in record.getMessage()
