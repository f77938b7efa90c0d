# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""tools/transplant.py on the demo's networks, from pictures to a start."""

import cv2
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from mmengine.runner.checkpoint import load_checkpoint
from torch import nn

import sn_mm  # noqa: F401
from demo.data_folder import make_demo_data
from demo.options import DemoOptions
from sn_mm.cli import register_toolbox
from sn_mm.teaching.batches import prepared
from sn_mm.teaching.pictures import (
    PictureBatches,
    Pictures,
    of_training_set,
    test_pipeline,
)

from . import test_train_test
from .test_train_test import DEMO, main_of

test_pipeline.__test__ = False  # a function of the package
DETECTOR = 'faster-rcnn_r18_fpn_{}-all_demo.py'
SEGMENTOR = 'pspnet_r18-d8_{}-all_demo-160x192.py'


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    out = tmp_path_factory.mktemp('pictures') / 'demo'
    make_demo_data(out, DemoOptions(train=10, val=2, size=(64, 96)))
    return out


@pytest.fixture(autouse=True)
def demo_data(data, monkeypatch):
    monkeypatch.setenv('SN_MM_DEMO_DATA', str(data))


def config_of(name):
    cfg = Config.fromfile(DEMO / name)
    return cfg, register_toolbox(cfg)


def built(name):
    cfg, scope = config_of(name)
    with MODELS.switch_scope_and_registry(scope) as models:
        torch.manual_seed(0)
        return models.build(cfg.model)


@pytest.fixture(scope='module')
def networks(data, tmp_path_factory):
    """Files of BN networks whose statistics are pictures'."""
    files = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('SN_MM_DEMO_DATA', str(data))
        for name in (DETECTOR, SEGMENTOR):
            cfg, scope = config_of(name.format('bn'))
            with DefaultScope.overwrite_default_scope('mmengine'):
                model = built(name.format('bn'))
            _settle(model, name, cfg, scope)
            file = tmp_path_factory.mktemp('bn') / 'bn.pth'
            torch.save(
                dict(
                    state_dict=model.state_dict(),
                    meta=dict(dataset_meta=dict(classes=('zero', 'one'))),
                ),
                file,
            )
            files[name] = file
    return files


