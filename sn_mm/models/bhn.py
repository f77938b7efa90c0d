# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Backbones with HyperNormalization: one LSTM for each stage.

Registers ``BHNResNet`` and ``BHNResNeXt`` in whichever of mmdet, mmseg,
mmpretrain is there, and ``BHNSEResNet`` and ``BHNShuffleNetV2`` in mmpretrain,
which has these networks (from a config of another toolbox:
``type='mmpretrain.BHNSEResNet'``).
"""

from __future__ import annotations

from functools import partial

from mmcv.cnn import build_norm_layer
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from sn_mm.anatomy.norms import num_channels
from sn_mm.layers.hyper import BHN, share_among
from sn_mm.layers.relay import relaying
from sn_mm.utils import join_names

from .derived import derived, register


class BHNBackbone:
    """The toolbox's backbone with a norm of each block turned into BHN.

    Diao et al., "HyperNormalization" (a poster). One norm of each block, as
    wide as the block is inside, takes scale and shift from an LSTM; the
    blocks of a stage share the LSTM and hand its state on, which is zero at
    the start of each stage. All other norms, and all arguments, are the
    toolbox's. Which of the norms it is the poster does not say: its numbers
    of parameters fit the first and the second. ShuffleNetV2's blocks that
    halve the resolution have none.

    Args:
        args, kwargs: of the toolbox's backbone; ``norm_cfg`` is for the
            other norms.
        hyper_cfg: as a ``norm_cfg``, for these; by default
            ``dict(type='BHN')``, or 'SyncBHN' where ``norm_cfg`` is a
            synchronized norm.
        hyper_norm: 1 or 2, which norm of a block.

    Raises:
        ValueError: for another ``hyper_norm``, for a ``hyper_cfg`` that is
            not BHN, and for BHN as ``norm_cfg``.
    """

    has_other_norms = True  # beside BHN, and print_norms need not warn

    def __init__(
        self,
        *args,
        hyper_cfg: dict | None = None,
        hyper_norm: int = 2,
        **kwargs,
    ) -> None:
        if hyper_norm not in (1, 2):
            raise ValueError(f'hyper_norm must be 1 or 2, got {hyper_norm!r}')
        super().__init__(*args, **kwargs)
        _check_others(self)
        if hyper_cfg is None:
            is_synchronized = 'Sync' in str(self.norm_cfg['type'])
            hyper_cfg = dict(type='SyncBHN' if is_synchronized else 'BHN')
        for stage in _stages(self):
            stage.__class__ = derived(BHNStage, type(stage))
            stage.hyper_names = [
                _name_in(block, hyper_norm) for block in stage
            ]
            _place(stage, hyper_cfg)
            for block, name in zip(stage, stage.hyper_names):
                if name is not None:  # this class's affair, see BHNStage
                    stage.recomputes, block.with_cp = self.with_cp, False
        self._freeze_stages()  # the new layers, too


class BHNStage:
    """A stage whose BHN layers hand on the state of their LSTM."""

    hyper_names: list[str | None] = []
    recomputes = False  # with_cp

    def forward(self, x: Tensor) -> Tensor:
        """The stage's features."""
        h = c = None
        for block, name in zip(self, self.hyper_names):
            norm = None if name is None else block.get_submodule(name)
            if not isinstance(norm, BHN):  # perhaps converted to another
                x = block(x)
                continue
            run = partial(run_block, block, norm)
            if self.recomputes and x.requires_grad:
                # The other kind of checkpoint cannot share parameters in
                # DistributedDataParallel.
                run = partial(checkpoint, run, use_reentrant=False)
            x, h, c = run(x, h, c)
        return x


def run_block(
    block: nn.Module, norm: BHN, x: Tensor, h: Tensor | None, c: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """A block whose norm continues an LSTM.

    Args:
        block: of the toolbox.
        norm: one of its layers.
        x: (N, C, H, W).
        h, c: the state before, (N, width), or None at the start.

    Returns:
        The block's output, and the state after.
    """
    with relaying(norm, None if h is None else (h, c)) as relay:
        y = block(x)
    return y, *relay.left


def _check_others(model: nn.Module) -> None:
    names = [n for n, m in model.named_modules() if isinstance(m, BHN)]
    if names:
        raise ValueError(
            f'norm_cfg gives {type(model).__name__} BHN in places where it '
            f'has other norms ({join_names(names, 3)}): set norm_cfg=dict('
            "type='BN') and hyper_cfg=dict(type='BHN'); for BHN everywhere, "
            "each with its own LSTM, use the toolbox's own backbone"
        )


def _stages(model: nn.Module) -> list[nn.Module]:
    if hasattr(model, 'res_layers'):
        return [getattr(model, name) for name in model.res_layers]
    *stages, _ = model.layers  # ShuffleNetV2's last one is a convolution
    return stages


def _name_in(block: nn.Module, number: int) -> str | None:
    """The name of a norm in a block; None if it is not to be BHN."""
    name = getattr(block, f'norm{number}_name', None)
    if name is not None:
        return name
    if block.stride > 1:  # ShuffleNetV2
        return None
    convolution = block.branch2[number - 1]
    return f'branch2.{number - 1}.{convolution.norm_name}'


def _place(stage: nn.Module, cfg: dict) -> None:
    """Put BHN layers that share an LSTM where they belong."""
    norms = []
    for block, name in zip(stage, stage.hyper_names):
        if name is None:
            continue
        width = num_channels(block.get_submodule(name))
        _, norm = build_norm_layer(cfg, width)
        if not isinstance(norm, BHN):
            raise ValueError(
                f'hyper_cfg={cfg} gives {type(norm).__name__}: set its type '
                "to 'BHN' or 'SyncBHN'"
            )
        parent, _, last = name.rpartition('.')
        setattr(block.get_submodule(parent), last, norm)
        norms.append(norm)
    share_among(norms)


register('BHNResNet', BHNBackbone)
register('BHNResNeXt', BHNBackbone, 'ResNeXt')
register('BHNSEResNet', BHNBackbone, 'SEResNet', ['mmpretrain'])
register('BHNShuffleNetV2', BHNBackbone, 'ShuffleNetV2', ['mmpretrain'])
