# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
import copy
import importlib

import pytest
import torch
from torch import nn

import sn_mm
from sn_mm.teaching import TransplantError, transplant

from .networks import pictures, same, state_of, trained, with_norms

loop = importlib.import_module('sn_mm.teaching.transplant')
QUIET = dict(progress=False)


@pytest.fixture
def teacher():
    return trained()


@pytest.mark.parametrize(
    'norm',
    [
        'SN',
        dict(type='GN', num_groups=4),
        'SSN',
        dict(type='SN', statistics=('in', 'ln')),
    ],
)
def test_the_student_becomes_like_its_teacher(teacher, norm):
    student = with_norms(teacher, norm)
    unseen = pictures(6, seed=3)
    done = transplant(
        student, teacher, pictures(), held_out=unseen, steps=150, **QUIET
    )
    assert [a.output for a in done.before] == ['output.0', 'output.1']
    for before, after in zip(done.before, done.after):
        assert after.error < 0.6 * before.error
        assert after.cosine > before.cosine


def test_it_is_there_by_the_packages_name():
    assert sn_mm.transplant is transplant


def test_the_account_is_of_the_state_that_the_student_has(teacher):
    student = with_norms(teacher).train()
    unseen = pictures(4, seed=3)
    done = transplant(
        student, teacher, pictures(), held_out=unseen, steps=40, **QUIET
    )
    assert student.training and not teacher.training
    errors = []
    with torch.no_grad():
        student.eval()
        for batch in unseen:
            got, want = student(batch)[1], teacher(batch)[1]
            errors.append(
                float((got - want).square().mean() / want.square().mean())
            )
    assert done.after[1].error == pytest.approx(sum(errors) / 4, rel=1e-4)
    kept = dict(done.held_out)[done.best]
    assert [a.error for a in done.after] == pytest.approx(kept, rel=1e-4)
    assert sum(kept) == min(sum(errors) for _, errors in done.held_out)
    assert len(done.taught) == done.steps == 40


def test_the_loss_is_the_squared_error_over_the_teachers_mean_square(teacher):
    """The first step's errors, in float64 and in training mode."""
    student = with_norms(teacher)
    twin = copy.deepcopy(student).double().train()
    twin.drop.eval()
    batch = pictures(1)[0]
    want = copy.deepcopy(teacher).double()(batch.double())
    got = twin(batch.double())
    done = transplant(student, teacher, [batch], steps=30, **QUIET)
    for index in range(2):
        error = (got[index] - want[index]).square().mean()
        assert done.taught[0][index] == pytest.approx(
            float(error / want[index].square().mean()), rel=1e-4
        )


def test_the_first_step_is_adams(teacher):
    """By hand: Adam moves every parameter by its rate, against the sign."""
    student = with_norms(teacher)
    before = state_of(student)
    twin = copy.deepcopy(student).train()
    twin.drop.eval()
    batch = pictures(1)[0]
    want = teacher(batch)
    loss = sum(
        (g - w).square().mean() / w.square().mean()
        for g, w in zip(twin(batch), want)
    )
    loss.backward()
    loop._teaching_mode(student)
    adam = loop._optimizer(student, 1e-3, norms_only=False)
    loop._step(student, teacher, batch, ('backbone',), adam, False, None)
    for name, parameter in twin.named_parameters():
        rate = 1e-3 if '.' in name and 'bn' in name else 1e-4
        large = parameter.grad.abs() > 1e-5
        moved = (student.get_parameter(name) - before[name])[large]
        torch.testing.assert_close(
            moved, -rate * parameter.grad.sign()[large], rtol=0.02, atol=1e-6
        )


def test_norms_only(teacher):
    student = with_norms(teacher)
    before = state_of(student)
    transplant(
        student,
        teacher,
        pictures(),
        steps=40,
        lr=0.03,
        norms_only=True,
        **QUIET,
    )
    after = student.state_dict()
    changed = {k for k in before if not torch.equal(before[k], after[k])}
    assert {'bn1.weight', 'bn2.bias', 'bn1.mean_weight'} <= changed
    assert not {k for k in changed if k.startswith('conv')}


def test_what_is_frozen_stays_frozen(teacher):
    student = with_norms(teacher)
    student.conv1.requires_grad_(False)
    student.bn1.weight.requires_grad_(False)
    before = state_of(student)
    transplant(student, teacher, pictures(), steps=40, lr=0.03, **QUIET)
    after = student.state_dict()
    for key in ('conv1.weight', 'conv1.bias', 'bn1.weight'):
        assert torch.equal(before[key], after[key])
    assert not torch.equal(before['bn1.bias'], after['bn1.bias'])


def test_norms_that_train_leaves_in_evaluation_mode_stay_there(teacher):
    student = with_norms(teacher)

    def train(mode=True):
        nn.Module.train(student, mode)
        student.bn1.eval()
        return student

    student.train = train
    running = student.bn1.running_mean.clone()
    transplant(student, teacher, pictures(), steps=40, **QUIET)
    assert torch.equal(student.bn1.running_mean, running)
    assert not torch.equal(student.bn2.running_mean, teacher.bn2.running_mean)


