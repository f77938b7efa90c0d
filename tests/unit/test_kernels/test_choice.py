# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Which implementation runs, why, and how to force one."""

import pytest
import torch

import sn_mm
from sn_mm.functional import normalize_rows
from sn_mm.kernels import backends, choose
from tests.utils import usable_backends

X = torch.randn(2, 3, 4, 4)


@pytest.fixture(autouse=True)
def nothing_forced(monkeypatch):
    monkeypatch.delenv('SN_MM_BACKEND', raising=False)


def test_float64_runs_in_aten_and_says_why():
    found = sn_mm.backends(X.double())
    assert found.chosen == 'aten'
    assert set(found.why_not) == {'triton', 'native'}
    assert all(found.why_not.values())
    assert str(found).startswith('aten runs\nnot triton: ')


def test_faster_ones_are_explained_only():
    found = backends(X)
    assert found.chosen == choose(X).name
    order = ['triton', 'native', 'aten']
    assert list(found.why_not) == order[: order.index(found.chosen)]


@pytest.mark.parametrize('name', usable_backends())
def test_forced_by_argument_and_by_environment(name, monkeypatch):
    assert choose(X, name).name == name
    monkeypatch.setenv('SN_MM_BACKEND', name)
    assert choose(X).name == backends(X).chosen == name


def test_an_argument_outweighs_the_environment(monkeypatch):
    monkeypatch.setenv('SN_MM_BACKEND', 'nothing')
    assert backends(X, 'aten').chosen == 'aten'
    reasons = backends(X, 'aten').why_not
    assert set(reasons) == {'triton', 'native'} and all(reasons.values())


def test_unknown_names(monkeypatch):
    with pytest.raises(ValueError, match="'plain'.*triton, native, aten"):
        choose(X, 'plain')
    monkeypatch.setenv('SN_MM_BACKEND', 'fast')
    with pytest.raises(ValueError, match='fast.*SN_MM_BACKEND'):
        sn_mm.SN(3)(X)


@pytest.mark.parametrize('name', ['native', 'triton'])
def test_one_that_cannot_take_the_input(name):
    with pytest.raises(ValueError, match=f'{name}.*cannot take this input'):
        choose(X.double(), name)


def test_normalize_rows_obeys(monkeypatch):
    ran = []
    chosen = choose(X, 'aten')
    sweep = chosen.moments
    monkeypatch.setattr(chosen, 'moments', lambda x: ran.append(x) or sweep(x))

    def rule(m, v, size):
        return m, (v + 1).rsqrt(), 0.0

    normalize_rows(X, rule, backend='aten')
    assert len(ran) == 1


@pytest.mark.parametrize(
    'x, error, text',
    [([1.0], TypeError, 'got a list'), (torch.ones(3), ValueError, r'\(3,\)')],
)
def test_what_is_no_input(x, error, text):
    with pytest.raises(error, match=text):
        backends(x)
