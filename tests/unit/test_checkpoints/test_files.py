# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""tools/convert_checkpoint.py: round trips, tables, and failures."""

import copy
import errno
import os
import subprocess
import sys
from contextlib import nullcontext

import pytest
import torch

from sn_mm import load_pretrained
from sn_mm.checkpoints import CheckpointError, writer
from sn_mm.checkpoints.reader import read_checkpoint
from tests.paths import ROOT, python_path
from tests.public import oracle
from tests.public.networks import content, public_layouts
from tests.public.released_configs import build

sys.path.insert(0, str(ROOT / 'tools'))
try:
    import convert_checkpoint
finally:
    sys.path.pop(0)


def convert(*args) -> int:
    return convert_checkpoint.main([str(a) for a in args])


def assert_same_state(got, want):
    assert list(got) == list(want)
    for key, value in want.items():
        assert got[key].shape == value.shape, key
        assert got[key].dtype == value.dtype, key
        assert torch.equal(got[key], value), key


ROUND_TRIPS = [
    ('imagenet_resnetv1sn50', 'mmdet'),
    ('imagenet_resnetv1sn50_nobn', 'torchvision'),
    ('imagenet_resnetv1ssn50', 'mmpretrain'),
    ('detectron_backbone_fpn', 'model'),
    ('detectron_faster_rcnn_r50_fpn_sn', 'mmdet'),
    ('detectron_mask_rcnn_r50_fpn_sn_nobn', 'mmdet'),
    ('detectron_faster_rcnn_r50_c4_sn', 'mmdet'),
    ('seg_encoder_resnet50dilated8_sn', 'mmseg'),
    ('seg_decoder_c1_deepsup', 'mmseg'),
]


@pytest.mark.parametrize('layout, to', ROUND_TRIPS)
def test_round_trip_loses_nothing(released, tmp_path, layout, to):
    _, path = released(layout)
    before = path.read_bytes()
    there, back = tmp_path / 'there.pth', tmp_path / 'back.pth'
    assert convert(path, there, '--to', to) == 0
    assert convert(there, back, '--to', 'public') == 0
    assert path.read_bytes() == before
    got, want = read_checkpoint(back), read_checkpoint(path)
    assert_same_state(got.state, want.state)
    assert got.wrapper == want.wrapper and got.plain == want.plain
    assert sorted(os.listdir(tmp_path)) == ['back.pth', 'there.pth']


def test_a_converted_segmentor_and_both_files_back(released, tmp_path):
    _, encoder = released('seg_encoder_resnet50dilated8_sn')
    _, decoder = released('seg_decoder_c1_deepsup')
    there = tmp_path / 'segmentor.pth'
    assert convert(f'{encoder},{decoder}', there, '--to', 'mmseg') == 0
    _, model = build('fcn-c1-deepsup_r50-d8_sn_100k_ade20k')
    model.load_state_dict(torch.load(there, weights_only=True)['state_dict'])
    assert convert(there, tmp_path / 'x.pth', '--to', 'public') == 1
    for part, path in (('encoder', encoder), ('decoder', decoder)):
        back = tmp_path / f'{part}.pth'
        assert convert(there, back, '--to', 'public', '--part', part) == 0
        assert_same_state(
            read_checkpoint(back).state, read_checkpoint(path).state
        )


@pytest.mark.parametrize('with_metadata', [True, False])
def test_a_biased_model_is_no_public_one_without_a_word(
    released, tmp_path, with_metadata
):
    _, path = released('imagenet_resnetv1sn50')
    there = tmp_path / 'there.pth'
    convert(path, there, '--to', 'mmpretrain')
    content = torch.load(there, weights_only=True)
    state = content['state_dict']
    names = [k[:-12] for k in state if k.endswith('.mean_weight')]
    if with_metadata:
        state._metadata = {n: dict(unbiased=False) for n in names}
    else:
        content['meta']['cfg'] = "norm_cfg = dict(type='SN')"
    torch.save(content, there)
    with pytest.warns(UserWarning, match='Train with unbiased=True'):
        convert(there, tmp_path / 'back.pth', '--to', 'public')


@pytest.mark.parametrize(
    'config, layout',
    [
        ('faster-rcnn_r50_fpn_sn-nobn_2x', 'faster_rcnn_r50_fpn_sn_nobn'),
        ('mask-rcnn_r50_fpn_sn-nobn_2x', 'mask_rcnn_r50_fpn_sn_nobn'),
        ('faster-rcnn_r50_c4_sn_2x', 'faster_rcnn_r50_c4_sn'),
    ],
)
def test_models_trained_here_become_public(tmp_path, config, layout):
    """Without the notes of a conversion; background rows are zeros."""
    _, model = build(f'{config}_coco')
    trained, public = tmp_path / 'trained.pth', tmp_path / 'public.pth'
    torch.save({'meta': {}, 'state_dict': model.state_dict()}, trained)
    assert convert(trained, public, '--to', 'public') == 0
    state = read_checkpoint(public).state
    shapes = public_layouts()[f'detectron_{layout}']['shapes']
    assert {k: list(v.shape) for k, v in state.items()} == shapes
    assert (state['Box_Outs.bbox_pred.weight'][:4] == 0).all()
    again = copy.deepcopy(model)
    for value in again.state_dict().values():
        value.zero_()
    load_pretrained(again, str(public))
    for key, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[key], value), key


