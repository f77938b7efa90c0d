# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Keys and shapes of the released IBN-Nets, and their names.

XingangPan/IBN-Net, release v1.0: twelve files, flat state dicts of the bare
networks with their ImageNet classifiers.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sn_mm.utils import join_names
from sn_mm.utils.errors import CheckpointError

from .entries import Entry, conv
from .resnet import DEPTHS, STAGES, Shapes, infer_depth

REPOSITORY = 'XingangPan/IBN-Net'
# published name: first 8 digits of the file's SHA-256
RELEASED = {
    'resnet18_ibn_a': '2f571257',
    'resnet34_ibn_a': '94bc1577',
    'resnet50_ibn_a': 'd9d0bb7b',
    'resnet101_ibn_a': '59ea0ac6',
    'resnet18_ibn_b': 'bc2f3c11',
    'resnet34_ibn_b': '04134c37',
    'resnet50_ibn_b': '9ca61e85',
    'resnet101_ibn_b': 'c55f6dba',
    'resnext101_ibn_a': '6ace051d',
    'se_resnet101_ibn_a': 'fabed4e2',
    'densenet121_ibn_a': 'e4af5cc1',
    'densenet169_ibn_a': '9f32c161',
}
DENSE_BLOCKS = {121: (6, 12, 24, 16), 169: (6, 12, 32, 32)}
_A, _B = 'a', 'b'


def file_name(name: str) -> str | None:
    """The released file of a published name, with or without ``.pth``."""
    stem = name.removesuffix('.pth')
    digits = RELEASED.get(stem)
    return None if digits is None else f'{stem}-{digits}.pth'


def url_of(name: str) -> str | None:
    """Where a released file is published, by its published or file name."""
    file = file_name(name) or name
    if file not in map(file_name, RELEASED):
        return None
    return f'https://github.com/{REPOSITORY}/releases/download/v1.0/{file}'


# -- recognition --
def is_ibn_net(shapes: Shapes) -> bool:
    """Whether keys are of an IBN-Net, of any version."""
    return any('.IN.' in key or '.convbnin.' in key for key in shapes)


def ibn_params(shapes: Shapes) -> tuple[str, dict[str, Any]]:
    """Kind of the layout and its sizes.

    Raises:
        CheckpointError: the first, slower version of IBN-a, or blocks of no
            known network.
    """
    if any('.convbnin.' in key for key in shapes):
        raise CheckpointError(
            'this is the first, slower version of IBN-a (convbnin.*), whose '
            'first convolutions are split and whose halves are the other way '
            'round: the released files are of the second one; use such a '
            f'file (github.com/{REPOSITORY}, release v1.0)'
        )
    for prefix in ('', 'module.'):
        if f'{prefix}features.conv0.weight' in shapes:
            return 'ibn-densenet', _densenet_params(shapes, prefix)
        if f'{prefix}layer1.0.conv1.weight' in shapes:
            return 'ibn-resnet', _resnet_params(shapes, prefix)
    raise CheckpointError(
        'no released IBN-Net has these keys (layer1.0.conv1.weight, or '
        f'features.conv0.weight): {join_names(shapes)}'
    )


def _resnet_params(shapes: Shapes, prefix: str) -> dict[str, Any]:
    first = f'{prefix}layer1.0'
    depth = infer_depth(shapes, {i: f'{prefix}layer{i}' for i in STAGES})
    width = shapes[f'{first}.conv1.weight'][0]
    groups = width // shapes.get(f'{first}.conv2.weight', (0, width))[1]
    squeeze = shapes.get(f'{first}.se.fc.0.weight')
    return dict(
        prefix=prefix,
        depth=depth,
        variant=_A if f'{first}.bn1.IN.weight' in shapes else _B,
        width=width // 64,
        groups=groups,
        se=0 if squeeze is None else squeeze[1] // squeeze[0],
        fc=int(shapes.get(f'{prefix}fc.weight', (0,))[0]),
    )


def _densenet_params(shapes: Shapes, prefix: str) -> dict[str, Any]:
    counts = tuple(
        sum(
            key.startswith(f'{prefix}features.denseblock{i}.')
            and key.endswith('.conv2.weight')
            for key in shapes
        )
        for i in STAGES
    )
    depth = next((d for d, b in DENSE_BLOCKS.items() if b == counts), None)
    if depth is None:
        raise CheckpointError(
            f'dense blocks of {counts} layers match no DenseNet of depth '
            f'{", ".join(map(str, DENSE_BLOCKS))}: the file is incomplete, '
            'or from another network'
        )
    classes = shapes.get(f'{prefix}classifier.weight', (0,))[0]
    return dict(prefix=prefix, depth=depth, variant=_A, fc=int(classes))


def title(kind: str, params: dict[str, Any]) -> str:
    """In words."""
    depth, name = params['depth'], 'ResNet'
    if kind == 'ibn-densenet':
        name = 'DenseNet'
    elif params['groups'] > 1:
        name = 'ResNeXt'
    elif params['se']:
        name = 'SE-ResNet'
    return f'IBN-Net {name}-{depth}-IBN-{params["variant"]}'


def model_of(kind: str, params: dict[str, Any]) -> str:
    """The backbone that a file is for, as a config has it."""
    depth = params['depth']
    if kind == 'ibn-densenet':
        return f"dict(type='IBNDenseNet', depth={depth})"
    options = f"depth={depth}, variant='{params['variant']}'"
    if params['se']:
        options += f', se_reduction={params["se"]}'
    if params['groups'] == 1:
        return f"dict(type='IBNResNet', {options})"
    width = params['width'] * 64 // params['groups']
    return (
        f"dict(type='IBNResNeXt', {options}, groups={params['groups']}, "
        f'base_width={width})'
    )


