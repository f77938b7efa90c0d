# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
import pytest
import torch

from sn_mm.teaching.measures import cosine, measure, relative_errors

from .networks import pictures, trained, with_norms


def test_relative_errors_by_hand():
    want = dict(a=torch.tensor([[1.0, 3.0]]), empty=torch.zeros(0, 2))
    got = dict(a=torch.tensor([[2.0, 3.0]]), empty=torch.zeros(0, 2))
    errors = relative_errors(got, want)
    assert list(errors) == ['a']
    assert float(errors['a']) == pytest.approx(0.5 / 5)


def test_outputs_that_do_not_match():
    two = torch.zeros(1, 2)
    with pytest.raises(ValueError, match=r'b is missing of the student'):
        relative_errors(dict(a=two), dict(a=two, b=two))
    with pytest.raises(ValueError, match=r'a is \(1, 2\) of the student'):
        relative_errors(dict(a=two), dict(a=torch.zeros(1, 3)))
    with pytest.raises(ValueError, match='no floating point tensor'):
        relative_errors({}, {})


def test_half_precision_is_summed_in_float32():
    want = torch.full((1, 4000), 100.0).half()
    errors = relative_errors(dict(a=want * 1.5), dict(a=want))
    assert float(errors['a']) == pytest.approx(0.25, rel=1e-3)


def test_cosine_is_of_each_picture():
    want = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    got = torch.tensor([[3.0, 0.0], [1.0, 1.0]])
    assert cosine(got, want, images=2) == pytest.approx((1 + 0.5**0.5) / 2)
    # rows are regions, and no pictures
    whole = (3 + 2) / (11**0.5 * 5**0.5)
    assert cosine(got, want, images=1) == pytest.approx(whole)


def test_measuring_changes_nothing_and_a_twin_agrees():
    teacher = trained()
    same = measure(teacher, teacher, pictures(3), ('backbone',))
    assert [(a.cosine, a.error) for a in same] == [
        (pytest.approx(1), 0),
        (pytest.approx(1), 0),
    ]
    student = with_norms(teacher).eval()
    found = measure(student, teacher, pictures(3), ('backbone',))
    assert all(a.error > 0.01 and a.cosine < 0.999 for a in found)
    assert all(p.grad is None for p in student.parameters())
