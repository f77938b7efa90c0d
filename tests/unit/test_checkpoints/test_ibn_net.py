# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""The released IBN-Nets: layouts, names, and outputs of a filled one."""

import gzip
import importlib
import importlib.util
import json
import math
import zlib

import numpy as np
import pytest
import torch
from mmdet.registry import MODELS as MMDET
from mmengine.runner import CheckpointLoader
from mmseg.registry import MODELS as MMSEG

import sn_mm
import sn_mm.models.ibn_densenet
import sn_mm.models.ibn_resnet  # noqa: F401
from sn_mm.checkpoints import CheckpointError, ibn_net
from sn_mm.checkpoints.files import convert_source
from sn_mm.checkpoints.layouts import recognize
from sn_mm.layers import IBN
from tests.family import fixture_of
from tests.paths import DATA
from tests.utils import relative_error

with gzip.open(DATA / 'family' / 'ibn_net_layouts.json.gz') as file:
    LAYOUTS = json.load(file)


def filled(name: str) -> dict[str, torch.Tensor]:
    """A state dict of a layout, of numbers that its keys decide."""
    state = {}
    for key, shape in LAYOUTS[name]['shapes'].items():
        rs = np.random.RandomState(zlib.crc32(key.encode()))
        if key.endswith('num_batches_tracked'):
            state[key] = torch.tensor(0)
            continue
        if key.endswith('running_var'):
            value = rs.uniform(0.5, 1.5, shape)
        elif key.endswith(('running_mean', 'bias')):
            value = 0.1 * rs.standard_normal(shape)
        elif len(shape) == 1:
            value = 1 + 0.1 * rs.standard_normal(shape)
        else:
            scale = math.sqrt(2 / math.prod(shape[1:]))
            value = scale * rs.standard_normal(shape)
        state[key] = torch.from_numpy(value.astype(np.float32))
    return state


def checksum(state) -> int:
    total = 0
    for value in state.values():
        total = zlib.crc32(value.numpy().tobytes(), total)
    return total


def on_meta(name: str) -> dict[str, torch.Tensor]:
    """A state dict of a layout, without numbers."""
    return {
        key: torch.empty(shape, device='meta')
        for key, shape in LAYOUTS[name]['shapes'].items()
    }


def backbone(name: str, registry=MMDET, **options):
    layout = recognize(on_meta(name))
    cfg = eval(ibn_net.model_of(layout.kind, layout.params))
    return registry.build({**cfg, **options})


# -- layouts -------------------------------------------------------------
@pytest.mark.parametrize('name', LAYOUTS)
def test_layouts(name):
    layout = recognize(on_meta(name))
    entries = {e.public: list(e.shape) for e in layout.entries}
    assert list(entries.items()) == list(LAYOUTS[name]['shapes'].items())
    words = str(layout).lower().replace('-', '')
    assert ''.join(name.split('_')[:-1]).replace('ibn', '') in words
    assert words.endswith(f'ibn{name[-1]}')


@pytest.mark.parametrize('registry', [MMDET, MMSEG], ids=['mmdet', 'mmseg'])
@pytest.mark.parametrize('name', LAYOUTS)
def test_backbones_are_those_of_the_layouts(name, registry):
    with torch.device('meta'):
        model = backbone(name, registry)
    got = {k: list(v.shape) for k, v in model.state_dict().items()}
    want = {
        k: v
        for k, v in LAYOUTS[name]['shapes'].items()
        if not k.startswith(('fc.', 'classifier.'))
    }
    assert got == want
    classifier = sum(
        math.prod(v)
        for k, v in LAYOUTS[name]['shapes'].items()
        if k.startswith(('fc.', 'classifier.'))
    )
    parameters = sum(p.numel() for p in model.parameters())
    assert parameters + classifier == LAYOUTS[name]['parameters']
    norms = [m for m in model.modules() if isinstance(m, IBN)]
    assert bool(norms) is name.endswith('a')
    assert all(norm.caveat() is None for norm in norms)


@pytest.mark.skipif(
    not importlib.util.find_spec('mmpretrain'), reason='needs mmpretrain'
)
@pytest.mark.parametrize('name', ['resnet18_ibn_b', 'se_resnet50_ibn_a'])
def test_backbones_of_mmpretrain(name):
    registry = importlib.import_module('mmpretrain.registry').MODELS
    got, want = backbone(name, registry), backbone(name)
    states = got.state_dict(), want.state_dict()
    shapes = [{k: v.shape for k, v in state.items()} for state in states]
    assert shapes[0] == shapes[1]
    got.load_state_dict(states[1])
    for model in (got, want):
        model.eval()
        norms = [m for m in model.modules() if isinstance(m, IBN)]
        assert all(norm.caveat() is None for norm in norms)
    x = torch.randn(2, 3, 64, 96)
    for a, b in zip(got(x)[-1:], want(x)[-1:]):
        assert torch.equal(a, b)


def test_all_released_files_are_known():
    assert len(ibn_net.RELEASED) == 12
    assert set(ibn_net.RELEASED) <= set(LAYOUTS)
    for name, digits in ibn_net.RELEASED.items():
        file = f'{name}-{digits}.pth'
        assert ibn_net.file_name(name) == file
        assert ibn_net.url_of(name) == ibn_net.url_of(file)
        assert ibn_net.url_of(name).endswith(f'/v1.0/{file}')
    assert ibn_net.url_of('resnet50') is None


# -- loading -------------------------------------------------------------
@pytest.fixture
def released(tmp_path, monkeypatch):
    """A folder with a file under its published name."""

    def put(name, state, file=None):
        file = file or ibn_net.file_name(name)
        torch.save(state, tmp_path / file)
        monkeypatch.setenv('SN_MM_CHECKPOINTS', str(tmp_path))
        return tmp_path / file

    return put


