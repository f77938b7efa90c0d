# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Encoder and decoder in one state dict."""

from __future__ import annotations

import pytest

from sn_mm.checkpoints import CheckpointError
from sn_mm.checkpoints.joined import convert_files
from sn_mm.checkpoints.sources import parse, recognized


@pytest.fixture
def found(released):
    paths = [
        released(layout)[1]
        for layout in (
            'seg_encoder_resnet50dilated8_sn',
            'seg_decoder_c1_deepsup',
        )
    ]
    return recognized(parse(f'sn://{paths[0]},{paths[1]}'))


def test_each_keeps_its_account(found):
    state, styles, reports = convert_files(found, 'mmdet')
    prefixes = {key.split('.')[0] for key in state}
    assert prefixes == {'backbone', 'decode_head', 'auxiliary_head'}
    assert len(styles) == 2
    used = [{u.target for u in report.used} for report in reports]
    assert not used[0] & used[1] and used[0] | used[1] <= set(state)
    for report, (file, layout) in zip(reports, found):
        assert (report.source, report.layout) == (str(file.path), str(layout))
    # settings of every layer, from both files
    layers = {
        key.rpartition('.')[0] for key in state if key.endswith('.mean_weight')
    }
    assert all(state._metadata[name]['unbiased'] for name in layers)


def test_an_error_names_the_file(found):
    file, _ = found[1]
    key = next(key for key in file.state if key.endswith('weight'))
    file.state[key] = file.state[key] * float('nan')
    with pytest.raises(CheckpointError, match=str(file.path)):
        convert_files(found, 'mmdet')
