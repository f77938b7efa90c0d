# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""print_norms, harden, fold and plot_ratios on configs and checkpoints."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
import warnings

import numpy as np
import pytest
import torch
from mmengine.logging import MMLogger

from sn_mm import cli
from sn_mm.analysis.history import HistoryWriter, Record
from sn_mm.anatomy.layer_info import infos_of_model
from sn_mm.anatomy.ratios import LayerRatios, ratios_of_state
from tests.builders import (
    build,
    randomize_norms,
    switch_norms,
)
from tests.paths import ROOT
from tests.utils import is_hard, relative_error

DEMO = ROOT / 'configs/demo'
HARD = ROOT / 'configs/hard'
FASTER = str(DEMO / 'faster-rcnn_r18_fpn_sn-all_demo.py')
FASTER_HARD = str(HARD / 'faster-rcnn_r18_fpn_sn-all-hard_demo.py')
PSPNET = str(DEMO / 'pspnet_r18-d8_sn-all_demo-160x192.py')
PSPNET_HARD = str(HARD / 'pspnet_r18-d8_sn-all-hard_demo-160x192.py')


@pytest.fixture(autouse=True)
def quiet():
    """The tools turn warnings and the log down, for their process."""
    logger = MMLogger.get_current_instance()
    level = logger.level
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        yield
    logger.setLevel(level)


