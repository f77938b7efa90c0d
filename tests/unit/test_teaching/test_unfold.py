# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
import copy

import torch

from sn_mm.teaching.unfold import unfold

from .networks import pictures, trained


def folded(teacher):
    """The same function, its statistics in its affine parameters."""
    model = copy.deepcopy(teacher)
    for norm in (model.bn1, model.bn2):
        slope = norm.weight / (norm.running_var + norm.eps).sqrt()
        bias = norm.bias - norm.running_mean * slope
        with torch.no_grad():
            norm.weight.copy_(slope * (1 + norm.eps) ** 0.5)
            norm.bias.copy_(bias)
        norm.reset_running_stats()
    return model.requires_grad_(False)


def test_statistics_are_the_pictures_and_the_function_stays():
    teacher = trained()
    model = folded(teacher)
    batches = pictures(6, seed=2)
    unfold(model, ['bn1', 'bn2'], batches, ('backbone',))
    x = torch.cat(batches)
    torch.testing.assert_close(model(x), teacher(x), rtol=1e-4, atol=1e-5)
    entered = teacher.conv1(x).double()
    mean = entered.mean((0, 2, 3))
    var = entered.var((0, 2, 3), correction=0)
    norm = model.bn1
    torch.testing.assert_close(norm.running_mean.double(), mean)
    torch.testing.assert_close(
        norm.running_var.double(), var, rtol=1e-4, atol=1e-6
    )
    # what comes out of BN on these pictures has its bias for a mean
    out = norm(teacher.conv1(x))
    torch.testing.assert_close(
        out.mean((0, 2, 3)), norm.bias, rtol=1e-3, atol=1e-4
    )
    torch.testing.assert_close(
        out.std((0, 2, 3)), norm.weight.abs(), rtol=1e-3, atol=1e-4
    )
