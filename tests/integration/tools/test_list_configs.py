# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""The command line."""

import importlib.util

import pytest

from tests.paths import ROOT

FPN = 'configs/faster_rcnn/faster-rcnn_r50_fpn_sn-all_1x_coco.py'


@pytest.fixture(scope='module')
def tool():
    path = ROOT / 'tools' / 'list_configs.py'
    spec = importlib.util.spec_from_file_location('list_configs', path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_table(tool, capsys):
    tool.main(['--table', 'VI'])
    lines = capsys.readouterr().out.splitlines()[2:]
    assert len(lines) == 6
    (line,) = (line for line in lines if 'VI: SN / SN' in line)
    for text in (
        'mask-rcnn_r50_fpn_sn-all_2x_coco',
        'box AP 41.0, mask AP 36.5',
        'checkpoints/resnet50_sn_8xb2_in1k.pth',
        '8 x 2',
        '180k',
    ):
        assert text in line


def test_checkpoints_have_the_same_names_everywhere(
    tool, capsys, monkeypatch, tmp_path
):
    monkeypatch.setenv('SN_MM_CHECKPOINTS', str(tmp_path))
    tool.main(['--table', 'V'])
    printed = capsys.readouterr().out
    assert 'checkpoints/resnet50_sn_8xb2_in1k.pth' in printed
    assert str(tmp_path) not in printed


def test_a_folder(tool, capsys):
    tool.main(['swap_in'])
    printed = capsys.readouterr().out
    names = [p.stem for p in (ROOT / 'configs/swap_in').glob('*.py')]
    assert len(printed.splitlines()) == 2 + len(names)
    for name in names:
        assert name in printed
    # the base's batch: by its name, where it has no auto_scale_lr
    (line,) = (n for n in printed.splitlines() if 'upernet_r50_sn-' in n)
    assert '4 x 4' in line and '80k' in line
    (line,) = (
        n for n in printed.splitlines() if 'retinanet_r50_fpn_sn-all_1x' in n
    )
    assert '8 x 2' in line and '12 epochs' in line


def test_toolboxes_that_are_missing_are_said_to_be(tool, capsys):
    tool.main(['released'])
    lines = capsys.readouterr().out.splitlines()
    (line,) = (line for line in lines if 'resnet101_sn_8xb32' in line)
    missing = importlib.util.find_spec('mmpretrain') is None
    assert ('mmpretrain is not installed' in line) == missing


def test_schedule_for_another_batch(tool, capsys):
    tool.main(['--batch', '4x2', str(ROOT / FPN)])
    printed = capsys.readouterr().out
    assert printed.startswith('--cfg-options train_dataloader.batch_size=2 ')
    assert 'optim_wrapper.optimizer.lr=0.01 ' in printed
    assert 'train_cfg.max_iters=180000' in printed
    assert 'param_scheduler.1.milestones=[120000,160000]' in printed


@pytest.mark.parametrize(
    'arguments, message',
    [
        (['nothing'], 'configs/ has no folder nothing'),
        (['--table', 'XX'], 'no Table XX here; there are IV, V, VI, VII'),
        (['--batch', '4x2', 'none.py'], 'config none.py not found'),
        (['--batch', '0x2', str(ROOT / FPN)], 'must be 1 or more'),
    ],
)
def test_one_error(tool, capsys, arguments, message):
    assert tool.main(arguments) == 1
    text = capsys.readouterr().err
    assert text.startswith('error: ') and message in text


@pytest.mark.parametrize(
    'arguments',
    [['--batch', '4', 'x.py'], ['--batch', '4x2'], ['--write', 'swap_in']],
)
def test_wrong_usage(tool, arguments):
    with pytest.raises(SystemExit) as exit_info:
        tool.main(arguments)
    assert exit_info.value.code == 2