def _settle(model, name, cfg, scope):
    """Give BN the averages of its statistics on the training pictures."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = None
    pictures = Pictures(of_training_set(cfg, scope), test_pipeline(cfg, scope))
    batches = list(PictureBatches(pictures, range(10), 2, 5))
    model.train()
    with torch.no_grad():
        for batch in batches:
            batch = prepared(model, batch)
            feats = model.extract_feat(batch['inputs'])
            if name == SEGMENTOR:
                model.decode_head(feats), model.auxiliary_head(feats)
            else:
                rois = torch.tensor([[0, 5.0, 5.0, 40.0, 40.0]] * 20)
                model.roi_head._bbox_forward(feats, rois)


def main(*args):
    assert main_of('transplant')(list(map(str, args))) == 0


def error_of(*args):
    return test_train_test.error_of('transplant', *args)


def quick(name, teacher, out, *more):
    return (
        DEMO / name.format('sn'),
        '--teacher', teacher, '--out', out, '--steps', 10, '--lr', 1e-3, *more,
    )  # fmt: skip


def test_a_backbones_start_loads_strictly(networks, tmp_path, capsys):
    out = tmp_path / 'start.pth'
    main(*quick(DETECTOR, networks[DETECTOR], out))
    printed = capsys.readouterr().out
    assert 'cosine before' in printed and f'wrote {out}' in printed
    assert '10 pictures, 2 of them held out, 2 a step' in printed
    assert (tmp_path / 'start_errors.png').stat().st_size > 10000
    assert {p.name for p in tmp_path.iterdir()} == {
        'start.pth',
        'start_errors.png',
    }
    model = built(DETECTOR.format('sn'))
    load_checkpoint(model.backbone, str(out), strict=True)
    noted = torch.load(out, weights_only=True)['meta']['transplant']
    assert noted['teacher'] == str(networks[DETECTOR])
    assert noted['pictures'] == 10 and noted['steps'] == 10
    assert noted['parts'] == ['backbone'] and noted['batch_size'] == 2
    assert sum(a[2] for a in noted['after']) < sum(
        b[2] for b in noted['before']
    )
    # and as a config says it
    cfg, scope = config_of(DETECTOR.format('sn'))
    cfg.model.backbone.init_cfg = dict(type='Pretrained', checkpoint=str(out))
    with MODELS.switch_scope_and_registry(scope) as models:
        started = models.build(cfg.model)
    started.init_weights()
    state = torch.load(out, weights_only=True)['state_dict']
    own = started.backbone.state_dict()
    assert own.keys() == state.keys()
    assert all(torch.equal(own[k], state[k]) for k in own)


@pytest.mark.parametrize(
    'name', [DETECTOR, pytest.param(SEGMENTOR, marks=pytest.mark.slow)]
)
def test_whole_networks(name, networks, tmp_path, capsys):
    out = tmp_path / 'whole.pth'
    # the statistics of 60 layers have to settle first
    main(*quick(name, networks[name], out, '--parts', 'all', '--steps', 60))
    content = torch.load(out, weights_only=True)
    model = built(name.format('sn'))
    model.load_state_dict(content['state_dict'])
    assert content['meta']['dataset_meta']['classes'] == ['zero', 'one']
    outputs = {a[0] for a in content['meta']['transplant']['after']}
    wanted = {
        DETECTOR: {'neck.4', 'rpn_head.0.0', 'roi_head.bbox_head.1'},
        SEGMENTOR: {'backbone.3', 'decode_head', 'auxiliary_head'},
    }
    assert wanted[name] <= outputs


def test_norms_only_and_a_folder(networks, data, tmp_path, capsys):
    """Pictures from elsewhere, one of which cannot be read."""
    folder = tmp_path / 'pictures'
    folder.mkdir()
    for file in sorted((data / 'coco/train2017').iterdir())[:9]:
        (folder / file.name).write_bytes(file.read_bytes())
    (folder / '0_broken.jpg').write_bytes(b'nothing')
    out = tmp_path / 'start.pth'
    main(
        *quick(DETECTOR, networks[DETECTOR], out, '--norms-only'),
        '--pictures', folder, '--batch-size', 3,
    )  # fmt: skip
    printed = capsys.readouterr().out
    assert f'cannot be read: {folder / "0_broken.jpg"}' in printed
    before = torch.load(networks[DETECTOR])['state_dict']
    content = torch.load(out, weights_only=True)
    noted = content['meta']['transplant']
    assert noted['norms_only'] and noted['pictures'] == 9
    assert noted['batch_size'] == 3
    for key, value in content['state_dict'].items():
        if 'conv' in key or key.endswith('downsample.0.weight'):
            assert torch.equal(value, before[f'backbone.{key}'])


def test_interrupted_and_resumed(networks, tmp_path, monkeypatch, capsys):
    """What comes out is what would have come out."""
    whole, out = tmp_path / 'whole.pth', tmp_path / 'out.pth'
    arguments = quick(DETECTOR, networks[DETECTOR], whole)
    main(*arguments)
    unfinished = tmp_path / 'out.pth.unfinished'
    arguments = quick(DETECTOR, networks[DETECTOR], out)
    with monkeypatch.context() as patch:
        _interrupt(patch, after=6)
        assert '--resume goes on' in error_of(*arguments)
    assert unfinished.exists() and not out.exists()
    assert 'go on with --resume' in error_of(*arguments)
    other = quick(DETECTOR, networks[DETECTOR], out, '--lr', 0.02)
    assert 'lr=0.001, not 0.02' in error_of(*other, '--resume')
    main(*arguments, '--resume')
    assert not unfinished.exists()
    states = [torch.load(f, weights_only=True) for f in (whole, out)]
    one, other = (s['state_dict'] for s in states)
    assert all(torch.equal(one[k], other[k]) for k in one)
    assert states[0]['meta'] == states[1]['meta']
    assert 'nothing to go on with' in error_of(
        *quick(DETECTOR, networks[DETECTOR], tmp_path / 'x.pth'), '--resume'
    )


def _interrupt(patch, after):
    from sn_mm.teaching.pictures import PictureBatches

    original = PictureBatches.__getitem__

    def getitem(self, number):
        if number == after:
            raise KeyboardInterrupt
        return original(self, number)

    patch.setattr(PictureBatches, '__getitem__', getitem)


def test_what_cannot_be_done(networks, data, tmp_path):
    out = tmp_path / 'start.pth'
    teacher = networks[DETECTOR]
    config = DEMO / DETECTOR.format('sn')
    assert '--teacher FILE' in error_of(config, '--out', out)
    assert 'does not exist' in error_of(
        *quick(DETECTOR, tmp_path / 'none.pth', out)
    )
    few = tmp_path / 'few'
    few.mkdir()
    for index in range(7):
        file = str(few / f'{index}.png')
        cv2.imwrite(file, torch.zeros(64, 96, 3).byte().numpy())
    assert '7 of 7 pictures can be used, at least 8' in error_of(
        *quick(DETECTOR, teacher, out), '--pictures', few
    )
    assert '--amp needs a GPU' in error_of(
        *quick(DETECTOR, teacher, out), '--amp', '--device', 'cpu'
    )
    assert "'all' alone" in error_of(
        *quick(DETECTOR, teacher, out, '--parts', 'backbone', 'all')
    )
    worse = quick(DETECTOR, teacher, out, '--lr', 50.0)
    assert 'nothing was written' in error_of(*worse)
    assert not out.exists()
    out.write_bytes(b'precious')
    assert 'exists already' in error_of(*quick(DETECTOR, teacher, out))
    assert out.read_bytes() == b'precious'