@pytest.mark.parametrize('training', [False, True], ids=['eval', 'train'])
def test_outputs_are_those_of_the_public_network(released, training):
    state, want = filled('resnet18_ibn_a'), fixture_of('net_resnet18_ibn_a')
    assert checksum(state) == LAYOUTS['resnet18_ibn_a']['fill_crc32']
    file = released('resnet18_ibn_a', state)
    x = np.random.RandomState(0).standard_normal((2, 3, 96, 128))
    x = torch.from_numpy(x.astype(np.float32))
    for source in ('ibn://resnet18_ibn_a', str(file)):
        model = backbone('resnet18_ibn_a', norm_eval=False)
        report = sn_mm.load_pretrained(model, source)
        assert not report.missing and not report.unknown
        model.train(training)
        with torch.no_grad():
            outputs = model(x)
        for i, y in enumerate(outputs, 1):
            name = f'{"train_" * training}layer{i}'
            stride = int(want[f'{name}__stride'])
            got = y.flatten()[::stride][:4096]
            assert relative_error(got, want[name]) < 1e-4, name
        if training:
            for key, value in want.items():
                if key.startswith('after1.'):
                    got = model.state_dict()[key[len('after1.') :]]
                    assert relative_error(got, value) < 1e-4, key


@pytest.mark.parametrize(
    'name', ['resnet50_ibn_b', 'se_resnet50_ibn_a', 'densenet121_ibn_a']
)
def test_every_tensor_arrives(released, name):
    state = filled(name)
    assert checksum(state) == LAYOUTS[name]['fill_crc32']
    file = released(name, state, f'{name}.pth')
    model = backbone(name, MMSEG)
    report = sn_mm.load_pretrained(model, f'ibn://{file}')
    assert not report.missing
    for key, value in model.state_dict().items():
        assert torch.equal(value, state[key]), key
    model.eval()
    with torch.no_grad():
        assert all(y.isfinite().all() for y in model(torch.rand(1, 3, 64, 64)))


def test_init_cfg_of_a_config(released):
    state = filled('resnet18_ibn_b')
    released('resnet18_ibn_b', state)
    init = dict(type='Pretrained', checkpoint='ibn://resnet18_ibn_b')
    model = backbone('resnet18_ibn_b', init_cfg=init)
    model.init_weights()
    for key, value in model.state_dict().items():
        assert torch.equal(value, state[key]), key
    loaded = CheckpointLoader.load_checkpoint('ibn://resnet18_ibn_b', 'cpu')
    assert torch.equal(loaded['state_dict']['bn1.weight'], state['bn1.weight'])


def test_files_without_counts(released):
    """As old versions of PyTorch wrote them."""
    state = filled('resnet18_ibn_a')
    state = {k: v for k, v in state.items() if 'num_batches' not in k}
    file = released('resnet18_ibn_a', state)
    sn_mm.load_pretrained(backbone('resnet18_ibn_a'), str(file))


def test_there_and_back(released, tmp_path):
    state = filled('resnet18_ibn_a')
    file = released('resnet18_ibn_a', state)
    there = convert_source(str(file), 'mmdet').content
    torch.save(there, tmp_path / 'there.pth')
    back = convert_source(str(tmp_path / 'there.pth'), 'public').content
    assert list(back) == list(state)
    for key, value in state.items():
        assert torch.equal(back[key], value), key


@pytest.mark.parametrize(
    'change, text',
    [
        (lambda s: s.pop('layer2.1.bn1.IN.bias'), 'IN.bias.*incomplete'),
        (lambda s: s.update(more=torch.ones(1)), 'more are no keys'),
        (
            lambda s: s.update({'layer1.0.convbnin.IN.bias': torch.ones(1)}),
            'first, slower version',
        ),
    ],
)
def test_strict(released, change, text):
    state = filled('resnet18_ibn_a')
    change(state)
    file = released('resnet18_ibn_a', state)
    model = backbone('resnet18_ibn_a')
    before = model.conv1.weight.clone()
    with pytest.raises(CheckpointError, match=text):
        sn_mm.load_pretrained(model, f'ibn://{file}')
    assert torch.equal(model.conv1.weight, before)


@pytest.mark.parametrize(
    'cfg', [dict(type='ResNet', depth=18), dict(type='IBNResNet', depth=18)]
)
def test_another_network_is_named(released, cfg):
    file = released('resnet18_ibn_b', filled('resnet18_ibn_b'))
    with pytest.raises(CheckpointError, match="depth=18, variant='b'"):
        sn_mm.load_pretrained(MMDET.build(cfg), str(file))


def test_ibn_scheme_is_for_ibn_nets(tmp_path):
    from tests.builders import resnet

    model = resnet(norm_cfg=dict(type='SN', unbiased=True), base_channels=64)
    torch.save({'conv1.weight': torch.ones(1)}, tmp_path / 'a.pth')
    with pytest.raises(CheckpointError):
        sn_mm.load_pretrained(model, f'ibn://{tmp_path / "a.pth"}')


def test_a_file_that_is_nowhere_is_fetched_by_its_hash(tmp_path, monkeypatch):
    monkeypatch.setenv('SN_MM_CHECKPOINTS', str(tmp_path))
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path / 'hub'))
    asked = []

    def fetch(url, path, digits=None, *args):
        asked.append((url, digits))
        raise OSError('no network')

    monkeypatch.setattr(torch.hub, 'download_url_to_file', fetch)
    with pytest.raises(CheckpointError, match='put it at'):
        sn_mm.load_pretrained(
            backbone('resnet18_ibn_a'), 'ibn://resnet18_ibn_a'
        )
    assert asked == [(ibn_net.url_of('resnet18_ibn_a'), '2f571257')]
