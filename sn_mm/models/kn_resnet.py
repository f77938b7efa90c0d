# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""ResNets with Kalman Normalization: backbones that relay moments.

Registers ``KNResNet`` in whichever of mmdet, mmseg, mmpretrain is there.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial

import torch
from mmcv.cnn.bricks import wrappers
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from sn_mm.functional.kalman import expected_prediction, sampled_prediction
from sn_mm.functional.statistics import Moments
from sn_mm.layers.kalman import KN, MapMoments
from sn_mm.layers.relay import Relay, relaying

from .derived import derived, register

PREDICTIONS = ('sample', 'closed_form')
_PLAIN = (nn.Conv2d.forward, wrappers.Conv2d.forward)


class KNResNet:
    """The toolbox's ResNet with KN, whose norms pass moments along.

    Wang et al., "Kalman Normalization", NeurIPS 2018, as its public code
    computes it: a norm's mixed moments, those before it normalizes, are
    taken through ReLU and the convolution behind it (its own weights, stride
    and padding), which predicts the moments of the next norm. Residual sums
    add means and variances.

    The paper's blocks are pre-activation ones without a pooling stem. In
    the toolboxes' blocks a norm stands before the sum and a ReLU behind it.
    What is relayed there is ours: the moments of the residual sum before
    its ReLU, which are those that the block's last norm and its shortcut
    (its norm, or the sum before) relay, added. Max-pooling passes on what
    the stem's norm relays.

    Predictions are made in training alone, for norms that take the batch's
    moments. State dicts are those of the toolbox's ResNet with BN.

    Args:
        args, kwargs: of the toolbox's ResNet; ``norm_cfg`` is
            ``dict(type='KN')`` by default. No ``plugins``.
        prediction: 'sample' draws one map of standard normal noise for each
            prediction, as the public code does; 'closed_form' takes
            expectations, without noise and with less arithmetic, which is
            not published.

    Raises:
        ValueError: for another norm than KN, for plugins, for convolutions
            that are no plain ones with 'closed_form', or for an unknown
            ``prediction``.
    """

    def __init__(self, *args, prediction: str = 'sample', **kwargs) -> None:
        if prediction not in PREDICTIONS:
            raise ValueError(
                f'unknown prediction {prediction!r}; choose from {PREDICTIONS}'
            )
        kwargs.setdefault('norm_cfg', dict(type='KN', requires_grad=True))
        super().__init__(*args, **kwargs)
        self.prediction = prediction
        self._check()
        for stage in self._stages():
            stage.__class__ = derived(KNStage, type(stage))
            stage.predict = PREDICT[prediction]
            for block in stage:  # this class's affair, see KNStage
                stage.recomputes, block.with_cp = self.with_cp, False

    def forward(self, x: Tensor):
        """Features of the stages, as the toolbox's."""
        norms = (norm for _, norm in self._pairs())
        if not (self.training and all(isinstance(n, KN) for n in norms)):
            return super().forward(x)  # folded or converted ones, too
        predict = PREDICT[self.prediction]
        with ExitStack() as stack:
            last = None
            for conv, norm in _stem_pairs(self):
                given = None if last is None else partial(predict, conv, last)
                last = stack.enter_context(relaying(norm, given))
            for stage in self._stages():
                last = stack.enter_context(relaying(stage, last))
            return super().forward(x)

    def _stages(self) -> list[nn.Module]:
        return [getattr(self, name) for name in self.res_layers]

    def _pairs(self) -> Iterator[tuple[nn.Module, nn.Module]]:
        """Every convolution with the norm behind it."""
        yield from _stem_pairs(self)
        for stage in self._stages():
            for block in stage:
                yield from _block_pairs(block)
                yield from _shortcut_pairs(block)

    def _check(self) -> None:
        """Raise for what cannot relay; tell the norms who relays."""
        for block in (block for stage in self._stages() for block in stage):
            if getattr(block, 'with_plugins', False):
                raise ValueError(
                    'KNResNet cannot predict moments through plugins: leave '
                    "plugins out, or use type='ResNet', where KN is its "
                    'first-layer form'
                )
        for i, (conv, norm) in enumerate(self._pairs()):
            if not isinstance(norm, KN):
                raise ValueError(
                    f'KNResNet relays moments between KN layers, but norm_cfg '
                    f'gives {type(norm).__name__}: set norm_cfg=dict(type='
                    "'KN') or dict(type='SyncKN'), or use type='ResNet'"
                )
            if (
                self.prediction != 'sample'
                and type(conv).forward not in _PLAIN
            ):
                raise ValueError(
                    f"prediction='closed_form' knows plain convolutions, not "
                    f"{type(conv).__name__}: use prediction='sample'"
                )
            norm.is_first, norm.is_relayed = i == 0, i > 0


