# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""How far a transplant has come: steps, errors, the best state."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sn_mm.utils import written_whole


class Course:
    """What has to be kept to go on after an interruption.

    Args:
        modules: that are taught.
        settings: of the transplant: text, numbers, lists of them.

    Attributes:
        step: number of steps done.
        before: (output, cosine, error) of each output at the beginning.
        taught: errors of every step, by output.
        held_out: steps that were measured at, and the errors there.
        best: step of the best state.
        state: the modules' state dict then.
    """

    def __init__(
        self, modules: nn.Module, settings: Mapping[str, Any]
    ) -> None:
        self.modules = modules
        self.settings = dict(settings)
        self.step = 0
        self.before: list[tuple[str, float, float]] = []
        self.taught: list[list[float]] = []
        self.held_out: list[tuple[int, list[float]]] = []
        self.best = 0
        self.state: dict[str, Tensor] = {}

    def note(self, errors: Mapping[str, float]) -> None:
        """Count one step; an output that was empty in it has no error."""
        nan = float('nan')
        self.taught.append([errors.get(a[0], nan) for a in self.before])
        self.step += 1

    def keep(self, agreements: Sequence[tuple[str, float, float]]) -> None:
        """Note what was measured, and the state if it is the best so far."""
        errors = [a[2] for a in agreements]
        if not self.held_out:
            self.before = [tuple(a) for a in agreements]
        if all(sum(errors) < sum(e) for _, e in self.held_out):
            self.best = self.step
            self.state = _copied(self.modules.state_dict())
        self.held_out.append((self.step, errors))

    def take_best(self) -> None:
        """Give the modules the best state."""
        if self.state:
            self.modules.load_state_dict(self.state)

    def save(
        self,
        path: str | Path,
        optimizer: torch.optim.Optimizer,
        rates: Iterable[float],
    ) -> None:
        """Write all of it, whole or not at all."""
        adam = optimizer.state_dict()
        for group, rate in zip(adam['param_groups'], rates):
            group['lr'] = rate  # of the beginning, as a new optimizer has it
        content = dict(
            settings=self.settings,
            step=self.step,
            before=self.before,
            taught=self.taught,
            held_out=self.held_out,
            best=self.best,
            best_state=self.state,
            state=_copied(self.modules.state_dict()),
            optimizer=adam,
        )
        with written_whole(path) as temporary:
            torch.save(content, temporary)

    def load(self, path: str | Path, optimizer: torch.optim.Optimizer) -> None:
        """Go on from what :meth:`save` wrote.

        Raises:
            ValueError: not such a file, or one of other settings; nothing
                is changed.
        """
        content = _read(Path(path))
        for name, value in self.settings.items():
            found = content['settings'].get(name)
            if found != value:
                raise ValueError(
                    f'{path} is of a transplant with {name}={found!r}, not '
                    f'{value!r}: go on with the same settings, or remove the '
                    'file to begin anew'
                )
        self.modules.load_state_dict(content['state'])
        optimizer.load_state_dict(content['optimizer'])
        self.step, self.best = content['step'], content['best']
        self.before = content['before']
        self.taught, self.held_out = content['taught'], content['held_out']
        self.state = _copied(content['best_state'])


def _read(path: Path) -> dict[str, Any]:
    try:
        content = torch.load(path, map_location='cpu', weights_only=True)
    except Exception as error:  # torch raises whatever its parsers raise
        raise ValueError(
            f'{path} cannot be read: remove it to begin anew'
        ) from error
    if not isinstance(content, dict) or 'best_state' not in content:
        raise ValueError(
            f'{path} is not the state of a transplant: name another file'
        )
    return content


def _copied(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key: value.detach().clone() for key, value in state.items()}
