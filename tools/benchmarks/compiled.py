# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""What torch.compile makes of a backbone, norm by norm."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from sn_mm.utils import progress_bar

from .layers import check_norms
from .steps import NORM_CFGS
from .timing import runs, time_together

WITHOUT = 'no norm'


def benchmark_compiled(
    norms: Sequence[str],
    *,
    training: bool = True,
    size: int = 384,
    images: int = 2,
    device: str = 'cpu',
    repeats: int = 11,
    backend: str = 'inductor',
) -> list[dict]:
    """Time ResNet-18 as it is and compiled, with every norm and without any.

    Args:
        norms: names out of :data:`.steps.NORM_CFGS`, or 'no
            norm': what the compiler does to the rest of the network.
        training: time steps of forward, backward and SGD in training mode,
            else the forward in evaluation mode.
        size: height and width of the images, pixels.
        images: batch size.
        device, repeats: as for the layers.
        backend: of torch.compile.

    Returns:
        One dict per norm: ``norm``, ``ms`` as it is, ``compiled_ms``.

    Raises:
        ValueError: for an unknown norm.
    """
    check_norms(norms, (*NORM_CFGS, WITHOUT))
    x = torch.randn(images, 3, size, size, device=device)
    candidates = {}
    for name in norms:
        model = _backbone(name).to(device)
        model.train(training)
        compiled = torch.compile(model, backend=backend)
        for kind, call in (('ms', model), ('compiled_ms', compiled)):
            candidates[name, kind] = _run(model, call, x, training)
    total = runs(len(candidates), repeats)
    with progress_bar('compiled', total) as advance:
        times = time_together(candidates, repeats, x.device, advance=advance)
    return [
        dict(norm=n, **{k: times[n, k] for k in ('ms', 'compiled_ms')})
        for n in norms
    ]


def _backbone(norm: str) -> nn.Module:
    from mmdet.models import ResNet

    torch.manual_seed(0)
    cfg = NORM_CFGS.get(norm, NORM_CFGS['BN'])
    model = ResNet(18, norm_cfg=cfg, norm_eval=False, frozen_stages=-1)
    if norm == WITHOUT:
        for parent in list(model.modules()):
            for name, child in list(parent.named_children()):
                if isinstance(child, nn.BatchNorm2d):
                    setattr(parent, name, nn.Identity())
        for p in model.parameters():
            p.data *= 0.5  # or values grow from layer to layer
    return model


def _run(
    model: nn.Module, call: Callable, x: Tensor, training: bool
) -> Callable[[], None]:
    """What is timed; both calls train the same parameters."""
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9)

    def step():
        optimizer.zero_grad()
        sum(out.square().mean() for out in call(x)).backward()
        optimizer.step()

    def forward():
        with torch.no_grad():
            call(x)

    return step if training else forward
