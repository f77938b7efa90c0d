# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Ratios at points in time, out of checkpoints, histories and folders."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from sn_mm import SN
from sn_mm.analysis.history import FILE_NAME, HistoryWriter, Record
from sn_mm.analysis.snapshots import (
    Run,
    check_same_layers,
    read_sources,
    with_fields,
)
from sn_mm.utils.errors import CheckpointError
from tests.unit.test_analysis.made import CLEAR, FIRM, TIED, snapshot


def save(path, logits, iteration=None):
    """A checkpoint of one layer whose logits of the means are these."""
    model = nn.Sequential(nn.Conv2d(3, 4, 1), SN(4))
    with torch.no_grad():
        model[1].mean_weight.copy_(torch.tensor(logits))
    meta = {} if iteration is None else dict(iter=iteration)
    path.parent.mkdir(exist_ok=True)
    torch.save(dict(state_dict=model.state_dict(), meta=meta), path)
    return str(path)


def test_a_checkpoint_is_one_snapshot(tmp_path):
    path = save(tmp_path / 'epoch_3.pth', [1.0, 0.0, -1.0], 30)
    (run,) = read_sources([path])
    (found,) = run.snapshots
    assert (run.title, found.title, found.iteration) == ('epoch_3',) * 2 + (
        30,
    )
    assert [layer.name for layer in found.layers] == ['1']
    want = torch.tensor([1.0, 0.0, -1.0]).softmax(0)
    np.testing.assert_allclose(found.ratios[0].mean[0], want, atol=1e-6)
    np.testing.assert_allclose(found.ratios[0].var[0], 1 / 3, atol=1e-6)


def test_a_folder_of_checkpoints_is_in_order_of_numbers(tmp_path):
    for number in (100, 20, 3):
        save(tmp_path / 'work' / f'iter_{number}.pth', [0.0, 0.0, 0.0])
    (run,) = read_sources([str(tmp_path / 'work')])
    # without a note in the file the name tells the iteration
    assert [s.iteration for s in run.snapshots] == [3, 20, 100]
    assert run.snapshots[0].title == 'work, iter_3'


def test_a_history_goes_before_checkpoints(tmp_path):
    first, last = snapshot((TIED, FIRM)), snapshot((CLEAR, FIRM))
    writer = HistoryWriter(tmp_path / FILE_NAME, first.layers)
    for iteration, made in ((0, first), (7, last)):
        writer.append(Record(iteration, 0, made.ratios))
    save(tmp_path / 'iter_7.pth', [0.0, 0.0, 0.0])
    (run,) = read_sources([str(tmp_path)], ['mine'])
    assert [s.title for s in run.snapshots] == [
        'mine, iteration 0',
        'mine, iteration 7',
    ]
    np.testing.assert_allclose(run.snapshots[1].ratios[0].mean[0], CLEAR)


@pytest.mark.parametrize(
    'paths, titles',
    [
        (['a/epoch_1.pth', 'a/epoch_2.pth'], ['epoch_1', 'epoch_2']),
        (['a/x/e.pth', 'b/x/e.pth'], ['a/x/e', 'b/x/e']),
        ([f'a/b/{FILE_NAME}', f'c/b/{FILE_NAME}'], ['a/b', 'c/b']),
        (['e.pth', 'e.pth'], ['e', 'e']),
    ],
)
def test_titles_have_as_many_folders_as_it_takes(tmp_path, paths, titles):
    for name in paths:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        if name.endswith('.pth'):
            save(tmp_path / name, [1.0, 0.0, 0.0], 1)
        else:
            made = snapshot((CLEAR, FIRM))
            writer = HistoryWriter(tmp_path / name, made.layers)
            writer.append(Record(1, 0, made.ratios))
    runs = read_sources([str(tmp_path / name) for name in paths])
    assert [run.title for run in runs] == titles


def test_titles_tell_files_of_the_same_name_apart(tmp_path):
    logits = [0.0, 0.0, 0.0]
    paths = [save(tmp_path / d / 'last.pth', logits) for d in 'ab']
    assert [r.title for r in read_sources(paths)] == ['a/last', 'b/last']
    with pytest.raises(ValueError, match='1 titles for 2 sources'):
        read_sources(paths, ['one'])


def test_what_cannot_be_read(tmp_path):
    bad = save(tmp_path / 'bad.pth', [float('nan'), 0.0, 0.0])
    with pytest.raises(CheckpointError, match='ratios of 1 are not finite'):
        read_sources([bad])
    (tmp_path / 'empty').mkdir()
    with pytest.raises(CheckpointError, match='neither ratios.jsonl nor'):
        read_sources([str(tmp_path / 'empty')])
    HistoryWriter(tmp_path / FILE_NAME, snapshot((TIED, TIED)).layers)
    with pytest.raises(ValueError, match='has no record yet'):
        read_sources([str(tmp_path / FILE_NAME)])


def test_fields_come_from_the_model_where_the_source_has_none():
    made = snapshot((TIED, FIRM))
    unknown = replace(
        made, layers=[replace(x, receptive_field=None) for x in made.layers]
    )
    run = with_fields(Run('r', [unknown]), made.layers)
    assert run.snapshots[0].layers == made.layers
    known = Run('r', [made])
    assert with_fields(known, []) is known
    with pytest.raises(ValueError, match='the same SN layers .layer0 is in'):
        with_fields(Run('r', [unknown]), [])


def test_snapshots_that_are_of_other_layers():
    one, two = snapshot((TIED, FIRM)), snapshot((TIED, FIRM), (TIED, FIRM))
    check_same_layers([one, snapshot((CLEAR, CLEAR))])
    with pytest.raises(ValueError, match='layer1 is in one of them'):
        check_same_layers([one, two])
