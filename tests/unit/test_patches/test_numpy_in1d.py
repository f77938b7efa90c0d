# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
import numpy as np
import pytest

from sn_mm.patches import numpy_in1d


@pytest.fixture
def without(monkeypatch):
    """A numpy that lacks the function, as 2.4 does."""
    monkeypatch.setattr(np, 'in1d', None, raising=False)
    monkeypatch.delattr(np, 'in1d')


def test_it_is_put_back_for_cityscapes_alone(without, monkeypatch):
    monkeypatch.setattr(numpy_in1d, 'find_spec', lambda name: None)
    assert not numpy_in1d.restore_in1d()
    assert not hasattr(np, 'in1d')
    monkeypatch.setattr(numpy_in1d, 'find_spec', lambda name: name)
    assert numpy_in1d.restore_in1d()
    assert np.in1d is numpy_in1d.in1d
    # nothing that is there is replaced
    assert not numpy_in1d.restore_in1d()


@pytest.mark.parametrize('invert', [False, True])
def test_it_is_flat(invert):
    a = np.array([[1, 2], [3, 4]])
    got = numpy_in1d.in1d(a, [2, 3, 9], invert=invert)
    assert got.tolist() == [v ^ invert for v in (False, True, True, False)]
    assert numpy_in1d.in1d(3, [3]).tolist() == [True]
