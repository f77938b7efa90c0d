# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Small networks with BN that have seen pictures, and pictures for them."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from sn_mm.surgery.convert_norm import swap_norms


def pictures(count: int = 8, seed: int = 0, images: int = 2) -> list[Tensor]:
    """Batches (images, 3, 16, 16) of blocks of 4 x 4 pixels."""
    generator = torch.Generator().manual_seed(seed)
    small = torch.rand(count, images, 3, 4, 4, generator=generator)
    return list(small.repeat_interleave(4, 3).repeat_interleave(4, 4))


class Backbone(nn.Module):
    """Two outputs, of strides 1 and 2, with dropout between them."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(8)
        self.drop = nn.Dropout(0.5)
        self.conv2 = nn.Conv2d(8, 12, 3, stride=2, padding=1)
        self.bn2 = nn.BatchNorm2d(12)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        first = self.bn1(self.conv1(x)).relu()
        return first, self.bn2(self.conv2(self.drop(first)))


def trained(seed: int = 0) -> Backbone:
    """A teacher: random weights and affine parameters, real statistics."""
    torch.manual_seed(seed)
    teacher = Backbone()
    for norm in (teacher.bn1, teacher.bn2):
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.normal_(norm.bias, std=0.3)
    for batch in pictures(40, seed=9):
        teacher(batch)
    return teacher.eval()


def with_norms(teacher: nn.Module, cfg: dict | str = 'SN') -> nn.Module:
    """A student with the teacher's weights and other norms."""
    cfg = dict(type=cfg) if isinstance(cfg, str) else cfg
    return swap_norms(copy.deepcopy(teacher), cfg)


def state_of(model: nn.Module) -> dict[str, Tensor]:
    return copy.deepcopy(model.state_dict())


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Whether two states are equal, bit by bit."""
    return one.keys() == other.keys() and all(
        torch.equal(one[k], other[k]) for k in one
    )
