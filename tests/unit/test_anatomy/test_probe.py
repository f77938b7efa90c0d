# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Norms with a forward of their own: what they do decides."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sn_mm.anatomy.probe import equals_its_kind


class Batch(nn.BatchNorm2d):
    def forward(self, x):
        return super().forward(x)


class ReluBatch(nn.BatchNorm2d):
    def forward(self, x):
        return super().forward(x).relu()


class TrainsOtherwise(nn.BatchNorm2d):
    """Equal in evaluation alone."""

    def forward(self, x):
        y = super().forward(x)
        return y * 1.1 if self.training else y


class Instance(nn.InstanceNorm3d):
    def forward(self, x):
        return super().forward(x)


class Group(nn.GroupNorm):
    def forward(self, x):
        shape = x.shape
        y = x.reshape(shape[0], self.num_groups, -1)
        y = y - y.mean(-1, keepdim=True)
        y = y / (y.square().mean(-1, keepdim=True) + self.eps).sqrt()
        affine = (t.view(-1, *[1] * (x.dim() - 2)) for t in self.parameters())
        weight, bias = affine
        return y.view(shape) * weight + bias


class ChannelLast(nn.LayerNorm):
    def forward(self, x):
        return super().forward(x)


class ChannelNorm(nn.Module):
    """LayerNorm over channels, whose eps has a name of its own."""

    def __init__(self, channels, factor=1.0):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.variance_epsilon = 1e-3
        self.factor = factor

    def forward(self, x):
        mean = x.mean(1, keepdim=True)
        var = (x - mean).square().mean(1, keepdim=True)
        y = (x - mean) / (var + self.factor * self.variance_epsilon).sqrt()
        return y * self.weight.view(-1, 1, 1) + self.bias.view(-1, 1, 1)


class Two(nn.BatchNorm2d):
    def forward(self, x, scale=1.0):
        return super().forward(x)


class Several(nn.BatchNorm2d):
    def forward(self, x):
        return super().forward(x), x


@pytest.mark.parametrize(
    'module, equals',
    [
        (Batch(5), True),
        (Batch(5, affine=False), True),
        (Batch(5, track_running_stats=False), True),
        (Instance(2), True),
        (Instance(3, track_running_stats=True), True),
        (Group(2, 4), True),
        (ChannelNorm(4), True),
        (ChannelNorm(4, factor=2.0), False),
        (ReluBatch(5), False),
        (TrainsOtherwise(5), False),
        (ChannelLast(4), False),
        (Two(5), False),
        (Several(5), False),
    ],
    ids=lambda v: type(v).__name__ if isinstance(v, nn.Module) else str(v),
)
def test_by_what_they_compute(module, equals):
    assert equals_its_kind(module) is equals


def test_the_module_itself_is_not_run():
    module = Batch(5).eval()
    equals_its_kind(module)
    assert not module.training and module.num_batches_tracked == 0
    assert not module.running_mean.any() and (module.weight == 1).all()
