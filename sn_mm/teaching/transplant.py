# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Teach a network with other norms to give what a BN network gives.

The student, its norms in training mode, is to give the outputs that the
teacher gives in evaluation mode: squared error over the teacher's mean
square, summed over outputs. No label is read.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sn_mm.anatomy import find_norms
from sn_mm.recalibrate.restored import restored_random_state
from sn_mm.utils import check_count, progress_bar, unwrapped

from .batches import device_of, endless, prepared
from .course import Course
from .measures import Agreement, measure, relative_errors
from .outputs import check_parts, run_taught, run_teacher, taught_modules
from .rois import Regions

# measured on two backbones: docs/from_bn.md
STEPS = 400
LR = 3e-3
# of the rate of norms, what other weights get: they are trained already
OTHERS = 0.1
# how often a transplant is measured and its state is kept
MEASURED = 10
# batches that are measured with where none are held out
_FIRST = 8


class TransplantError(ValueError):
    """A transplant that did no good; the message says why."""


@dataclass
class Transplant:
    """What :func:`transplant` did.

    Attributes:
        before: agreement of each output at the beginning, on the pictures
            held out.
        after: of the best state, which the student now has.
        steps: that were taught.
        best: step of the best state.
        names: of the outputs, in the order of the numbers below.
        taught: errors of each step on the batch taught with, by output.
        held_out: step, and error on the pictures held out, by output.
    """

    before: list[Agreement]
    after: list[Agreement]
    steps: int
    best: int
    names: list[str] = field(default_factory=list)
    taught: list[list[float]] = field(default_factory=list)
    held_out: list[tuple[int, list[float]]] = field(default_factory=list)

    def rows(self) -> list[tuple[str, ...]]:
        """Cells of a table: output, cosine and error, before and after."""
        return [
            (
                b.output,
                f'{b.cosine:.3f}',
                f'{a.cosine:.3f}',
                f'{b.error:.3f}',
                f'{a.error:.3f}',
            )
            for b, a in zip(self.before, self.after)
        ]


ROWS_HEAD = ('output', 'cosine before', 'after', 'error before', 'after')


