# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
import json
import runpy

import pytest
import torch
from mmcv.cnn.bricks.norm import is_norm
from torch import nn

from benchmarks import compiled, layers, steps
from benchmarks.compiled import benchmark_compiled
from benchmarks.layers import (
    NORMS,
    bandwidth_shares,
    benchmark_layers,
    geometric_means,
)
from benchmarks.memory import kept_for_backward
from benchmarks.results import (
    compiled_table,
    layer_table,
    plot_growth,
    step_table,
)
from benchmarks.steps import benchmark_step, build
from benchmarks.timing import time_together
from sn_mm import SN2d
from tests.paths import TOOLS
from tests.utils import needs_compile


def test_candidates_take_turns():
    order = []
    times = time_together(
        {'a': lambda: order.append('a'), 'b': lambda: order.append('b')},
        repeats=9,
        device=torch.device('cpu'),
        warmup=1,
    )
    rounds = [''.join(order[i : i + 2]) for i in range(0, 20, 2)]
    assert len(order) == 20 and set(times) == {'a', 'b'}
    assert set(rounds) == {'ab', 'ba'}  # each once a round, in either order
    with pytest.raises(ValueError, match='at least 1'):
        time_together({}, 0, torch.device('cpu'))


class Hidden(nn.Module):
    """Keeps twice its input, out of autograd's sight."""

    def forward(self, x):
        return HiddenFunction.apply(x)


class HiddenFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.secret = x.new_ones(2, *x.shape)
        return x + 1

    @staticmethod
    def backward(ctx, dy):
        return dy


@pytest.mark.parametrize(
    'layer,inputs',
    [
        (nn.Identity(), 0),
        (nn.Sigmoid(), 1),  # its output
        (nn.Sequential(nn.Sigmoid(), nn.Sigmoid()), 2),
        (Hidden(), 2),
    ],
)
def test_kept_for_backward(layer, inputs):
    x = torch.randn(2, 4, 8, 8)
    assert kept_for_backward(layer, x) == inputs * x.numel() * 4


def test_sn_keeps_its_input():
    for shape in [(64, 32, 7, 7), (2, 32, 32, 32)]:
        x = torch.randn(shape)
        kept = kept_for_backward(SN2d(32), x)
        assert 1 <= kept / (x.numel() * 4) <= 1.02


def test_every_norm_is_measured(tmp_path):
    shapes = [(2, 32, 4, 4), (2, 32, 8, 8)]
    rows = benchmark_layers(list(NORMS), shapes, repeats=1)
    assert len(rows) == 2 * len(NORMS)
    assert geometric_means(rows, 'GN')['GN'] == pytest.approx(1)
    table = layer_table(rows)
    assert '2 x 32 x 8 x 8' in table and 'over GN (worst)' in table
    plot_growth(rows, tmp_path / 'growth.png')
    assert (tmp_path / 'growth.png').stat().st_size > 5000
    rows = benchmark_layers(['SN', 'BN'], shapes, training=False, repeats=1)
    assert 'kept' not in layer_table(rows)


def test_every_type_of_ours_is_known(tmp_path):
    types = ['DN', 'EN', 'PN', 'FRN', 'AN', 'BGN', 'GhostBN', 'SyncIEBN']
    rows = benchmark_layers(types, [(2, 32, 4, 4)], repeats=1)
    assert [r['norm'] for r in rows] == types
    assert all(r['kept'] >= 1 for r in rows)
    plot_growth(rows, tmp_path / 'growth.png')
    with pytest.raises(ValueError, match="'XN'"):
        benchmark_layers(['XN'], [(2, 32, 4, 4)])


def test_a_norm_has_its_colour_in_every_picture(tmp_path, monkeypatch):
    """Whichever norms are asked for, and in whatever order."""
    from matplotlib import pyplot as plt

    looks = []
    monkeypatch.setattr(plt, 'close', lambda figure: None)
    for norms in (list(NORMS), ['GN', 'SN'], ['copy', 'GN']):
        rows = [
            dict(norm=n, shape=[1, 1, size, size], ms=size)
            for n in norms
            for size in (4, 8)
        ]
        plot_growth(rows, tmp_path / 'growth.pdf')
        lines = plt.gcf().axes[0].lines
        looks.append(
            {x.get_label(): (x.get_color(), x.get_marker()) for x in lines}
        )
        assert (tmp_path / 'growth.pdf').read_bytes().startswith(b'%PDF')
    assert len(set(looks[0].values())) == len(NORMS)
    for look in looks[1:]:
        assert look == {norm: looks[0][norm] for norm in look}


