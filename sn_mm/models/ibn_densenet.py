# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""IBN-Net on DenseNet, which mmdet and mmseg do not have.

Registers ``IBNDenseNet`` where every toolbox finds it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from mmcv.cnn import build_norm_layer
from mmengine.model import BaseModule
from mmengine.registry import MODELS
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from .ibn_resnet import place_ibn

# layers of the four dense blocks
DEPTHS = {121: (6, 12, 24, 16), 169: (6, 12, 32, 32)}
_STEM, _GROWTH, _BOTTLENECK = 64, 32, 4
_IBN_BLOCKS, _EVERY = 3, 3  # norm1 of layers 1, 4, 7, ... of the first blocks
_RATIO = 0.4  # of instance norm, on the last channels


@MODELS.register_module()
class IBNDenseNet(BaseModule):
    """DenseNet-IBN-a, as released: a backbone of four dense blocks.

    Pan et al., ECCV 2018; Huang et al., CVPR 2017 (the plain network). IBN is
    ``norm1`` of layers 1, 4, 7, ... of the first three dense blocks: BN on
    the first 60 % of the channels, instance norm on the rest.

    Args:
        depth: 121 or 169.
        in_channels: of the image.
        out_indices: which dense blocks' outputs to give, at strides 4, 8,
            16, 32. The last has its norm and a ReLU, the others are the
            block's concatenated maps.
        frozen_stages: the stem and so many dense blocks (each with the
            transition behind it) stay as they are; -1 for none, 0 for the
            stem.
        norm_cfg: of all other norms, and of IBN's numbers.
        norm_eval: batch norms in evaluation mode while training.
        with_cp: recompute the layers in backward.
        init_cfg: see mmengine's ``BaseModule``.

    Raises:
        ValueError: for another depth or index.
    """

    def __init__(
        self,
        depth: int = 121,
        in_channels: int = 3,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        frozen_stages: int = -1,
        norm_cfg: dict[str, Any] | None = None,
        norm_eval: bool = False,
        with_cp: bool = False,
        init_cfg: dict | list | None = None,
    ) -> None:
        if depth not in DEPTHS:
            raise ValueError(
                f'unknown depth {depth}; choose from {tuple(DEPTHS)}'
            )
        if not set(out_indices) <= set(range(4)):
            raise ValueError(
                f'out_indices={tuple(out_indices)} must be from 0 to 3'
            )
        if init_cfg is None:
            init_cfg = dict(type='Kaiming', layer='Conv2d')
        super().__init__(init_cfg)
        self.out_indices = tuple(out_indices)
        self.frozen_stages = frozen_stages
        self.norm_eval = norm_eval
        norm_cfg = norm_cfg or dict(type='BN', requires_grad=True)
        channels = _STEM
        parts = nn.Sequential()
        parts.conv0 = nn.Conv2d(in_channels, channels, 7, 2, 3, bias=False)
        parts.norm0 = build_norm_layer(norm_cfg, channels)[1]
        parts.relu0 = nn.ReLU(inplace=True)
        parts.pool0 = nn.MaxPool2d(3, 2, 1)
        for i, layers in enumerate(DEPTHS[depth], 1):
            block = nn.Sequential()
            for k in range(layers):
                with_ibn = i <= _IBN_BLOCKS and k % _EVERY == 0
                layer = DenseLayer(channels, norm_cfg, with_ibn, with_cp)
                block.add_module(f'denselayer{k + 1}', layer)
                channels += _GROWTH
            parts.add_module(f'denseblock{i}', block)
            if i < 4:
                parts.add_module(
                    f'transition{i}', _transition(channels, norm_cfg)
                )
                channels //= 2
        parts.norm5 = build_norm_layer(norm_cfg, channels)[1]
        self.features = parts
        self._freeze()

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Features of the blocks that were asked for."""
        parts, outputs = self.features, []
        for name, part in parts.named_children():
            if name == 'norm5':
                break
            x = part(x)
            if name.startswith('denseblock'):
                outputs.append(x)
        outputs[3] = torch.relu(parts.norm5(x))
        return tuple(outputs[i] for i in self.out_indices)

    def train(self, mode: bool = True) -> IBNDenseNet:
        """Training mode, but for what is frozen and with ``norm_eval``."""
        super().train(mode)
        self._freeze()
        if mode and self.norm_eval:
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self

    def _freeze(self) -> None:
        if self.frozen_stages < 0:
            return
        frozen = ['conv0', 'norm0']
        for i in range(1, self.frozen_stages + 1):
            frozen += [f'denseblock{i}', f'transition{i}']
        if self.frozen_stages >= 4:
            frozen.append('norm5')
        for name, part in self.features.named_children():
            if name in frozen:
                part.eval()
                part.requires_grad_(False)


class DenseLayer(nn.Module):
    """Adds 32 channels, made by a 1 x 1 and a 3 x 3 convolution."""

    def __init__(
        self, channels: int, norm_cfg: dict, with_ibn: bool, with_cp: bool
    ) -> None:
        super().__init__()
        hidden = _BOTTLENECK * _GROWTH
        if with_ibn:
            self.norm1 = place_ibn(
                channels, norm_cfg, ratio=_RATIO, instance_first=False
            )
        else:
            self.norm1 = build_norm_layer(norm_cfg, channels)[1]
        self.relu = nn.ReLU(inplace=True)
        self.conv1 = nn.Conv2d(channels, hidden, 1, bias=False)
        self.norm2 = build_norm_layer(norm_cfg, hidden)[1]
        self.conv2 = nn.Conv2d(hidden, _GROWTH, 3, padding=1, bias=False)
        self.with_cp = with_cp

    def forward(self, x: Tensor) -> Tensor:
        """x, and the new channels behind it."""
        if self.with_cp and x.requires_grad:
            new = checkpoint(self._new, x, use_reentrant=True)
        else:
            new = self._new(x)
        return torch.cat([x, new], 1)

    def _new(self, x: Tensor) -> Tensor:
        hidden = self.conv1(self.relu(self.norm1(x)))
        return self.conv2(self.relu(self.norm2(hidden)))


def _transition(channels: int, norm_cfg: dict) -> nn.Sequential:
    part = nn.Sequential()
    part.norm = build_norm_layer(norm_cfg, channels)[1]
    part.relu = nn.ReLU(inplace=True)
    part.conv = nn.Conv2d(channels, channels // 2, 1, bias=False)
    part.pool = nn.AvgPool2d(2, 2)
    return part