def test_the_teacher_is_as_it_was(teacher):
    teacher.train()
    before = state_of(teacher)
    transplant(with_norms(teacher), teacher, pictures(), steps=40, **QUIET)
    assert teacher.training
    assert same(before, teacher.state_dict())
    assert all(p.grad is None for p in teacher.parameters())


def shuffled():
    loader = torch.utils.data.DataLoader(
        torch.cat(pictures()), batch_size=2, shuffle=True
    )
    return loader


def test_a_seed_decides(teacher):
    """Also where a loader shuffles; and the caller's own state stays."""
    students = []
    for seed in (0, 0, 1):
        student = with_norms(teacher)
        torch.manual_seed(5)
        transplant(student, teacher, shuffled(), steps=40, seed=seed, **QUIET)
        students.append(state_of(student))
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    transplant(with_norms(teacher), teacher, shuffled(), steps=9, **QUIET)
    assert torch.equal(torch.rand(3), expected)
    assert same(students[0], students[1])
    assert not same(students[0], students[2])


class Interrupted(Exception):
    pass


class Breaking(list):
    """Batches that break off, once."""

    def __init__(self, batches, after):
        super().__init__(batches)
        self.left = after

    def __getitem__(self, index):
        self.left -= 1
        if not self.left:
            raise Interrupted
        return super().__getitem__(index)


def test_an_interrupted_transplant_goes_on(teacher, tmp_path):
    whole, broken = with_norms(teacher), with_norms(teacher)
    unseen = pictures(3, seed=4)
    options = dict(held_out=unseen, steps=40, **QUIET)
    straight = transplant(whole, teacher, pictures(), **options)
    options['state_file'] = tmp_path / 'state.pth'
    with pytest.raises(Interrupted):
        transplant(broken, teacher, Breaking(pictures(), 31), **options)
    again = with_norms(teacher)
    done = transplant(again, teacher, pictures(), **options)
    assert done == straight
    assert same(whole.state_dict(), again.state_dict())
    # a finished one is not taught again
    last = with_norms(teacher)
    assert (
        transplant(last, teacher, Breaking(pictures(), 1), **options) == done
    )
    assert same(whole.state_dict(), last.state_dict())


def test_another_transplants_state_is_refused(teacher, tmp_path):
    file = tmp_path / 'state.pth'
    options = dict(held_out=pictures(2), state_file=file, **QUIET)
    transplant(with_norms(teacher), teacher, pictures(), steps=20, **options)
    student = with_norms(teacher)
    before = state_of(student)
    with pytest.raises(ValueError, match='steps=20, not 30'):
        transplant(student, teacher, pictures(), steps=30, **options)
    with pytest.raises(ValueError, match="teacher=None, not 'other.pth'"):
        transplant(
            student,
            teacher,
            pictures(),
            steps=20,
            notes=dict(teacher='other.pth'),
            **options,
        )
    file.write_bytes(b'nothing')
    with pytest.raises(ValueError, match='cannot be read'):
        transplant(student, teacher, pictures(), steps=20, **options)
    assert same(before, student.state_dict())


def test_no_better_than_the_beginning(teacher):
    student = with_norms(teacher)
    before = state_of(student)
    with pytest.raises(TransplantError, match='no state on the way'):
        transplant(student, teacher, pictures(), steps=3, lr=10.0, **QUIET)
    assert same(before, student.state_dict())


def test_an_error_that_is_not_finite(teacher):
    student = with_norms(teacher)
    before = state_of(student)
    with pytest.raises(TransplantError, match='not finite after'):
        transplant(student, teacher, pictures(), steps=30, lr=1e30, **QUIET)
    assert same(before, student.state_dict())


def test_what_makes_no_sense_is_refused(teacher):
    student = with_norms(teacher)
    with pytest.raises(ValueError, match='steps must be at least 1'):
        transplant(student, teacher, pictures(), steps=0)
    with pytest.raises(ValueError, match='lr must be above 0'):
        transplant(student, teacher, pictures(), lr=0.0)
    with pytest.raises(ValueError, match="parts='head'"):
        transplant(student, teacher, pictures(), 'head')
    with pytest.raises(ValueError, match='batches is empty'):
        transplant(student, teacher, [])
    with pytest.raises(ValueError, match='no norm layer of the taught parts'):
        frozen = with_norms(teacher).requires_grad_(False)
        transplant(frozen, teacher, pictures(), **QUIET)
    wide = trained()
    wide.conv2, wide.bn2 = nn.Conv2d(8, 16, 3), nn.BatchNorm2d(16)
    with pytest.raises(ValueError, match=r'differ in more than norms: output'):
        transplant(student, wide, pictures(), **QUIET)


def test_batches_that_can_be_read_only_once(teacher):
    with pytest.raises(ValueError, match='batches ended after 8'):
        transplant(
            with_norms(teacher),
            teacher,
            iter(pictures()),
            held_out=pictures(2),
            steps=20,
            **QUIET,
        )


def test_dropout_is_off_while_norms_train(teacher):
    student = with_norms(teacher)
    loop._teaching_mode(student)
    modes = {n: m.training for n, m in student.named_modules()}
    assert modes['bn1'] and modes['bn2'] and not modes['drop']
