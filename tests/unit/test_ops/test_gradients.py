# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
import torch

from sn_mm.ops.gradients import fill_gradients


def test_gradients_go_into_what_is_given():
    a, b = torch.tensor([2.0, 3.0]), torch.tensor([5.0, 7.0])
    da, db = torch.empty(2), torch.empty(2, dtype=torch.float64)
    with torch.no_grad():  # as mmcv calls it
        fill_gradients(
            lambda a, b: a.square() * b,
            (a, b),
            torch.tensor([1.0, 10.0]).half(),
            (da, db),
        )
    assert da.tolist() == [20, 420]  # 2 a b, times 1 and 10
    assert db.tolist() == [4, 90]
    assert not a.requires_grad and a.grad is None