def test_share_of_the_copy_bandwidth():
    times = {4: (1.0, 9.0), 8: (1.0, 4.0), 16: (2.0, 5.0)}
    rows = [
        dict(shape=[2, 32, size, size], norm=norm, ms=ms, kept=1.0)
        for size, both in times.items()
        for norm, ms in zip(('copy', 'SN'), both)
    ]
    # eight sweeps against four: 0.5 and 0.8; the smallest does not count
    assert bandwidth_shares(rows) == {'SN': pytest.approx(0.5)}
    table = layer_table(rows)
    assert '| of copy bandwidth (two largest) |  | 0.50 |' in table
    for row in rows:
        del row['kept']
    assert bandwidth_shares(rows) == {'SN': pytest.approx(0.375)}


def test_unknown_names():
    with pytest.raises(ValueError, match="unknown norm 'XN'"):
        benchmark_layers(['XN'])
    with pytest.raises(ValueError, match="unknown 'XN'"):
        benchmark_step('detector', ['XN'])
    with pytest.raises(ValueError, match="unknown norm 'XN'"):
        benchmark_compiled(['XN'])


def test_backbones_with_a_norm_and_without():
    built = {norm: compiled._backbone(norm) for norm in ('SN', 'no norm')}
    kinds = {
        name: {type(m) for m in model.modules() if is_norm(m)}
        for name, model in built.items()
    }
    assert kinds == {'SN': {SN2d}, 'no norm': set()}
    with torch.no_grad():
        for model in built.values():
            assert len(model(torch.randn(1, 3, 32, 32))) == 4


def two_layers(norm):
    """In place of a ResNet, which takes seconds to trace."""
    last = SN2d(4) if norm == 'SN' else nn.Identity()
    return nn.Sequential(nn.Conv2d(3, 4, 1), last)


@needs_compile
@pytest.mark.parametrize('training', [True, False])
def test_compiled_backbones(training, monkeypatch):
    monkeypatch.setattr(compiled, '_backbone', two_layers)
    rows = benchmark_compiled(
        ['SN', 'no norm'],
        training=training,
        size=32,
        repeats=1,
        backend='eager',
    )
    assert [r['norm'] for r in rows] == ['SN', 'no norm']
    assert all(r['ms'] > 0 and r['compiled_ms'] > 0 for r in rows)
    row = dict(norm='SN', ms=8.0, compiled_ms=6.0)
    assert compiled_table([row]).endswith('| SN | 8.0 | 6.0 | 0.75 |')


@pytest.mark.parametrize('model', ['detector', 'segmentor'])
def test_the_norm_is_everywhere(model):
    built = build(model, dict(type='SN'))
    norms = [m for m in built.modules() if is_norm(m)]
    assert len(norms) > 55 and all(type(m) is SN2d for m in norms)
    prefixes = {
        name.split('.')[0] for name, m in built.named_modules() if is_norm(m)
    }
    assert {
        'detector': {'backbone', 'neck', 'roi_head'},
        'segmentor': {'backbone', 'decode_head', 'auxiliary_head'},
    }[model] == prefixes
    # and pictures are as large as asked for, not as the config's crops
    batch = built.data_preprocessor(steps._batch(model, 64, 2), training=True)
    assert batch['inputs'].shape == (2, 3, 64, 64)


def test_step_table():
    rows = [
        dict(model='detector', norm=n, ms=ms, layers=66)
        for n, ms in (('SN', 102.0), ('GN', 100.0))
    ]
    assert '1.020' in step_table(rows)


def test_command_line(tmp_path, capsys, monkeypatch):
    shapes = ((2, 32, 4, 4), (2, 32, 8, 8), (4, 64, 7, 7))
    monkeypatch.setattr(layers, 'SHAPES', shapes)
    main = runpy.run_path(str(TOOLS / 'benchmark.py'))['main']
    out = tmp_path / 'out' / 'layers.json'
    options = '--norms SN IN --mode eval --repeats 1 --json'.split()
    assert main(['layers', *options, str(out)]) == 0
    printed = capsys.readouterr().out
    assert '4 x 64 x 7 x 7' in printed and 'torch:' in printed
    content = json.loads(out.read_text())
    assert len(content['results']) == 2 * len(shapes)
    assert content['machine']['torch'] == torch.__version__


def test_a_wrong_argument_is_one_line(capsys):
    main = runpy.run_path(str(TOOLS / 'benchmark.py'))['main']
    assert main(['layers', '--norms', 'XN']) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: unknown norm 'XN'")
