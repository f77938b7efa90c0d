# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Keys and shapes of a public post-activation ResNet with SN or SSN."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sn_mm.utils.errors import CheckpointError

from .entries import Entry, NormKind, conv, norm

# depth: (blocks per stage, bottleneck)
DEPTHS = {
    18: ((2, 2, 2, 2), False),
    34: ((3, 4, 6, 3), False),
    50: ((3, 4, 6, 3), True),
    101: ((3, 4, 23, 3), True),
    152: ((3, 8, 36, 3), True),
}
STAGES = (1, 2, 3, 4)
Shapes = Mapping[str, Sequence[int]]


def stem(public: str, kind: NormKind) -> Iterator[Entry]:
    """The 7 x 7 convolution and its norm; ``public`` is their prefix."""
    yield from conv(f'{public}conv1', 'backbone.conv1', 64, 3, 7, 7)
    yield from norm(f'{public}sn1', 'backbone.sn1', 64, kind)


def stage(
    public: str, target: str, number: int, depth: int, kind: NormKind
) -> Iterator[Entry]:
    """Stage ``number`` (1 to 4), ``public`` and ``target`` being its names."""
    blocks, bottleneck = DEPTHS[depth]
    expansion = 4 if bottleneck else 1
    width = 64 * 2 ** (number - 1)
    out = width * expansion
    into = 64 if number == 1 else out // 2
    for i in range(blocks[number - 1]):
        yield from _block(
            f'{public}.{i}',
            f'{target}.{i}',
            into,
            width,
            out,
            bottleneck,
            kind,
        )
        into = out


def _block(
    public: str,
    target: str,
    into: int,
    width: int,
    out: int,
    bottleneck: bool,
    kind: NormKind,
) -> Iterator[Entry]:
    if bottleneck:
        convs = ((width, into, 1), (width, width, 3), (out, width, 1))
    else:
        convs = ((width, into, 3), (width, width, 3))
    for i, (outputs, inputs, size) in enumerate(convs, 1):
        yield from conv(
            f'{public}.conv{i}',
            f'{target}.conv{i}',
            outputs,
            inputs,
            size,
            size,
        )
        yield from norm(f'{public}.sn{i}', f'{target}.sn{i}', outputs, kind)
    if into != out:
        yield from conv(
            f'{public}.downsample.0', f'{target}.downsample.0', out, into, 1, 1
        )
        yield from norm(
            f'{public}.downsample.1', f'{target}.downsample.1', out, kind
        )


def classifier(public: str, num_classes: int, depth: int) -> Iterator[Entry]:
    """The ImageNet classifier."""
    width = 2048 if DEPTHS[depth][1] else 512
    yield from conv(public, 'fc', num_classes, width, bias=True)


# -- recognition --
def norm_kind(shapes: Shapes, layer: str) -> NormKind:
    """Of the norm called ``layer`` in the file, taken for all."""
    shape = tuple(shapes.get(f'{layer}.mean_weight', ()))
    if shape not in ((2,), (3,)):
        found = f'has shape {shape}' if shape else 'is missing'
        raise CheckpointError(
            f'{layer}.mean_weight {found}; a public SN checkpoint has three '
            "ratios ('in', 'ln', 'bn') or two ('in', 'ln')"
        )
    return NormKind(shape[0], f'{layer}.mean_fixed' in shapes)


def resnet_params(shapes: Shapes, prefix: str) -> dict[str, Any]:
    """Sizes of a plain ResNet whose keys start with ``prefix``."""
    kind = norm_kind(shapes, f'{prefix}sn1')
    return dict(
        prefix=prefix,
        depth=infer_depth(shapes, {i: f'{prefix}layer{i}' for i in STAGES}),
        ratios=kind.ratios,
        sparse=kind.sparse,
        fc=int(shapes.get(f'{prefix}fc.weight', (0,))[0]),
    )


def infer_depth(shapes: Shapes, stages: Mapping[int, str]) -> int:
    """The depth whose blocks these are.

    Args:
        shapes: of the file.
        stages: public name of every stage that the file should have.

    Raises:
        CheckpointError: no ResNet has these blocks.
    """
    counts = []
    for name in stages.values():
        pattern = re.compile(re.escape(name) + r'\.(\d+)\.')
        found = {int(m.group(1)) for m in map(pattern.match, shapes) if m}
        counts.append(max(found, default=-1) + 1)
    first = f'{next(iter(stages.values()))}.0'
    bottleneck = f'{first}.conv3.weight' in shapes
    wanted = [i - 1 for i in stages]
    for depth, (blocks, is_bottleneck) in DEPTHS.items():
        if bottleneck == is_bottleneck and counts == [
            blocks[i] for i in wanted
        ]:
            return depth
    kind = 'bottleneck' if bottleneck else 'basic'
    raise CheckpointError(
        f'{kind} blocks per stage {tuple(counts)} '
        f'({", ".join(stages.values())}) match no ResNet of depth '
        f'{", ".join(map(str, DEPTHS))}: the file is incomplete, or from '
        'another network'
    )
