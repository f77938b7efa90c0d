# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""tools/batch_average.py on checkpoints of a detector and a segmentor."""

import copy

import pytest
import torch
from mmengine.config import Config
from mmengine.logging import HistoryBuffer
from mmengine.registry import MODELS, DefaultScope
from mmengine.runner import Runner

import sn_mm
from sn_mm.cli import register_toolbox

from . import test_train_test
from .test_train_test import DEMO, main_of

RUNNING = ('running_mean', 'running_var')
NAMES = (
    'faster-rcnn_r18_fpn_sn-all_demo.py',
    'pspnet_r18-d8_sn-all_demo-160x192.py',
)
# what no toolbox has a part in is seen on one's config
ONE = pytest.mark.parametrize('case', NAMES[1:], indirect=True)


@pytest.fixture(autouse=True)
def demo_data(tiny_demo_data, monkeypatch):
    monkeypatch.setenv('SN_MM_DEMO_DATA', str(tiny_demo_data))


@pytest.fixture(scope='module', params=NAMES, ids=lambda n: n.split('_')[0])
def case(request, tiny_demo_data, tmp_path_factory):
    """A config, its model, and a checkpoint as mmengine writes them."""
    path = DEMO / request.param
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('SN_MM_DEMO_DATA', str(tiny_demo_data))
        cfg = Config.fromfile(path)
    with DefaultScope.overwrite_default_scope(register_toolbox(cfg)):
        torch.manual_seed(0)
        model = MODELS.build(cfg.model)
        model.init_weights()
        file = tmp_path_factory.mktemp('checkpoint') / 'last.pth'
        content = dict(
            meta=dict(epoch=3),
            state_dict=model.state_dict(),
            message_hub=dict(loss=HistoryBuffer([1.0], [1])),
            optimizer=dict(param_groups=[dict(lr=0.1)]),
        )
        torch.save(content, file)
        yield path, cfg, model, file


def load(path):
    return torch.load(path, weights_only=False)


def main(*args):
    return main_of('batch_average')(list(map(str, args)))


def error_of(*args):
    """The message that the tool ends with."""
    return test_train_test.error_of('batch_average', *args)


def is_statistic(key):
    return key.endswith(RUNNING)


def test_only_statistics_change(case, tmp_path, capsys):
    path, cfg, model, file = case
    out = tmp_path / 'out.pth'
    main(path, file, out, '--work-dir', tmp_path, '--second-moment')
    assert f'wrote {out}' in capsys.readouterr().out
    before, after = load(file), load(out)
    assert after.keys() == before.keys()
    assert after['meta'] == before['meta']
    assert after['optimizer'] == before['optimizer']
    old, new = before['state_dict'], after['state_dict']
    assert list(old) == list(new)
    for key in old:
        assert torch.equal(old[key], new[key]) == (not is_statistic(key)), key
    # four training images are two batches, in the order of seed 0
    own = copy.deepcopy(model)
    loader = Runner.build_dataloader(cfg.train_dataloader, seed=0)
    sn_mm.update_batch_average(own, loader, 2, second_moment=True)
    state = own.state_dict()
    for key in filter(is_statistic, new):
        if not key.startswith('roi_head'):  # RoIs are sampled at random
            torch.testing.assert_close(new[key], state[key], msg=key)


def test_the_toolbox_tests_what_was_written(case, tmp_path, capsys):
    path, _, _, file = case
    out = tmp_path / 'out.pth'
    args = ('--work-dir', tmp_path, '--num-samples', 1)
    main(path, file, out, *args)
    assert 'from 1 batches' in capsys.readouterr().out
    main_of('test')([str(path), str(out), '--work-dir', str(tmp_path)])
    assert not list(tmp_path.glob('.out*'))


@ONE
def test_what_the_user_may_get_wrong(case, tmp_path):
    path, _, model, file = case
    out, work = tmp_path / 'out.pth', ('--work-dir', tmp_path)
    assert 'exists already' in error_of(path, file, file, *work)
    assert 'none.pth not found' in error_of(path, 'none.pth', out, *work)
    state = {
        key: value
        for key, value in model.state_dict().items()
        if 'mean_weight' not in key and 'var_weight' not in key
    }
    torch.save(dict(state_dict=state), tmp_path / 'bn.pth')
    message = error_of(path, tmp_path / 'bn.pth', out, *work)
    assert 'the file has batch norms (backbone.' in message
    assert 'bn2sn://' in message
    small = {
        key: value[:1]
        for key, value in model.state_dict().items()
        if value.dim()
    }
    torch.save(small, tmp_path / 'small.pth')
    message = error_of(path, tmp_path / 'small.pth', out, *work)
    assert 'does not fit' in message and 'size mismatch' in message
    (tmp_path / 'cut.pth').write_bytes(file.read_bytes()[:5000])
    message = error_of(path, tmp_path / 'cut.pth', out, *work)
    assert 'cut.pth cannot be read' in message
    torch.save([1, 2], tmp_path / 'list.pth')
    message = error_of(path, tmp_path / 'list.pth', out, *work)
    assert 'holds a list' in message
    assert not out.exists()


@ONE
def test_config_without_sn(case, tmp_path):
    path, _, model, _ = case
    bn = path.with_name(path.name.replace('_sn-all', '_bn-all'))
    state = {
        key: value
        for key, value in sn_mm.convert_norm(copy.deepcopy(model), 'BN')
        .state_dict()
        .items()
    }
    names = {'.sn': '.bn', 'sn1.': 'bn1.', 'sn2.': 'bn2.'}
    for old, new in names.items():
        state = {key.replace(old, new): v for key, v in state.items()}
    torch.save(dict(state_dict=state), tmp_path / 'bn.pth')
    out, work = tmp_path / 'out.pth', ('--work-dir', tmp_path)
    message = error_of(bn, tmp_path / 'bn.pth', out, *work)
    assert 'has no SN layer' in message and 'include_bn' in message
    main(bn, tmp_path / 'bn.pth', out, '--include-bn', *work)
    assert out.is_file()