def tool(name: str):
    spec = importlib.util.spec_from_file_location(
        name, ROOT / 'tools' / f'{name}.py'
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


def made(config: str, seed: int = 0):
    cfg = cli.load_config(config)
    scope = cli.register_toolbox(cfg)
    model = randomize_norms(build(scope, cfg.model))
    for number, layer in enumerate(switch_norms(model).values()):
        rng = np.random.default_rng([seed, number])
        with torch.no_grad():
            for weight in (layer.mean_weight, layer.var_weight):
                weight.copy_(torch.from_numpy(rng.normal(size=3)))
    return model


@pytest.fixture(scope='module')
def checkpoints(tmp_path_factory):
    """Three snapshots of the demo's Faster R-CNN, and one of its PSPNet."""
    folder = tmp_path_factory.mktemp('checkpoints')
    for number in (1, 2, 3):
        state = made(FASTER, number).state_dict()
        content = dict(meta=dict(iter=100 * number), state_dict=state)
        torch.save(content, folder / f'iter_{100 * number}.pth')
    content = dict(meta={}, state_dict=made(PSPNET).state_dict(), optimizer={})
    torch.save(content, folder / 'pspnet.pth')
    return folder


# -- print_norms ---------------------------------------------------------
def test_table_of_a_detector(capsys, tmp_path):
    assert tool('print_norms')([FASTER, '--json', str(tmp_path / 'j')]) == 0
    out = capsys.readouterr().out
    assert re.search(
        r'^neck\.fpn_convs\.0\.sn +FPN / neck +SN2d +64', out, re.M
    )
    assert 'in 0.33 ln 0.33 bn 0.33  yes        no' in out
    assert 'backbone: 20 x SN2d\n' in out
    assert 'images per GPU: 2' in out and 'warning' not in out
    content = json.loads((tmp_path / 'j').read_text())
    assert len(content['layers']) == 32 and not content['warnings']
    assert content['layers'][0]['trainable'] == 'yes'


def test_decay_and_frozen_stages(capsys):
    assert (
        tool('print_norms')(
            [
                FASTER,
                '--cfg-options',
                'optim_wrapper.paramwise_cfg.norm_decay_mult=1',
                'model.backbone.frozen_stages=1',
            ]
        )
        == 0
    )
    out = capsys.readouterr().out
    line = next(x for x in out.splitlines() if x.startswith('backbone.sn1'))
    assert line.split()[-2:] == ['no', 'no']
    # bias_decay_mult=0 of the config does not reach norms
    line = next(x for x in out.splitlines() if x.startswith('neck.fpn'))
    assert line.split()[-2:] == ['yes', 'yes']
    assert 'backbone: 20 x SN2d; 5 frozen' in out


def test_advice(capsys, checkpoints):
    start = 'model.pretrained=resnet50_sn_8xb32.pth'
    assert tool('print_norms')([PSPNET, '--cfg-options', start]) == 0
    out = capsys.readouterr().out
    assert 'single position: decode_head.psp_modules.0.1.sn. IN and' in out
    assert 'resnet50_sn_8xb32.pth was trained with 32 images per GPU' in out
    assert 'BN ratios' not in out  # untrained ones say nothing
    args = [FASTER, '--checkpoint', str(checkpoints / 'iter_100.pth')]
    assert tool('print_norms')(args) == 0
    # the paper finds them rising in detection
    assert 'BN ratios above' not in capsys.readouterr().out
    args = [PSPNET, '--checkpoint', str(checkpoints / 'pspnet.pth')]
    assert tool('print_norms')(args) == 0
    assert 'BN ratios above 0.3 at 2 image(s)' in capsys.readouterr().out
    more = ['--cfg-options', 'train_dataloader.batch_size=8']
    assert tool('print_norms')(args + more) == 0
    assert 'BN ratios above' not in capsys.readouterr().out


def test_print_norms_of_what_cannot_be(capsys, checkpoints):
    assert tool('print_norms')(['no.py']) == 1
    assert 'error: config no.py not found' in capsys.readouterr().err
    wrong = [FASTER, '--checkpoint', str(checkpoints / 'pspnet.pth')]
    assert tool('print_norms')(wrong) == 1
    assert 'does not fit the model of the' in capsys.readouterr().err


# -- harden --------------------------------------------------------------
@pytest.mark.parametrize(
    'name, config, hard',
    [
        ('iter_100', FASTER, FASTER_HARD),
        ('pspnet', PSPNET, PSPNET_HARD),
    ],
)
def test_hardened_checkpoints_start_both_configs(
    name, config, hard, checkpoints, tmp_path, capsys
):
    source, out = checkpoints / f'{name}.pth', tmp_path / 'hard.pth'
    before = source.read_bytes()
    assert tool('harden')([str(source), str(out)]) == 0
    assert source.read_bytes() == before
    assert 'layer(s), mean/var:' in capsys.readouterr().out
    state = torch.load(out, weights_only=True)['state_dict']
    assert all(is_hard(r) for r in ratios_of_state(state))
    outputs = []
    for path in (config, hard):
        cfg = cli.load_config(path)
        model = build(cli.register_toolbox(cfg), cfg.model)
        cli.load_weights(model, str(out))
        names = [n for n, _ in model.named_parameters()]
        trains = any('mean_weight' in n for n in names)
        assert trains is (path == config)
        model.eval()
        with torch.no_grad():
            x = torch.rand(1, 3, 64, 96, generator=torch.manual_seed(0))
            outputs.append(model.extract_feat(x))
    for got, want in zip(*outputs):
        assert relative_error(got, want) < 1e-5


def test_harden_without_writing(checkpoints, capsys):
    source = str(checkpoints / 'iter_100.pth')
    assert tool('harden')([source, '--dry-run']) == 0
    out = capsys.readouterr().out
    assert re.search(r'backbone\.sn1 +(in|ln|bn) \(0\.\d\d, by 0\.\d\d\)', out)
    assert 'the largest ratio leads by 0.' in out
    assert 'finetune it before it is tested or folded' in out


@pytest.mark.parametrize(
    'content, words',
    [
        (dict(state_dict=dict(x=torch.ones(1))), 'no SN layer'),
        (dict(state_dict=dict()), 'holds no weights'),
        ([1], 'holds a list'),
        (None, 'not found'),
    ],
)
def test_what_cannot_be_hardened(content, words, tmp_path, capsys):
    source = tmp_path / 'a.pth'
    if content is not None:
        torch.save(content, source)
    assert tool('harden')([str(source), str(tmp_path / 'b.pth')]) == 1
    assert words in capsys.readouterr().err
    assert not (tmp_path / 'b.pth').exists()


def test_harden_does_not_overwrite(checkpoints, capsys):
    source = str(checkpoints / 'iter_100.pth')
    assert tool('harden')([source, source]) == 1
    assert 'exists already' in capsys.readouterr().err


# -- fold ----------------------------------------------------------------
def test_fold(checkpoints, tmp_path, capsys):
    source = str(checkpoints / 'iter_100.pth')
    assert tool('fold')([FASTER, source]) == 1
    assert 'tools/harden.py' in capsys.readouterr().err
    args = [FASTER, source, '--harden', '--size', '96', '128']
    assert tool('fold')(args) == 0
    out = capsys.readouterr().out
    error = re.search(r'largest change of an output, relative: (\S+)', out)
    assert float(error[1]) < 1e-5
    assert 'into backbone.' in out and 'native LN' in out
    (line,) = (x for x in out.splitlines() if x.startswith('warning: '))
    change = re.search(r'changes the outputs by (\d+)% of the largest', line)
    assert int(change[1]) > 0 and 'finetune' in line


def test_onnx_files_need_onnx(checkpoints, tmp_path, capsys, monkeypatch):
    """One sentence, at once, and no traceback of torch's."""
    monkeypatch.setitem(sys.modules, 'onnx', None)
    source = str(checkpoints / 'iter_100.pth')
    stem = str(tmp_path / 'folded')
    assert tool('fold')([FASTER, source, '--harden', '--onnx', stem]) == 1
    said = capsys.readouterr()
    assert said.out == ''
    assert said.err.startswith('error: --onnx needs the package onnx: pip')
    assert not list(tmp_path.iterdir())


# -- plot_ratios ---------------------------------------------------------
@pytest.fixture(scope='module')
def run(tmp_path_factory):
    """A work folder with a history of the demo's Faster R-CNN."""
    folder = tmp_path_factory.mktemp('run')
    layers, note = infos_of_model(made(FASTER), 128)
    assert not note
    writer = HistoryWriter(folder / 'ratios.jsonl', layers)
    rng = np.random.default_rng(0)
    for iteration in range(0, 60, 10):
        ratios = [
            LayerRatios(x.name, x.statistics, *rng.dirichlet([2] * 3, (2, 1)))
            for x in layers
        ]
        writer.append(Record(iteration, 0, ratios))
    return folder


BEGINNINGS = dict(png=b'\x89PNG\r\n\x1a\n', pdf=b'%PDF', svg=b'<?xml')


def plot(tmp_path, *args, formats=('png',)) -> object:
    """The numbers of a picture; it is drawn anew for every format."""
    style = pytest.importorskip('sn_mm.analysis.plots.style')
    stem, numbers = tmp_path / 'out' / 'picture', tmp_path / 'numbers.json'
    args = [*map(str, args), '--out', str(stem), '--json', str(numbers)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(style, 'FORMATS', formats)
        assert tool('plot_ratios')(args) == 0
    files = {p.suffix[1:]: p for p in stem.parent.glob('picture.*')}
    assert files.keys() == set(formats)
    for kind, file in files.items():
        assert file.read_bytes().startswith(BEGINNINGS[kind])
    return json.loads(numbers.read_text())


def test_plot_layers_of_checkpoints_and_histories(checkpoints, run, tmp_path):
    file = checkpoints / 'iter_300.pth'
    first, second = plot(
        *(tmp_path, 'layers', file, run, '--titles', 'A', 'B'),
        formats=('png', 'svg', 'pdf'),
    )
    assert first['title'] == 'A' and second['title'] == 'B, iteration 50'
    state = torch.load(file, weights_only=True)['state_dict']
    for layer, want in zip(first['layers'], ratios_of_state(state)):
        assert layer['name'] == want.name
        got = [layer['var'][n] for n in want.statistics]
        np.testing.assert_allclose(got, want.var[0], atol=1e-5)


def test_plot_components(checkpoints, run, tmp_path, capsys):
    made = plot(
        tmp_path, 'components', checkpoints / 'pspnet.pth', run, '--at', 0, 40
    )
    assert [list(s['components']) for s in made] == [
        ['backbone', 'decode_head', 'auxiliary_head', 'all'],
        *[['backbone', 'neck', 'box_head', 'all']] * 2,
    ]
    assert 'decode head' in capsys.readouterr().out


def test_plot_time(checkpoints, run, tmp_path):
    (made,) = plot(tmp_path, 'time', run, '--bins', 100)
    assert made['iterations'] == [0, 10, 20, 30, 40, 50]
    titles = [g['title'] for g in made['groups']]
    assert titles == ['RF < 100', 'RF ≥ 100', 'RoI, or not known']
    # checkpoints as a history, receptive fields from the config
    folder = tmp_path / 'work'
    folder.mkdir()
    for number in (100, 200):
        name = f'iter_{number}.pth'
        (folder / name).symlink_to(checkpoints / name)
    (again,) = plot(
        tmp_path, 'time', folder, '--bins', 100, '--config', FASTER
    )
    assert again['iterations'] == [100, 200]
    assert [len(g['layers']) for g in again['groups']] == [
        len(g['layers']) for g in made['groups']
    ]


def test_plot_hard(checkpoints, run, tmp_path, capsys):
    files = [checkpoints / f'iter_{n}00.pth' for n in (1, 2, 3)]
    made = plot(tmp_path, 'hard', *files)
    states = [
        ratios_of_state(torch.load(f, weights_only=True)['state_dict'])
        for f in files
    ]
    moved = sum(
        (a.choice('mean'), a.choice('var'))
        != (b.choice('mean'), b.choice('var'))
        for a, b in zip(*states[:2])
    )
    assert sum(made['snapshots'][1]['changed']) == moved > 0
    assert f'{moved} changed' in capsys.readouterr().out
    spaced = plot(tmp_path, 'hard', run)['snapshots']
    assert [s['iteration'] for s in spaced] == [0, 20, 30, 50]


@pytest.mark.parametrize(
    'args, words',
    [
        (['layers', 'none.pth'], 'none.pth not found'),
        (['time', '{}/iter_100.pth'], 'has no history'),
        (['hard', '{}/iter_100.pth', '{}/pspnet.pth'], 'same SN layers'),
        (['layers', '{}/iter_100.pth', '--titles', 'a', 'b'], '2 titles for'),
        (['time', '{}', '--config', PSPNET], 'do not have the same SN'),
        (['layers', '.'], 'has neither ratios.jsonl nor checkpoints'),
    ],
)
def test_what_cannot_be_plotted(
    args, words, checkpoints, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    args = [a.format(checkpoints) for a in args]
    if args[1] == str(checkpoints):
        folder = tmp_path / 'w'
        folder.mkdir()
        for name in ('iter_100.pth', 'iter_200.pth'):
            (folder / name).symlink_to(checkpoints / name)
        args[1] = str(folder)
    assert tool('plot_ratios')(args) == 1
    assert words in capsys.readouterr().err
    assert not list(tmp_path.glob('ratios_*'))


# -- sparse SN -------------------------------------------------------------
def test_print_norms_of_a_radius_that_stays(capsys, tmp_path):
    config = tmp_path / 'own.py'
    config.write_text(
        f'_base_ = {str(DEMO / "faster-rcnn_r18_fpn_ssn-all_demo.py")!r}\n'
    )
    assert tool('print_norms')([str(config)]) == 0
    assert 'radius' not in capsys.readouterr().out
    with config.open('a') as file:
        file.write('custom_hooks = []\n')
    assert tool('print_norms')([str(config)]) == 0
    lines = capsys.readouterr().out.splitlines()
    (line,) = (x for x in lines if 'radius' in x)
    assert line.startswith('warning: nothing moves the radius of 32 SSN')
    assert 'RadiusHook' in line


# -- where norms start --
STARTING = """
_base_ = {base!r}
model = dict(backbone=dict(frozen_stages=1, init_cfg=dict(
    _delete_=True, type='Pretrained', checkpoint={start!r})))
"""


@pytest.fixture
def starting(tmp_path):
    """A config that starts from BN, with a frozen stage; and that start."""
    from mmdet.models.backbones import ResNet

    network = ResNet(18, base_channels=16, stem_channels=16)
    torch.save(network.state_dict(), tmp_path / 'bn.pth')
    start = f'bn2sn://{tmp_path / "bn.pth"}'
    path = tmp_path / 'config.py'
    path.write_text(STARTING.format(base=FASTER, start=start))
    return str(path), start


def starts_in(file) -> dict[str, str]:
    layers = json.loads(file.read_text())['layers']
    return {layer['name']: layer['start'] for layer in layers}


def test_print_norms_says_where_each_layer_starts(starting, tmp_path, capsys):
    config, start = starting
    file = tmp_path / 'norms.json'
    for options, first, later in (
        ([], f'{start}: bn', f'{start}: equal'),
        (['--init-weights'], f'{start}: bn1, bn', f'{start}: layer2'),
    ):
        args = [config, '--json', str(file), *options]
        assert tool('print_norms')(args) == 0
        found = starts_in(file)
        assert found['backbone.sn1'] == first
        assert found['backbone.layer2.0.sn1'].startswith(later)
        assert found['backbone.layer2.0.sn1'].endswith('equal')
        assert found['neck.fpn_convs.0.sn'] == 'new'
    assert f'{start}: bn1, bn' in capsys.readouterr().out


def test_print_norms_of_a_checkpoint(tmp_path, checkpoints):
    path = str(checkpoints / 'iter_100.pth')
    file = tmp_path / 'norms.json'
    tool('print_norms')([FASTER, '--checkpoint', path, '--json', str(file)])
    assert set(starts_in(file).values()) == {path}


@pytest.fixture
def trained(tmp_path):
    """A config that loads a whole detector, and that file: neck without BN."""
    bn = cli.load_config(FASTER.replace('sn-all', 'bn-all'))
    bn.model.neck.norm_cfg = None
    model = build('mmdet', bn.model)
    torch.save(dict(state_dict=model.state_dict()), tmp_path / 'bn.pth')
    path = tmp_path / 'config.py'
    start = f'bn2sn://{tmp_path / "bn.pth"}?ratios=0.5'
    path.write_text(f'_base_ = {FASTER!r}\nload_from = {start!r}\n')
    return path, start


@pytest.mark.parametrize('options', [[], ['--init-weights']])
def test_print_norms_of_parts_that_the_file_lacks(trained, tmp_path, options):
    config, start = trained
    file = tmp_path / 'norms.json'
    tool('print_norms')([str(config), '--json', str(file), *options])
    found = starts_in(file)
    parts = {
        'backbone': {n for n in found if n.startswith('backbone')},
        'head': {n for n in found if n.startswith('roi_head')},
    }
    for names in parts.values():
        assert names and all(found[n].startswith(start[:-11]) for n in names)
    others = set(found) - set().union(*parts.values())
    assert others and all(found[n] == 'new' for n in others)
    if options:  # the ratios are those that training starts with
        layers = json.loads(file.read_text())['layers']
        (stem,) = (x for x in layers if x['name'] == 'backbone.sn1')
        assert stem['mean'] == [pytest.approx([0.25, 0.25, 0.5], abs=1e-3)]


@pytest.mark.parametrize('options', [[], ['--init-weights']])
def test_print_norms_of_a_start_of_backbone_and_neck(
    starting, tmp_path, options
):
    """As a transplant of parts leaves it; load_from counts, not init_cfg."""
    config, _ = starting
    start = tmp_path / 'start.pth'
    state = made(FASTER).state_dict()
    kept = {k: v for k, v in state.items() if not k.startswith('roi_head')}
    torch.save(dict(state_dict=kept, meta={}), start)
    with open(config, 'a') as file:
        file.write(f'load_from = {str(start)!r}\n')
    file = tmp_path / 'norms.json'
    tool('print_norms')([config, '--json', str(file), *options])
    for name, text in starts_in(file).items():
        assert text == ('new' if name.startswith('roi_head') else str(start))
