# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""How much alike two networks are, output by output."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .batches import images_in, prepared
from .outputs import Outputs, run_taught, run_teacher
from .rois import Regions


class Agreement(NamedTuple):
    """Of one output, a student with its teacher.

    Attributes:
        output: its name.
        cosine: of the flattened outputs of a picture, mean over pictures.
        error: squared error over the teacher's mean square, mean over
            pictures.
    """

    output: str
    cosine: float
    error: float


def relative_error(got: Tensor, want: Tensor) -> Tensor:
    """Squared error over the mean square of ``want``: 0 is alike, () tensor.

    Sums are float32 also under autocast.
    """
    got, want = got.float(), want.float()
    square = want.square().mean().clamp(min=torch.finfo(want.dtype).tiny)
    return (got - want).square().mean() / square


def relative_errors(got: Outputs, want: Outputs) -> dict[str, Tensor]:
    """:func:`relative_error` of each output; empty ones have none.

    Raises:
        ValueError: unless both networks give the same kind of outputs.
    """
    _check_alike(got, want)
    return {
        name: relative_error(got[name], value)
        for name, value in want.items()
        if value.numel()
    }


def _check_alike(got: Outputs, want: Outputs) -> None:
    shapes = [
        {name: tuple(value.shape) for name, value in outputs.items()}
        for outputs in (got, want)
    ]
    if not shapes[0]:
        raise ValueError('the student gives no floating point tensor')
    if shapes[0] != shapes[1]:
        name = next(
            n
            for n in {**shapes[0], **shapes[1]}
            if shapes[0].get(n) != shapes[1].get(n)
        )
        raise ValueError(
            f'student and teacher differ in more than norms: {name} is '
            f'{shapes[0].get(name, "missing")} of the student and '
            f'{shapes[1].get(name, "missing")} of the teacher'
        )


def cosine(got: Tensor, want: Tensor, images: int) -> float:
    """Cosine of ``got`` and ``want``, flattened per picture, averaged."""
    got, want = got.detach().float(), want.float()
    if want.shape[0] == images:
        return float(
            F.cosine_similarity(got.flatten(1), want.flatten(1)).mean()
        )
    return float(F.cosine_similarity(got.flatten(), want.flatten(), 0))


@torch.no_grad()
def measure(
    student: nn.Module,
    teacher: nn.Module,
    batches: Iterable[Any],
    parts: Sequence[str],
) -> list[Agreement]:
    """Agreement of every output; both networks in the modes they are in."""
    cosines: dict[str, list[float]] = {}
    errors: dict[str, list[float]] = {}
    for batch in batches:
        batch, regions = prepared(student, batch), Regions()
        want = run_teacher(teacher, batch, parts, regions)
        got = run_taught(student, batch, parts, regions)
        images = images_in(batch)
        for name, error in relative_errors(got, want).items():
            errors.setdefault(name, []).append(float(error))
            alike = cosine(got[name], want[name], images)
            cosines.setdefault(name, []).append(alike)
    return [
        Agreement(name, _mean(cosines[name]), _mean(errors[name]))
        for name in errors
    ]


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
