# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""mmengine's own checkpoints load: resume, init_detector, init_model."""

import pickle

import pytest
import torch
from mmdet.apis import init_detector
from mmdet.testing import demo_mm_inputs
from mmengine.runner import CheckpointLoader, Runner, load_checkpoint
from mmengine.runner import checkpoint as mmengine_checkpoint
from mmseg.apis import init_model

from sn_mm.patches import local_checkpoints, register_local_loader
from sn_mm.patches.local_checkpoints import (
    load_from_local,
    loads_weights_only,
)
from tests.builders import (
    Toy,
    build,
    loader,
    retinanet_config,
    runner_options,
    seg_inputs,
    segmentor_config,
    switch_norms,
    toy_runner,
)

STRICT = local_checkpoints.digit_version(
    torch.__version__
) >= local_checkpoints.digit_version('2.6')


@pytest.fixture
def schemes(monkeypatch):
    """CheckpointLoader as mmengine left it, put back afterwards."""
    original = dict(CheckpointLoader._schemes)
    original[''] = mmengine_checkpoint.load_from_local
    monkeypatch.setattr(CheckpointLoader, '_schemes', original)


@pytest.fixture(scope='module')
def toy_checkpoint(tmp_path_factory):
    """What a Runner saves after one epoch: HistoryBuffer and all."""
    folder = tmp_path_factory.mktemp('toy')
    toy_runner(folder).train()
    return str(folder / 'epoch_1.pth')


def loads(loader_function, path):
    try:
        loader_function(path, 'cpu')
    except pickle.UnpicklingError:
        return False
    return True


def test_replaced_exactly_where_mmengine_s_own_fails(schemes, toy_checkpoint):
    fails = not loads(mmengine_checkpoint.load_from_local, toy_checkpoint)
    assert register_local_loader() is fails
    assert not register_local_loader()  # a second time
    checkpoint = CheckpointLoader.load_checkpoint(toy_checkpoint, 'cpu')
    history = checkpoint['message_hub']['log_scalars']['train/loss']
    assert len(history.data[0]) == 2
    if STRICT:  # the file is one that needs this
        with pytest.raises(pickle.UnpicklingError):
            torch.load(toy_checkpoint, weights_only=True)


def test_import_registered_it():
    own = CheckpointLoader._schemes[''].__module__
    if STRICT and loads_weights_only(mmengine_checkpoint.load_from_local):
        assert own == 'sn_mm.patches.local_checkpoints'
    else:
        assert own == 'mmengine.runner.checkpoint'
    assert CheckpointLoader._schemes[''].__name__ == 'load_from_local'


def test_not_before_torch_2_6(schemes, monkeypatch):
    monkeypatch.setattr(torch, '__version__', '2.5.1+cpu')
    assert not register_local_loader()


def test_a_user_s_loader_is_left_alone(schemes, monkeypatch):
    monkeypatch.setattr(torch, '__version__', '2.13.0')
    CheckpointLoader.register_scheme('', lambda *args: 'mine', force=True)
    assert not register_local_loader()
    assert CheckpointLoader._schemes['']('x') == 'mine'


def test_other_schemes_stay(schemes):
    before = {k: v for k, v in CheckpointLoader._schemes.items() if k}
    register_local_loader()
    after = {k: v for k, v in CheckpointLoader._schemes.items() if k}
    assert after == before and 'https://' in after
    assert list(CheckpointLoader._schemes)[-1] == ''  # matches everything


def test_what_needs_replacing():

    def as_mmengine_0_10_7(filename, map_location):
        return torch.load(filename, map_location=map_location)

    def as_upstream(filename, map_location):
        return torch.load(
            filename, map_location=map_location, weights_only=False
        )

    def as_onedl(filename, map_location):
        return mmengine_checkpoint._safe_torch_load(filename, map_location)

    found = [
        loads_weights_only(f)
        for f in (as_mmengine_0_10_7, as_upstream, as_onedl)
    ]
    assert found == [True, False, False]
    assert not loads_weights_only(load_from_local)


