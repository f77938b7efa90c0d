# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Where the kernels are loaded, and the first-use check."""

import warnings
from contextlib import nullcontext

import pytest
import torch

triton = pytest.importorskip('triton')

from sn_mm.kernels.triton import library, sweeps, trial  # noqa: E402

GPU = torch.device('cuda', 0)
HALF = torch.float16


@pytest.fixture(autouse=True)
def nothing_seen(monkeypatch):
    monkeypatch.setattr(library, '_seen', {})
    library.missing.cache_clear()
    yield
    library.missing.cache_clear()


@pytest.fixture
def tries(monkeypatch):
    """What the trial finds, one after the other; keeps what it is asked."""

    class Tries(list):
        asked = []

        def difference(self, device, dtype):
            self.asked.append((device, dtype))
            found = self.pop(0)
            if isinstance(found, Exception):
                raise found
            return found

    tries = Tries()
    tries.asked = []
    monkeypatch.setattr(trial, 'difference', tries.difference)
    # PyTorch's own needs a device
    monkeypatch.setattr(library, 'on', lambda device: nullcontext())
    monkeypatch.setattr(
        torch.cuda, 'is_current_stream_capturing', lambda: False
    )
    return tries


def test_working_kernels_are_tried_once(tries):
    tries += [None, None]
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        for _ in range(2):
            assert library.problem(GPU, HALF) is None
            assert library.problem(GPU, torch.float32) is None
    assert tries.asked == [(GPU, HALF), (GPU, torch.float32)]


@pytest.mark.parametrize(
    'found, words',
    [
        (RuntimeError('no C compiler'), 'no C compiler'),
        ('their sums differ from what PyTorch computes', 'differ'),
    ],
)
def test_others_are_left_with_one_warning(tries, found, words):
    tries.append(found)
    with pytest.warns(UserWarning, match=f'float16 on cuda:0.*{words}'):
        assert words in library.problem(GPU, HALF)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert words in library.problem(GPU, HALF)
    assert tries.asked == [(GPU, HALF)]


@pytest.mark.parametrize(
    'error',
    [
        torch.cuda.OutOfMemoryError('CUDA out of memory. Tried to allocate'),
        RuntimeError('Triton Error [CUDA]: out of memory'),
    ],
)
def test_lack_of_memory_is_not_remembered(tries, error):
    tries += [error, None]
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert 'out of memory' in library.problem(GPU, HALF)
        assert library.problem(GPU, HALF) is None


def test_a_graph_capture_is_not_remembered(tries, monkeypatch):
    tries.append(None)
    capturing = [True, False]
    monkeypatch.setattr(
        torch.cuda, 'is_current_stream_capturing', lambda: capturing.pop(0)
    )
    assert 'CUDA graph' in library.problem(GPU, HALF)
    assert library.problem(GPU, HALF) is None
    assert library.problem(GPU, HALF) is None  # needs no stream any more


@pytest.mark.parametrize(
    'version, old',
    [('2.0.0', True), ('2.1.0', False), ('2.2.0', False), ('3.9.0', False)],
)
def test_versions(monkeypatch, tries, version, old):
    tries.append(None)
    monkeypatch.setattr(triton, '__version__', version)
    assert (library.missing() is not None) == old
    with warnings.catch_warnings():
        # who has an old PyTorch knows; nothing is broken
        warnings.simplefilter('error')
        assert (library.problem(GPU, HALF) is not None) == old


def test_another_device_is_named():
    why = library.problem(torch.device('meta'), HALF)
    assert (why is None) == library.is_interpreted()
    if why is not None:
        assert 'meta' in why


DEVICE = torch.device('cuda', 0) if torch.cuda.is_available() else 'cpu'
runs = pytest.mark.skipif(
    not (torch.cuda.is_available() or library.is_interpreted()),
    reason='needs a GPU or the interpreter of Triton 3',
)


@runs
@pytest.mark.parametrize('dtype', [torch.float32, HALF])
def test_the_trial_passes(dtype):
    assert trial.difference(DEVICE, dtype, (1, 3, 60, 50)) is None
    assert sweeps.make_tiles(1, 3, 3000, False).splits > 1
    assert sweeps.make_tiles(1, 3, 3000, True).splits > 1


@runs
@pytest.mark.parametrize(
    'name', ['moments', 'affine', 'products', 'combine', 'remeasure']
)
def test_the_trial_sees_a_wrong_sweep(monkeypatch, name):
    right = getattr(sweeps, name)

    def wrong(*args, **kwargs):
        result = right(*args, **kwargs)
        if isinstance(result, tuple):
            return result[0], result[1] * 1.01
        return result * 1.01

    monkeypatch.setattr(sweeps, name, wrong)
    found = trial.difference(DEVICE, torch.float32, (1, 2, 5, 5))
    assert 'differ' in found


@pytest.mark.parametrize('last', [False, True])
def test_the_trial_merges_splits(last):
    n, c, *spatial = trial._SHAPE
    tiles = sweeps.make_tiles(n, c, spatial[0] * spatial[1], last)
    assert tiles.splits > 1