def module_of(kind: str) -> str:
    """What registers that backbone."""
    return f'sn_mm.models.{kind.replace("-", "_")}'


# -- entries --
def resnet_entries(params: dict[str, Any]) -> Iterator[Entry]:
    """Of ResNet, ResNeXt and SE-ResNet, in the files' order."""
    prefix, in_b = params['prefix'], params['variant'] == _B
    yield from conv(f'{prefix}conv1', 'backbone.conv1', 64, 3, 7, 7)
    stem = _instance_norm if in_b else _batch_norm
    yield from stem(f'{prefix}bn1', 'backbone.bn1', 64)
    blocks, bottleneck = DEPTHS[params['depth']]
    into = 64
    for stage in STAGES:
        planes = 64 * 2 ** (stage - 1)
        out = planes * (4 if bottleneck else 1)
        for i in range(blocks[stage - 1]):
            name = f'layer{stage}.{i}'
            yield from _block(
                *(f'{prefix}{name}', f'backbone.{name}', into, planes, out),
                stage,
                i == blocks[stage - 1] - 1,
                params,
            )
            into = out
    if params['fc']:
        yield from conv(f'{prefix}fc', 'fc', params['fc'], into, bias=True)


def _block(
    public: str,
    target: str,
    into: int,
    planes: int,
    out: int,
    stage: int,
    is_last: bool,
    params: dict[str, Any],
) -> Iterator[Entry]:
    width, groups = planes * params['width'], params['groups']
    if DEPTHS[params['depth']][1]:
        convs = (
            (width, into, 1),
            (width, width // groups, 3),
            (out, width, 1),
        )
    else:
        convs = ((planes, into, 3), (planes, planes, 3))
    in_a = params['variant'] == _A
    for i, (outputs, inputs, size) in enumerate(convs, 1):
        names = f'{public}.conv{i}', f'{target}.conv{i}'
        yield from conv(*names, outputs, inputs, size, size)
        norm = _ibn if in_a and i == 1 and stage < 4 else _batch_norm
        yield from norm(f'{public}.bn{i}', f'{target}.bn{i}', outputs)
    if not in_a and is_last and stage < 3:
        yield from _instance_norm(f'{public}.IN', f'{target}.IN', out)
    if params['se']:
        hidden = out // params['se']
        for i, shape in ((0, (hidden, out)), (2, (out, hidden))):
            yield from conv(
                f'{public}.se.fc.{i}', f'{target}.se.fc.{i}', *shape
            )
    if into != out:
        names = f'{public}.downsample', f'{target}.downsample'
        yield from conv(*(f'{n}.0' for n in names), out, into, 1, 1)
        yield from _batch_norm(*(f'{n}.1' for n in names), out)


def densenet_entries(params: dict[str, Any]) -> Iterator[Entry]:
    """Of DenseNet, in the files' order."""
    prefix = params['prefix']

    def names(name: str) -> tuple[str, str]:
        return f'{prefix}features.{name}', f'backbone.features.{name}'

    yield from conv(*names('conv0'), 64, 3, 7, 7)
    yield from _batch_norm(*names('norm0'), 64)
    channels = 64
    for i, layers in enumerate(DENSE_BLOCKS[params['depth']], 1):
        for k in range(layers):
            layer = f'denseblock{i}.denselayer{k + 1}'
            first = _bn_then_in if i < 4 and k % 3 == 0 else _batch_norm
            yield from first(*names(f'{layer}.norm1'), channels)
            yield from conv(*names(f'{layer}.conv1'), 128, channels, 1, 1)
            yield from _batch_norm(*names(f'{layer}.norm2'), 128)
            yield from conv(*names(f'{layer}.conv2'), 32, 128, 3, 3)
            channels += 32
        if i < 4:
            part = f'transition{i}'
            yield from _batch_norm(*names(f'{part}.norm'), channels)
            half = channels // 2
            yield from conv(*names(f'{part}.conv'), half, channels, 1, 1)
            channels = half
    yield from _batch_norm(*names('norm5'), channels)
    if params['fc']:
        name = f'{prefix}classifier'
        yield from conv(name, 'fc', params['fc'], channels, bias=True)


def _instance_norm(public: str, target: str, channels: int) -> Iterator[Entry]:
    for leaf in ('weight', 'bias'):
        yield Entry(f'{public}.{leaf}', (channels,), f'{target}.{leaf}')


def _batch_norm(public: str, target: str, channels: int) -> Iterator[Entry]:
    yield from _instance_norm(public, target, channels)
    for leaf in ('running_mean', 'running_var'):
        yield Entry(f'{public}.{leaf}', (channels,), f'{target}.{leaf}')
    leaf = 'num_batches_tracked'
    yield Entry(f'{public}.{leaf}', (), f'{target}.{leaf}', optional=True)


def _ibn(public: str, target: str, channels: int) -> Iterator[Entry]:
    half = channels // 2
    yield from _instance_norm(f'{public}.IN', f'{target}.IN', half)
    yield from _batch_norm(f'{public}.BN', f'{target}.BN', channels - half)


def _bn_then_in(public: str, target: str, channels: int) -> Iterator[Entry]:
    batch = int(channels * (1 - 0.4))
    yield from _batch_norm(f'{public}.BN', f'{target}.BN', batch)
    yield from _instance_norm(f'{public}.IN', f'{target}.IN', channels - batch)