def test_missing_file_and_home_folder(tmp_path, monkeypatch):
    errors = []
    for function in (mmengine_checkpoint.load_from_local, load_from_local):
        with pytest.raises(FileNotFoundError) as error:
            function(str(tmp_path / 'no.pth'), 'cpu')
        errors.append(str(error.value))
    assert errors[0] == errors[1] and 'no.pth' in errors[0]
    monkeypatch.setenv('HOME', str(tmp_path))
    torch.save(dict(a=1), tmp_path / 'a.pth')
    assert load_from_local('~/a.pth') == dict(a=1)


@pytest.mark.parametrize('norm', ['SN', 'SyncSN'])
def test_resumed_training_is_uninterrupted_training(tmp_path, norm):
    import sn_mm

    cls = getattr(sn_mm, norm)

    def train(folder, epochs, **kwargs):
        torch.manual_seed(0)
        runner = toy_runner(folder, Toy(cls(4)), epochs, **kwargs)
        runner.train()
        return runner

    whole = train(tmp_path / 'whole', 3)
    train(tmp_path / 'parts', 1)
    parts = train(tmp_path / 'parts', 3, resume=True)
    assert parts.iter == whole.iter == 6
    got, want = parts.model.state_dict(), whole.model.state_dict()
    assert got.keys() == want.keys()
    for name, value in want.items():
        assert torch.equal(got[name], value), name
    assert int(got['norm.num_batches_tracked']) == 6
    assert (got['norm.mean_weight'] != 1).any()
    moments = [
        list(r.optim_wrapper.optimizer.state.values()) for r in (whole, parts)
    ]
    assert len(moments[0]) == len(moments[1]) > 0
    for a, b in zip(*moments):
        assert torch.equal(a['momentum_buffer'], b['momentum_buffer'])


def test_load_from_and_load_checkpoint(tmp_path, toy_checkpoint):
    saved = load_from_local(toy_checkpoint)['state_dict']
    model = Toy()
    load_checkpoint(model, toy_checkpoint, strict=True)
    runner = toy_runner(tmp_path, load_from=toy_checkpoint)
    runner.load_or_resume()
    for loaded in (model, runner.model):
        state = loaded.state_dict()
        assert all(torch.equal(state[n], v) for n, v in saved.items())


def train_one_batch(scope, cfg, data, folder):
    """The model and the checkpoint of one iteration of the Runner."""
    model = build(scope, cfg.model)
    options = dict(runner_options(), default_scope=scope)
    runner = Runner(
        model,
        str(folder),
        train_dataloader=loader(
            [
                dict(inputs=i, data_samples=s)
                for i, s in zip(data['inputs'], data['data_samples'])
            ]
        ),
        train_cfg=dict(by_epoch=True, max_epochs=1),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.01)),
        **options,
    )
    runner.train()
    return model, str(folder / 'epoch_1.pth')


def assert_same(got, want):
    assert len(switch_norms(got)) == len(switch_norms(want))
    state = got.state_dict()
    for name, value in want.state_dict().items():
        assert torch.equal(state[name], value), name


def test_init_detector(tmp_path):
    cfg = retinanet_config(frozen_stages=-1)
    data = demo_mm_inputs(2, (3, 64, 64), num_items=[2, 1], num_classes=3)
    model, path = train_one_batch('mmdet', cfg, data, tmp_path)
    assert int(model.backbone.sn1.num_batches_tracked) == 1
    cfg.test_dataloader.dataset.metainfo = dict(classes=('a', 'b', 'c'))
    with pytest.warns(UserWarning):  # no class names in the checkpoint
        loaded = init_detector(cfg, path, device='cpu', palette='random')
    assert_same(loaded, model)
    assert not loaded.training


def test_init_model(tmp_path):
    cfg = segmentor_config('pspnet')
    with pytest.warns(UserWarning, match='single position'):
        model, path = train_one_batch('mmseg', cfg, seg_inputs(2), tmp_path)
    with pytest.warns(UserWarning):  # no class names in the checkpoint
        loaded = init_model(cfg, path, device='cpu')
    assert_same(loaded, model)
    assert not loaded.training