def test_the_converted_file_loads_strictly(released, tmp_path):
    original, path = released('imagenet_resnetv1sn50')
    there = tmp_path / 'r50.pth'
    assert convert(path, there) == 0
    from mmdet.models.backbones import ResNet

    state = torch.load(there, weights_only=True)['state_dict']
    for wrong, fix in (
        (dict(), 'unbiased=True'),
        (dict(unbiased=True, eps=1e-3), 'eps=1e-05'),
        (dict(unbiased=True, statistics=('ln', 'in', 'bn')), 'statistics='),
    ):
        model = ResNet(50, norm_cfg=dict(type='SN', **wrong))
        with pytest.raises(CheckpointError, match=f'set {fix}'):
            model.load_state_dict(state)
    model = ResNet(50, norm_cfg=dict(type='SN', unbiased=True))
    model.load_state_dict(state)
    assert torch.equal(model.conv1.weight, original.conv1.weight)


def test_dry_run_prints_a_table_and_writes_nothing(
    released, tmp_path, capsys, monkeypatch
):
    _, path = released('detectron_faster_rcnn_r50_fpn_sn_nobn')
    monkeypatch.chdir(tmp_path)
    assert convert(path, 'x.pth', '--dry-run') == 0
    text = capsys.readouterr().out
    rows = {line.split()[0]: line for line in text.splitlines() if line}
    row = rows['Box_Outs.cls_score.weight']
    assert '81x1024' in row and 'roi_head.bbox_head.fc_cls.weight' in row
    assert 'background row last' in row
    assert 'optimizer' in rows and 'Faster R-CNN R50-FPN' in text
    assert os.listdir(tmp_path) == []


def test_bn_files(tmp_path):
    from mmdet.models.backbones import ResNet

    path, dst = tmp_path / 'bn.pth', tmp_path / 'sn.pth'
    torch.save(ResNet(18).state_dict(), path)
    assert convert(f'bn2sn://{path}?ratios=bn', dst) == 0
    model = ResNet(18, norm_cfg=dict(type='SN'))
    model.load_state_dict(torch.load(dst, weights_only=True)['state_dict'])
    assert model.sn1.ratios()['mean'].tolist() == pytest.approx(
        [0, 0, 1], abs=1e-8
    )


def test_unknown_keys_are_reported(tmp_path, capsys):
    model = oracle.fill(oracle.Decoder(oracle.SwitchNorm))
    state = content('seg_decoder_c1_deepsup', model.state_dict())
    state['cbr.1.batch_mean'] = torch.zeros(1, 512, 1)
    state['extra.weight'] = torch.zeros(1)
    torch.save(state, tmp_path / 'a.pth')
    assert convert(tmp_path / 'a.pth', tmp_path / 'b.pth') == 0
    text = capsys.readouterr().out
    assert 'UNKNOWN keys of the file, not used: extra.weight' in text
    assert 'dropped, read by no code: cbr.1.batch_mean' in text


# -- failures: one line, nothing left behind --
def test_existing_destination_is_kept(released, tmp_path, capsys):
    _, path = released('seg_decoder_c1_deepsup')
    dst = tmp_path / 'mine.pth'
    dst.write_text('precious')
    assert convert(path, dst) == 1
    assert 'exists already' in capsys.readouterr().err
    assert dst.read_text() == 'precious'
    assert convert(path, path) == 1


def test_missing_folder(released, tmp_path, capsys):
    _, path = released('seg_decoder_c1_deepsup')
    assert convert(path, tmp_path / 'no' / 'x.pth') == 1
    assert 'does not exist: make it first' in capsys.readouterr().err


@pytest.mark.parametrize('after', [0, 100_000])
def test_full_disk(released, tmp_path, monkeypatch, capsys, after):
    _, path = released('seg_decoder_c1_deepsup')
    before = path.read_bytes()

    class Full:
        """A file on a disk with ``after`` bytes left."""

        def __init__(self, file):
            self.file, self.left = file, after

        def __getattr__(self, name):
            return getattr(self.file, name)

        def write(self, data):
            self.left -= len(data)
            if self.left < 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return self.file.write(data)

    monkeypatch.setattr(
        writer, 'tracked', lambda file, *args: nullcontext(Full(file))
    )
    assert convert(path, tmp_path / 'x.pth') == 1
    assert 'the disk is full; nothing was left' in capsys.readouterr().err
    assert os.listdir(tmp_path) == [] and path.read_bytes() == before


def test_errors_are_one_message_without_a_traceback(tmp_path):
    path = tmp_path / 'x.pth'
    path.write_bytes(b'nonsense')
    run = subprocess.run(
        [sys.executable, ROOT / 'tools' / 'convert_checkpoint.py', path, 'y'],
        capture_output=True,
        text=True,
        env={**os.environ, 'PYTHONPATH': python_path(ROOT)},
        cwd=tmp_path,
    )
    assert run.returncode == 1 and 'Traceback' not in run.stderr
    assert f'error: {path}: is ' in run.stderr
    assert os.listdir(tmp_path) == ['x.pth']


def test_progress_bars_on_a_terminal(released, tmp_path, monkeypatch, capsys):
    _, path = released('seg_decoder_c1_deepsup')
    assert convert(path, tmp_path / 'quiet.pth') == 0
    assert capsys.readouterr().err == ''
    monkeypatch.setattr(sys.stderr, 'isatty', lambda: True)
    monkeypatch.setenv('FORCE_COLOR', '1')  # rich then sees a terminal
    assert convert(path, tmp_path / 'shown.pth') == 0
    shown = capsys.readouterr().err
    assert 'reading' in shown and 'writing' in shown
    assert_same_state(
        read_checkpoint(tmp_path / 'shown.pth').state,
        read_checkpoint(tmp_path / 'quiet.pth').state,
    )
