# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
import pytest
import torch

from sn_mm.checkpoints.layouts import Layout
from sn_mm.checkpoints.weights import read_weights
from sn_mm.utils.errors import CheckpointError


def test_files_of_runs_and_bare_states(tmp_path):
    path = tmp_path / 'a.pth'
    state = dict(a=torch.ones(2))
    torch.save(dict(state_dict=state, meta=dict(iter=3)), path)
    found = read_weights(str(path))
    assert found['meta'] == dict(iter=3)
    assert torch.equal(found['state_dict']['a'], state['a'])
    torch.save(state, path)
    assert list(read_weights(str(path))['state_dict']) == ['a']


def test_public_files_have_openmmlabs_names(tmp_path):
    params = dict(ratios=3, dim=4, inputs=[6, 0], num_classes=2)
    state = {
        e.public: torch.zeros(e.shape)
        for e in Layout('seg-decoder', params).entries
    }
    torch.save(state, tmp_path / 'd.pth')
    found = read_weights(f'sn://{tmp_path / "d.pth"}')['state_dict']
    assert 'decode_head.convs.0.sn.mean_weight' in found


@pytest.mark.parametrize(
    'content, words',
    [
        (None, 'not found; name a .pth file'),
        ([1, 2], 'holds a list, not weights'),
        (dict(meta={}), 'holds no weights'),
        (b'nonsense', 'is no checkpoint that torch can read'),
    ],
)
def test_what_holds_no_weights(tmp_path, content, words):
    path = tmp_path / 'a.pth'
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(CheckpointError, match=words):
        read_weights(str(path))