def transplant(
    student: nn.Module,
    teacher: nn.Module,
    batches: Iterable[Any],
    parts: str | Sequence[str] = 'backbone',
    held_out: Iterable[Any] | None = None,
    steps: int = STEPS,
    lr: float = LR,
    norms_only: bool = False,
    amp: bool = False,
    seed: int = 0,
    state_file: str | Path | None = None,
    notes: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> Transplant:
    """Teach ``student``, in place, the outputs of ``teacher``.

    Both are the same network but for their norms; the student's weights
    should be the teacher's, and its ratios equal
    (:func:`.teacher.make_teacher` gives such a pair). Adam, its rate ``lr``
    for norms and ratios and a tenth of that for other weights, on a cosine
    to 0. What is frozen in the student stays frozen, and norms that its
    ``train()`` leaves in evaluation mode stay there; dropout is off.

    Args:
        student: any module that takes a batch of pictures and returns one
            tensor or several; a detector, segmentor or classifier of the
            toolboxes is run part by part.
        teacher: with the same outputs. Not changed.
        batches: tensors (N, C, H, W), or what the toolboxes' pipelines give
            (``dict(inputs=..., data_samples=...)``), in a list or another
            iterable that can be read more than once. N should be that of
            the training to come: the batch's statistics are as noisy.
        parts: of a toolbox's model: 'backbone', ('backbone', 'neck'), or
            'all': the neck's levels and the heads' raw maps as well. A RoI
            head sees the teacher's proposals in both networks.
        held_out: batches to measure with, in evaluation mode, 10 times on
            the way; they decide which state is the best. Default: the first
            8 batches.
        steps: batches to teach with.
        lr: rate of norms and ratios.
        norms_only: leave all other weights as they are.
        amp: run both networks in half precision, on a GPU.
        seed: of the random state that batches and layers draw from.
        state_file: where the state is kept on the way. If the file is there,
            the transplant goes on from it. Delete it when the student is
            saved.
        notes: what else must be the same to go on from ``state_file``.
        progress: show a bar.

    Returns:
        The account. The student has the best state, and the mode that it
        had before.

    Raises:
        ValueError: unknown parts, no batch, nothing to train, outputs that
            do not match, a state file of another transplant.
        TransplantError: no state was better than the beginning, or errors
            became infinite; the student is as at the beginning.

    Example:
        >>> import copy, torch, sn_mm
        >>> from torch import nn
        >>> pictures = [torch.rand(2, 3, 4, 4).repeat_interleave(4, 3)
        ...             for _ in range(8)]
        >>> teacher = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))
        >>> for batch in pictures * 5:
        ...     _ = teacher(batch)
        >>> student = sn_mm.convert_norm(copy.deepcopy(teacher), 'SN')
        >>> done = sn_mm.transplant(
        ...     student, teacher, pictures, steps=50, progress=False)
        >>> done.after[0].error < done.before[0].error
        True
    """
    check_count('steps', steps)
    if not lr > 0:
        raise ValueError(f'lr must be above 0, got {lr}')
    parts = check_parts(parts)
    student, teacher = unwrapped(student), unwrapped(teacher)
    modules = taught_modules(student, parts)
    course = Course(
        nn.ModuleDict({_key(name): m for name, m in modules.items()}),
        dict(
            parts=list(parts),
            steps=steps,
            lr=lr,
            norms_only=norms_only,
            seed=seed,
            **(notes or {}),
        ),
    )
    with (
        restored_random_state(),
        _steady_kernels(),
        _modes_kept(student, teacher),
    ):
        torch.manual_seed(seed)
        student.train()  # some backbones freeze stages only now
        if held_out is None:
            held_out = list(islice(endless(batches), _FIRST))
        teacher.eval()
        optimizer = _optimizer(course.modules, lr, norms_only)
        if state_file is not None and Path(state_file).exists():
            course.load(state_file, optimizer)
        else:
            _measured(course, student, teacher, held_out, parts)
        _teach(
            course, optimizer, student, teacher, batches, held_out, parts,
            amp=amp, state_file=state_file, progress=progress,
        )  # fmt: skip
        course.take_best()
        student.eval()
        after = measure(student, teacher, held_out, parts)
    return _account(course, after)


def _account(course: Course, after: list[Agreement]) -> Transplant:
    if not course.best:
        raise TransplantError(
            'no state on the way was more like the teacher than the '
            f'beginning: the error is {_total(course.before):.3g} there and '
            f'{min(sum(e) for _, e in course.held_out[1:]):.3g} at best '
            'after. Try a smaller lr or more steps, or norms_only; where the '
            'two are alike from the beginning, nothing is to be taught'
        )
    return Transplant(
        before=[Agreement(*a) for a in course.before],
        after=after,
        steps=course.step,
        best=course.best,
        names=[a[0] for a in course.before],
        taught=course.taught,
        held_out=[(step, list(e)) for step, e in course.held_out],
    )


def _total(agreements: Iterable[Sequence]) -> float:
    return sum(a[2] for a in agreements)


def _key(name: str) -> str:
    """A ModuleDict takes no empty name."""
    return name or 'model'


# -- one step after another --
def _teach(
    course: Course,
    optimizer: torch.optim.Optimizer,
    student: nn.Module,
    teacher: nn.Module,
    batches: Iterable[Any],
    held_out: Iterable[Any],
    parts: Sequence[str],
    amp: bool,
    state_file: str | Path | None,
    progress: bool,
) -> None:
    steps = course.settings['steps']
    rates = [group['lr'] for group in optimizer.param_groups]
    interval = max(1, steps // MEASURED)
    scaler = _scaler() if amp else None
    _teaching_mode(student)
    with progress_bar('transplant', steps, progress) as advance:
        advance(course.step)
        for batch in islice(
            endless(batches, course.step), steps - course.step
        ):
            factor = 0.5 * (1 + math.cos(math.pi * course.step / steps))
            for group, rate in zip(optimizer.param_groups, rates):
                group['lr'] = rate * factor
            errors = _step(
                student, teacher, batch, parts, optimizer, amp, scaler
            )
            course.note(errors)
            advance()
            if course.step % interval == 0 or course.step == steps:
                _measured(course, student, teacher, held_out, parts)
                if state_file is not None:
                    course.save(state_file, optimizer, rates)
                _teaching_mode(student)


def _scaler():
    """Of losses, against underflow; torch below 2.3 has it elsewhere."""
    if hasattr(torch.amp, 'GradScaler'):
        return torch.amp.GradScaler('cuda')
    return torch.cuda.amp.GradScaler()


def _step(
    student: nn.Module,
    teacher: nn.Module,
    batch: Any,
    parts: Sequence[str],
    optimizer: torch.optim.Optimizer,
    amp: bool,
    scaler: Any,
) -> dict[str, float]:
    batch, regions = prepared(student, batch), Regions()
    with torch.autocast(device_of(student).type, enabled=amp):
        want = run_teacher(teacher, batch, parts, regions)
        got = run_taught(student, batch, parts, regions)
    errors = relative_errors(got, want)
    loss = sum(errors.values())
    optimizer.zero_grad()
    if scaler is None:
        loss.backward()
        optimizer.step()
    else:
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
    return {name: float(error.detach()) for name, error in errors.items()}


def _measured(
    course: Course,
    student: nn.Module,
    teacher: nn.Module,
    held_out: Iterable[Any],
    parts: Sequence[str],
) -> None:
    """Measure, and keep the state if it is the best so far."""
    student.eval()
    agreements = measure(student, teacher, held_out, parts)
    if not agreements:
        raise ValueError('held_out has no batch to measure with')
    total = _total(agreements)
    if not math.isfinite(total):
        course.take_best()
        raise TransplantError(
            f'the error is not finite after {course.step} steps: take a '
            'smaller lr'
        )
    course.keep(agreements)


# -- modes, parameters --
def _teaching_mode(student: nn.Module) -> None:
    """Norms as in training, all else as in evaluation.

    Dropout would teach noise, and some heads give other numbers in training
    mode than those that the teacher gives.
    """
    student.train()
    training = [m for m in _inside_norms(student) if m.training]
    student.eval()
    for module in training:
        module.training = True


def _inside_norms(model: nn.Module) -> list[nn.Module]:
    """Norm layers, and the layers that they are made of."""
    norms = find_norms(model).values()
    return list(dict.fromkeys(m for norm in norms for m in norm.modules()))


def _optimizer(
    modules: nn.Module, lr: float, norms_only: bool
) -> torch.optim.Optimizer:
    """Adam over what trains."""
    in_norms = {p for m in _inside_norms(modules) for p in m.parameters()}
    trains = [p for p in modules.parameters() if p.requires_grad]
    norms = [p for p in trains if p in in_norms]
    others = [p for p in trains if p not in in_norms]
    if not norms:
        raise ValueError(
            'no norm layer of the taught parts trains: nothing to transplant '
            'into'
        )
    groups = [dict(params=norms, lr=lr)]
    if others and not norms_only:
        groups.append(dict(params=others, lr=lr * OTHERS))
    return torch.optim.Adam(groups)


@contextmanager
def _modes_kept(*models: nn.Module) -> Iterator[None]:
    modes = [(m, m.training) for model in models for m in model.modules()]
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def _steady_kernels() -> Iterator[None]:
    """The same convolution kernels in every run, so that runs are equal."""
    cudnn = torch.backends.cudnn
    before = cudnn.deterministic, cudnn.benchmark
    cudnn.deterministic, cudnn.benchmark = True, False
    try:
        yield
    finally:
        cudnn.deterministic, cudnn.benchmark = before
