# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Files that are not what they should be: one clear error, nothing run."""

import os
import pickle

import pytest
import torch

from sn_mm import load_pretrained
from sn_mm.checkpoints import CheckpointError
from sn_mm.checkpoints.reader import read_checkpoint


class Evil:
    """Creates a file when unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize('zipped', [True, False])
def test_pickled_code_is_refused_and_does_not_run(tmp_path, zipped):
    trace, path = tmp_path / 'ran', tmp_path / 'evil.pth'
    torch.save(
        {'state_dict': {'a': torch.zeros(1)}, 'x': Evil(trace)},
        path,
        _use_new_zipfile_serialization=zipped,
    )
    with pytest.raises(CheckpointError, match='refused and nothing was run'):
        read_checkpoint(path)
    assert not trace.exists()


@pytest.mark.parametrize('zipped', [True, False])
@pytest.mark.parametrize('part', [0.3, 0.99])
def test_truncated(tmp_path, zipped, part):
    path = tmp_path / 'cut.pth'
    torch.save(
        {'a': torch.zeros(5000)}, path, _use_new_zipfile_serialization=zipped
    )
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * part)])
    with pytest.raises(CheckpointError, match='truncated'):
        read_checkpoint(path)


@pytest.mark.parametrize(
    'data',
    [
        b'',
        b'hello, world\n',
        b'\x89PNG\r\n\x1a\n' + bytes(64),
        pickle.dumps([1, 2]),
    ],
)
def test_not_a_checkpoint(tmp_path, data):
    path = tmp_path / 'file.pth'
    path.write_bytes(data)
    with pytest.raises(CheckpointError) as error:
        read_checkpoint(path)
    assert str(path) in str(error.value)
    assert path.read_bytes() == data


@pytest.mark.parametrize(
    'content, message',
    [
        (torch.zeros(3), 'holds a Tensor'),
        ({}, 'no weights'),
        ({'state_dict': {}}, 'no weights'),
        ({'epoch': 3, 'a': torch.zeros(1)}, 'epoch are something else'),
    ],
)
def test_not_a_state_dict(tmp_path, content, message):
    path = tmp_path / 'file.pth'
    torch.save(content, path)
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(path)


def test_what_lies_around_the_weights(tmp_path):
    path = tmp_path / 'file.pth'
    weight = torch.nn.Parameter(torch.ones(2))
    torch.save(
        {
            'epoch': 100,
            'model': 'resnet',
            'best': torch.tensor(76.9),
            'state_dict': {'a': weight},
            'optimizer': {'state': {}},
        },
        path,
    )
    file = read_checkpoint(path)
    assert file.wrapper == 'state_dict' and file.dropped == ['optimizer']
    assert file.plain['epoch'] == 100
    assert file.plain['best'] == pytest.approx(76.9)
    assert not file.state['a'].requires_grad


def test_missing_file_in_a_folder(tmp_path):
    with pytest.raises(CheckpointError, match='does not exist'):
        load_pretrained(torch.nn.Linear(1, 1), str(tmp_path / 'no.pth'))
    with pytest.raises(CheckpointError, match='is a folder'):
        load_pretrained(torch.nn.Linear(1, 1), str(tmp_path))


def test_published_names_are_looked_up_in_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError) as error:
        load_pretrained(torch.nn.Linear(1, 1), 'sn://ResNet50v1+SN.pth')
    text = str(error.value)
    assert 'switchablenorms/Switchable-Normalization' in text
    assert str(tmp_path / 'checkpoints' / 'ResNet50v1+SN.pth') in text
    folder = tmp_path / 'elsewhere'
    folder.mkdir()
    torch.save({'a': torch.zeros(1)}, folder / 'x.pth')
    monkeypatch.setenv('SN_MM_CHECKPOINTS', str(folder))
    with pytest.raises(CheckpointError, match='no public SN layout'):
        load_pretrained(torch.nn.Linear(1, 1), 'sn://x.pth')


def damaged(tmp_path, state):
    path = tmp_path / 'damaged.pth'
    torch.save({'state_dict': state}, path)
    return str(path)


def test_nan_missing_and_foreign_keys(released, tmp_path):
    model, _ = released('imagenet_resnetv1sn50')
    target = torch.nn.Linear(1, 1)
    target.conv1 = torch.nn.Conv2d(3, 64, 7, bias=False)
    state = model.state_dict()
    state['layer3.1.conv2.weight'] = state['layer3.1.conv2.weight'].clone()
    state['layer3.1.conv2.weight'][0, 0, 0, 0] = float('nan')
    with pytest.raises(
        CheckpointError, match=r'layer3\.1\.conv2\.weight holds NaN'
    ):
        load_pretrained(target, damaged(tmp_path, state))
    state = model.state_dict()
    del state['layer4.2.sn3.var_weight']
    with pytest.raises(
        CheckpointError, match=r'1 keys .* missing: layer4\.2\.sn3\.var_weight'
    ):
        load_pretrained(target, damaged(tmp_path, state))
    state = model.state_dict()
    state['conv1.weight'] = torch.zeros(64, 3, 3, 3)
    with pytest.raises(CheckpointError, match=r'conv1\.weight has shape'):
        load_pretrained(target, damaged(tmp_path, state))
