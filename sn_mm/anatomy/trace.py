# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""What reaches every norm layer of a model: recorded, not guessed.

The model runs on an example image while every operation passes by here. That
tells which convolution a norm follows and who else reads its output, how far
the norm's positions see, and how large its map is.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten
from torch.utils.weak import WeakTensorKeyDictionary

from .example import run_example
from .fields import Field, image_field, output_field

# Layers that a following affine map can be folded into.
SOURCES = (nn.modules.conv._ConvNd, nn.Linear)


@dataclass
class NormTrace:
    """What a norm layer was seen to be given.

    Attributes:
        receptive_field: pixels, the larger side; infinite for the whole
            image, None where it is that of a RoI.
        positions: S of the smallest map; 1 means no spatial extent.
        elements: total elements of its inputs for one image.
        kernel: of the convolution it follows, such as (3, 3); None where it
            follows none.
        source: the name of that convolution; None also where somebody else
            reads its output, or where it differs from call to call.
        obstacle: why there is no source.
    """

    receptive_field: float | None = None
    positions: int = 0
    elements: int = 0
    kernel: tuple[int, ...] | None = None
    source: str | None = None
    obstacle: str = ''


def trace_norms(
    model: nn.Module, norms: Mapping[str, nn.Module], size: int = 256
) -> dict[str, NormTrace]:
    """Run a model on an example image, and watch its norms.

    Args:
        model: as for :func:`run_example`; left as it was.
        norms: of the model, by name.
        size: height and width of the image, pixels.

    Returns:
        One entry for each norm that was run.

    Raises:
        ExampleError: if the model does not run on an image.
    """
    watch = _Watch()
    sources = {
        name: m for name, m in model.named_modules() if isinstance(m, SOURCES)
    }
    with _hooked(watch, norms, sources):
        with watch:
            outputs = run_example(model, size)
        watch.read_by_all(outputs)
    return {
        name: _summary(name, watch, sources)
        for name in norms
        if name in watch.calls
    }


@dataclass(eq=False)
class _Output:
    """One output of a convolution, and who read it."""

    source: str
    norms: set[str] = field(default_factory=set)
    others: int = 0


@dataclass
class _Call:
    """One call of a norm."""

    shape: tuple[int, ...]
    field: Field | None
    output: _Output | None


class _Watch(TorchDispatchMode):
    """Sees every operation; tensors carry fields and origins."""

    def __init__(self) -> None:
        super().__init__()
        self.fields = WeakTensorKeyDictionary()
        self.outputs = WeakTensorKeyDictionary()
        self.made: dict[str, list[_Output]] = {}
        self.calls: dict[str, list[_Call]] = {}
        self._inside = 0  # of norms and convolutions
        self._seen_image = False

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        name = func._schema.name.rpartition('::')[2]
        tensors = _tensors((args, kwargs or {}))
        if not self._inside:
            self._count_readers(tensors)
        if self._inside <= 1:
            self._move_fields(name, args, tensors, result)
        return result

    def _count_readers(self, tensors: list[Tensor]) -> None:
        for tensor in tensors:
            output = self.outputs.get(tensor)
            if output is not None:
                output.others += 1

    def _move_fields(self, name, args, tensors, result) -> None:
        known = [self.fields[t] for t in tensors if t in self.fields]
        if not known:
            return
        joined = known[0]
        for other in known[1:]:
            joined = joined.joined(other)
        if name == 'bmm' and len(known) < 2:
            name = 'mm'
        for output in _tensors(result):
            if output.is_floating_point():
                self.fields[output] = output_field(name, args, joined, output)

    def read_by_all(self, outputs) -> None:
        """What the model returns is read by whoever called it."""
        self._count_readers(_tensors(outputs))

    @contextmanager
    def inside(self, depth: int) -> Iterator[None]:
        """Operations of a norm (depth 2) or of a convolution (depth 1)."""
        before, self._inside = self._inside, max(self._inside, depth)
        try:
            yield
        finally:
            self._inside = before

    def run_source(self, name: str, forward, x: Tensor, args, kwargs):
        if not self._seen_image and x.dim() > 2:
            self._seen_image = True
            self.fields[x] = image_field(x.dim() - 2)
        read = self.outputs.get(x)
        if read is not None:
            read.others += 1
        with self.inside(1):
            y = forward(x, *args, **kwargs)
        self.outputs[y] = _Output(name)
        self.made.setdefault(name, []).append(self.outputs[y])
        return y

    def run_norm(self, name: str, forward, x: Tensor, args, kwargs):
        output = self.outputs.get(x)
        if output is not None:
            output.norms.add(name)
        call = _Call(tuple(x.shape), self.fields.get(x), output)
        self.calls.setdefault(name, []).append(call)
        with self.inside(2):
            y = forward(x, *args, **kwargs)
        if call.field is not None:
            self.fields[y] = call.field
        return y


@contextmanager
def _hooked(
    watch: _Watch,
    norms: Mapping[str, nn.Module],
    sources: Mapping[str, nn.Module],
) -> Iterator[None]:
    """Calls of some modules go through ``watch`` meanwhile."""
    replaced: list[tuple[nn.Module, object]] = []
    watched = [(watch.run_norm, norms), (watch.run_source, sources)]
    try:
        for run, modules in watched:
            for name, module in modules.items():
                replaced.append((module, vars(module).get('forward')))
                module.forward = _through(run, name, module.forward)
        yield
    finally:
        for module, before in reversed(replaced):
            del module.forward
            if before is not None:
                module.forward = before


def _through(run, name: str, forward):
    return lambda x, *args, **kwargs: run(name, forward, x, args, kwargs)


def _summary(
    name: str, watch: _Watch, sources: Mapping[str, nn.Module]
) -> NormTrace:
    calls = watch.calls[name]
    fields = [max(c.field.size) for c in calls if c.field is not None]
    made = NormTrace(
        receptive_field=max(fields) if fields else None,
        positions=min(math.prod(c.shape[2:]) for c in calls),
        elements=sum(math.prod(c.shape) for c in calls),
    )
    if 'roi_head' in name.split('.'):
        made.receptive_field = None
    outputs = [c.output for c in calls]
    origins = {o.source if o else None for o in outputs}
    if len(origins) > 1:
        made.obstacle = 'follows several layers'
        return made
    (origin,) = origins
    if origin is None:
        made.obstacle = 'follows no convolution'
        return made
    weight = getattr(sources[origin], 'weight', None)
    made.kernel = None if weight is None else tuple(weight.shape[2:]) or None
    others = [o for o in watch.made[origin] if o not in outputs]
    if any(o.others for o in outputs):
        made.obstacle = f'{origin} is read by others'
    elif others or any(o.norms != {name} for o in outputs):
        made.obstacle = f'{origin} serves several layers'
    else:
        made.source = origin
    return made


def _tensors(tree) -> list[Tensor]:
    leaves = tree_flatten(tree)[0]
    return [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
