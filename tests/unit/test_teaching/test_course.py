# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Steps, errors and the best state; kept, and gone on with."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from sn_mm.teaching.course import Course

SETTINGS = dict(lr=0.1, parts=['backbone'])


def agreements(*errors):
    return [(f'out{i}', 0.5, e) for i, e in enumerate(errors)]


def made(settings=SETTINGS):
    module = nn.Linear(2, 1)
    adam = torch.optim.Adam(module.parameters(), lr=0.1)
    return module, adam, Course(module, settings)


def set_to(module, value):
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.fill_(value)


def test_the_best_state_is_that_of_the_least_error():
    module, _, course = made()
    for step, (value, errors) in enumerate(
        [(1.0, (2.0, 2.0)), (2.0, (3.0, 0.5)), (3.0, (1.0, 3.0))]
    ):
        set_to(module, value)
        course.keep(agreements(*errors))
        course.note(dict(out0=0.1 * step))
    assert course.best == 1 and course.step == 3
    assert course.before == agreements(2.0, 2.0)
    assert [s for s, _ in course.held_out] == [0, 1, 2]
    assert course.taught[2][0] == pytest.approx(0.2)
    assert math.isnan(course.taught[2][1])  # was empty in that step
    course.take_best()
    assert (module.weight == 2).all()


def trained(module, adam, course, steps):
    for _ in range(steps):
        adam.zero_grad()
        module(torch.ones(1, 2)).square().sum().backward()
        adam.step()
        course.note(dict(out0=1.0))


def test_going_on_is_as_if_nothing_had_happened(tmp_path):
    module, adam, course = made()
    set_to(module, 1.0)
    course.keep(agreements(1.0))
    trained(module, adam, course, 3)
    for group in adam.param_groups:
        group['lr'] = 0.01  # of a schedule, in its middle
    course.save(tmp_path / 'c', adam, [0.1])

    other, fresh, again = made()
    again.load(tmp_path / 'c', fresh)
    assert fresh.param_groups[0]['lr'] == 0.1
    assert again.step == 3 and again.before == course.before
    assert again.held_out == course.held_out and again.best == 0
    assert torch.equal(other.weight, module.weight)
    adam.param_groups[0]['lr'] = 0.1
    for parts in ((module, adam, course), (other, fresh, again)):
        trained(*parts, 2)
    assert torch.equal(other.weight, module.weight)
    again.take_best()
    assert (other.weight == 1).all()


def test_files_that_are_of_something_else(tmp_path):
    module, adam, course = made()
    course.keep(agreements(1.0))
    course.save(tmp_path / 'c', adam, [0.1])
    other, fresh, again = made(dict(SETTINGS, lr=0.2))
    before = other.weight.clone()
    with pytest.raises(ValueError, match='with lr=0.1, not 0.2'):
        again.load(tmp_path / 'c', fresh)
    (tmp_path / 'c').write_bytes(b'half')
    with pytest.raises(ValueError, match='cannot be read'):
        again.load(tmp_path / 'c', fresh)
    torch.save(dict(a=1), tmp_path / 'c')
    with pytest.raises(ValueError, match='not the state of a transplant'):
        again.load(tmp_path / 'c', fresh)
    assert torch.equal(other.weight, before) and again.step == 0
