# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Keys and shapes of the public segmentation decoder.

One 3 x 3 convolution with norm and a classifier, and the same again on
layer3 for deep supervision. The encoder's files are plain ResNets.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sn_mm.utils.errors import CheckpointError

from .entries import Entry, NormKind, conv, norm
from .resnet import Shapes, norm_kind

# public convolution, target, public classifier
_HEADS = (
    ('cbr', 'decode_head', 'conv_last'),
    ('cbr_deepsup', 'auxiliary_head', 'conv_last_deepsup'),
)


def decoder_entries(params: dict[str, Any]) -> Iterator[Entry]:
    """Params as :func:`decoder_params` gives; convs first, as in the file."""
    kind = NormKind(params['ratios'])
    for (public, target, _), inputs in zip(_HEADS, params['inputs']):
        if inputs:
            yield from conv(
                f'{public}.0',
                f'{target}.convs.0.conv',
                params['dim'],
                inputs,
                3,
                3,
            )
            yield from norm(
                f'{public}.1', f'{target}.convs.0.sn', params['dim'], kind
            )
    for (_, target, public), inputs in zip(_HEADS, params['inputs']):
        if inputs:
            yield from conv(
                public,
                f'{target}.conv_seg',
                params['num_classes'],
                params['dim'],
                1,
                1,
                bias=True,
            )


def decoder_params(shapes: Shapes) -> dict[str, Any]:
    """Of :func:`decoder_entries`: sizes that only the file knows."""
    if 'conv_last.weight' not in shapes:
        raise CheckpointError(
            'conv_last.weight is missing: the file is '
            'incomplete, or not the c1 decoder'
        )
    dim, inputs = (int(n) for n in shapes['cbr.0.weight'][:2])
    deep = shapes.get('cbr_deepsup.0.weight', (0, 0))
    return dict(
        ratios=norm_kind(shapes, 'cbr.1').ratios,
        dim=dim,
        inputs=[inputs, int(deep[1])],
        num_classes=int(shapes['conv_last.weight'][0]),
    )
