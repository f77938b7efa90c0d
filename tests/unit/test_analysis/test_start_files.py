# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""What files that are here already bring to which layers."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sn_mm import SN2d
from sn_mm.analysis.advice import Start
from sn_mm.analysis.start_files import filled_norms, local, state_here


def network(norm):
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), norm(4), nn.Conv2d(4, 4, 3), norm(4)
    )


class Detector(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = network(SN2d)
        self.neck = SN2d(4)


def start_of(part, checkpoint):
    return Start(checkpoint, part, None, part)


@pytest.fixture
def file(tmp_path):
    def write(state, name='start.pth'):
        torch.save(state, tmp_path / name)
        return str(tmp_path / name)

    return write


def test_a_file_for_a_part(file):
    whole = {f'backbone.{k}': v for k, v in network(SN2d).state_dict().items()}
    model = Detector()
    for state in (whole, network(SN2d).state_dict()):
        start = start_of('backbone', file(state))
        part, own = state_here(model, start)
        assert part is model.backbone and '1.mean_weight' in own
        assert filled_norms(model, start) == {'backbone.1', 'backbone.3'}


def test_layers_that_a_file_lacks_start_new(file):
    state = network(SN2d).state_dict()
    few = {k: v for k, v in state.items() if not k.startswith('3.')}
    found = filled_norms(Detector(), start_of('backbone', file(few)))
    assert found == {'backbone.1'}


def test_a_file_of_bn(file):
    path = file(network(nn.BatchNorm2d).state_dict())
    start = start_of('backbone', f'bn2sn://{path}')
    assert filled_norms(Detector(), start) == {'backbone.1', 'backbone.3'}


def test_what_cannot_be_told(file, tmp_path):
    model = Detector()
    (tmp_path / 'text.pth').write_text('no checkpoint')
    for checkpoint in (
        str(tmp_path / 'missing.pth'),
        str(tmp_path / 'text.pth'),
        f'bn2sn://{tmp_path}/missing.pth',
        'https://example.org/never_fetched.pth',
    ):
        start = start_of('backbone', checkpoint)
        assert filled_norms(model, start) is None
    start = start_of('roi_head', file({'weight': torch.ones(1)}))
    assert state_here(model, start) is None


def test_a_file_that_was_fetched_before(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path))
    kept = tmp_path / 'checkpoints' / 'net.pth'
    kept.parent.mkdir()
    assert local('https://example.org/a/net.pth') is None
    torch.save({}, kept)
    assert local('https://example.org/a/net.pth?download=1') == kept
