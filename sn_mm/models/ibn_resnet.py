# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""IBN-Net: ResNets with IBN where the paper has it.

Registers ``IBNResNet`` and ``IBNResNeXt`` in whichever of mmdet, mmseg,
mmpretrain is there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mmcv.cnn import build_norm_layer
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .derived import derived, register

VARIANTS = ('a', 'b')
_IBN_STAGES = 3  # IBN-a: of the four
_SUM_STAGES = 2  # IBN-b


class IBNResNet:
    """The toolbox's ResNet or ResNeXt as IBN-Net (Pan et al., ECCV 2018).

    'a': IBN in place of the first norm of every block of stages 1 to 3.
    'b': instance norm in place of the stem's norm, and behind the residual
    sum, before the last ReLU, in the last blocks of stages 1 and 2. All
    other norms are as ``norm_cfg`` says. With BN, state dicts are those of
    the released networks, which ``ibn://FILE`` loads.

    Args:
        args, kwargs: of the toolbox's backbone.
        variant: 'a' or 'b'.
        ratio: of 'a', the share of channels with instance norm.
        se_reduction: squeeze and excitation behind the last norm of every
            block, with channels / se_reduction hidden units (16 in the
            released SE-ResNets); None for none.

    Raises:
        ValueError: for another variant, for 'b' with a deep stem, whose
            norms are several, or for a ratio that does not divide.
    """

    has_other_norms = True  # beside IBN, and print_norms need not warn

    def __init__(
        self,
        *args,
        variant: str = 'a',
        ratio: float = 0.5,
        se_reduction: int | None = None,
        **kwargs,
    ) -> None:
        if variant not in VARIANTS:
            raise ValueError(
                f'unknown variant {variant!r}; choose from {VARIANTS}'
            )
        if variant == 'b' and kwargs.get('deep_stem'):
            raise ValueError(
                "variant='b' has instance norm behind one 7 x 7 convolution, "
                'and deep_stem=True three smaller ones: leave deep_stem out, '
                "or take variant='a'"
            )
        super().__init__(*args, **kwargs)
        self.variant = variant
        if variant == 'a':
            for block in self._blocks(_IBN_STAGES):
                _place_ibn(block, ratio, self.norm_cfg)
        else:
            _place_instance_norms(self)
        if se_reduction is not None:
            for block in self._blocks():
                block.se = SqueezeExcitation(_width(block), se_reduction)
                _extend(block)
        self._freeze_stages()  # what is new, too

    def _blocks(self, stages: int | None = None) -> Iterator[nn.Module]:
        """Of the first stages."""
        for name in self.res_layers[:stages]:
            yield from getattr(self, name)


class ExtendedBlock:
    """A residual block with more around its sum.

    Attributes:
        se: behind the last norm, or absent.
        IN: instance norm of the sum, before the ReLU, or absent.
    """

    def forward(self, x: Tensor) -> Tensor:
        """As the toolbox's block, with the additions."""
        if self.with_cp and x.requires_grad:
            out = checkpoint(self._sum, x, use_reentrant=True)
        else:
            out = self._sum(x)
        return self.relu(out)

    def _sum(self, x: Tensor) -> Tensor:
        out, last = x, 3 if hasattr(self, 'conv3') else 2
        for i in range(1, last + 1):
            out = getattr(self, f'conv{i}')(out)
            out = getattr(self, f'norm{i}')(out)
            if i < last:
                out = self.relu(out)
            if getattr(self, 'with_plugins', False):
                names = getattr(self, f'after_conv{i}_plugin_names')
                out = self.forward_plugin(out, names)
        if hasattr(self, 'se'):
            out = self.se(out)
        if hasattr(self, 'drop_path'):  # mmpretrain's
            out = self.drop_path(out)
        identity = x if self.downsample is None else self.downsample(x)
        out = out + identity
        return self.IN(out) if hasattr(self, 'IN') else out


class SqueezeExcitation(nn.Module):
    """Scales of channels from their averages (Hu et al., CVPR 2018).

    Args:
        channels: C.
        reduction: hidden units are C / reduction.

    Shape:
        Input and output: (N, C, H, W).
    """

    def __init__(self, channels: int, reduction: int) -> None:
        super().__init__()
        hidden = channels // reduction
        self.fc = nn.Sequential(
            nn.Linear(channels, hidden, bias=False),
            nn.ReLU(inplace=True),
            nn.Linear(hidden, channels, bias=False),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """x times its scales."""
        return x * self.fc(x.mean((2, 3)))[:, :, None, None]


def ibn_cfg(norm_cfg: Mapping[str, Any], **options) -> dict[str, Any]:
    """norm_cfg of IBN beside other norms: synchronized if these are.

    Args:
        norm_cfg: of the network.
        options: of IBN.
    """
    kind = 'SyncIBN' if str(norm_cfg['type']).startswith('Sync') else 'IBN'
    kept = {
        name: norm_cfg[name]
        for name in ('requires_grad', 'eps', 'momentum')
        if name in norm_cfg
    }
    return {**kept, 'type': kind, **options}


def place_ibn(channels: int, norm_cfg: Mapping[str, Any], **options):
    """An IBN layer that stands where it belongs."""
    layer = build_norm_layer(ibn_cfg(norm_cfg, **options), channels)[1]
    layer.is_placed = True
    return layer


def _place_ibn(block: nn.Module, ratio: float, norm_cfg: Mapping) -> None:
    channels = block.conv1.out_channels
    layer = place_ibn(channels, norm_cfg, ratio=ratio)
    setattr(block, block.norm1_name, layer)


def _place_instance_norms(network: nn.Module) -> None:
    cfg = dict(type='IN', affine=True)
    cfg['requires_grad'] = network.norm_cfg.get('requires_grad', True)
    channels = network.conv1.out_channels
    stem = build_norm_layer(cfg, channels)[1]
    setattr(network, network.norm1_name, stem)
    for name in network.res_layers[:_SUM_STAGES]:
        block = getattr(network, name)[-1]
        block.IN = build_norm_layer(cfg, _width(block))[1]
        _extend(block)


def _extend(block: nn.Module) -> None:
    if not isinstance(block, ExtendedBlock):
        block.__class__ = derived(ExtendedBlock, type(block))


def _width(block: nn.Module) -> int:
    """Channels of a block's output."""
    last = block.conv3 if hasattr(block, 'conv3') else block.conv2
    return last.out_channels


register('IBNResNet', IBNResNet)
register('IBNResNeXt', IBNResNet, 'ResNeXt')