class KNStage:
    """A stage of :class:`KNResNet`: takes x, and moments by its relay."""

    relay = None
    recomputes = False  # with_cp

    def forward(self, x: Tensor) -> Tensor:
        """The stage's features; without a relay, each norm on its own."""
        if self.relay is None:
            return super().forward(x)
        mean, var, _ = self.relay.given.left
        for block in self:
            run = partial(run_block, block, self.predict)
            if self.recomputes and x.requires_grad:
                run = partial(checkpoint, run, use_reentrant=False)
            x, mean, var = run(x, mean, var)
        self.relay.left = MapMoments(mean, var, x.shape[2:])
        return x


def run_block(
    block: nn.Module, predict, x: Tensor, mean: Tensor, var: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """A residual block, its norms given what is predicted for them.

    Args:
        block: of the toolbox.
        predict: one of :data:`PREDICT`.
        x: (N, C, H, W).
        mean, var: (C,), of x before its ReLU.

    Returns:
        The block's output, and mean and variance (C_out,) of the residual
        sum before its ReLU.
    """
    start = Relay()
    start.left = MapMoments(mean, var, x.shape[2:])
    with ExitStack() as stack:

        def relayed(pairs: Iterator, last: Relay) -> Relay:
            for conv, norm in pairs:
                given = partial(predict, conv, last)
                last = stack.enter_context(relaying(norm, given))
            return last

        branch = relayed(_block_pairs(block), start)
        shortcut = relayed(_shortcut_pairs(block), start)
        y = block(x)
    (mean, var, _), (other_mean, other_var, _) = branch.left, shortcut.left
    return y, mean + other_mean, var + other_var


# -- which convolution is before which norm ------------------------------
def _stem_pairs(model: nn.Module) -> Iterator[tuple[nn.Module, nn.Module]]:
    if not model.deep_stem:
        yield model.conv1, model.norm1
        return
    layers = list(model.stem)
    yield from zip(layers[::3], layers[1::3])  # a ReLU is the third


def _block_pairs(block: nn.Module) -> Iterator[tuple[nn.Module, nn.Module]]:
    number = 1
    while hasattr(block, f'conv{number}'):
        yield getattr(block, f'conv{number}'), getattr(block, f'norm{number}')
        number += 1


def _shortcut_pairs(block: nn.Module) -> Iterator[tuple[nn.Module, nn.Module]]:
    if block.downsample is not None:  # perhaps with a pooling in front
        *_, conv, norm = block.downsample
        yield conv, norm


# -- prediction ----------------------------------------------------------
def _predict_by_sample(conv: nn.Module, source: Relay) -> Moments:
    mean, var, extent = source.left
    like = next(conv.parameters())
    noise = torch.randn(
        1, len(mean), *extent, dtype=like.dtype, device=like.device
    )
    # not conv(...), whose hooks are for the network's features
    return sampled_prediction(
        conv.forward, mean.to(like.dtype), var.to(like.dtype), noise
    )


def _predict_in_closed_form(conv: nn.Module, source: Relay) -> Moments:
    return expected_prediction(conv, source.left.mean, source.left.var)


PREDICT = dict(sample=_predict_by_sample, closed_form=_predict_in_closed_form)

register('KNResNet', KNResNet)
