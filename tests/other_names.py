# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""State dicts of mmdet's backbones as other libraries name and order them."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable, Iterable

from torch import Tensor

State = dict[str, Tensor]


def renamed(state: State, rules: Iterable[tuple[str, str]]) -> State:
    """Every key by the first rule that fits it whole, in the old order."""
    made = OrderedDict()
    for key, value in state.items():
        for pattern, new in rules:
            match = re.fullmatch(pattern, key)
            if match:
                made[match.expand(new)] = value
                break
        else:
            raise KeyError(key)
    return made


def sorted_by(state: State, rank: Callable[[str], tuple]) -> State:
    return OrderedDict(sorted(state.items(), key=lambda item: rank(item[0])))


# -- MobileNetV2 --
def _blocks(state: State) -> list[tuple[str, int]]:
    """(layer, index) of every inverted residual, in order."""
    found = re.compile(r'layer(\d+)\.(\d+)\.')
    keys = [found.match(k) for k in state]
    return list(dict.fromkeys((m[1], int(m[2])) for m in keys if m))


_PARTS = ('expand_conv', 'depthwise_conv', 'linear_conv')


def _parts(state: State, layer: str, j: int) -> list[str]:
    front = f'layer{layer}.{j}.'
    return [p for p in _PARTS if f'{front}{p}.conv.weight' in state]


def torchvision_mobilenet_v2(state: State) -> State:
    rules = [(r'conv1\.conv\.(.*)', r'features.0.0.\1')]
    rules += [(r'conv1\.bn\.(.*)', r'features.0.1.\1')]
    blocks = _blocks(state)
    for i, (layer, j) in enumerate(blocks, 1):
        *first, last = _parts(state, layer, j)
        for n, kind in enumerate(('conv', 'bn')):
            front, new = rf'layer{layer}\.{j}\.', rf'features.{i}.conv.'
            for k, part in enumerate(first):
                old = rf'{front}{part}\.{kind}\.(.*)'
                rules.append((old, rf'{new}{k}.{n}.\1'))
            old = rf'{front}{last}\.{kind}\.(.*)'
            rules.append((old, rf'{new}{len(first) + n}.\1'))
    end = len(blocks) + 1
    rules += [(r'conv2\.conv\.(.*)', rf'features.{end}.0.\1')]
    rules += [(r'conv2\.bn\.(.*)', rf'features.{end}.1.\1')]
    return renamed(state, rules)


def timm_mobilenet_v2(state: State) -> State:
    rules = [(r'conv1\.conv\.(.*)', r'conv_stem.\1')]
    rules += [(r'conv1\.bn\.(.*)', r'bn1.\1')]
    for layer, j in _blocks(state):
        front = rf'layer{layer}\.{j}\.'
        new = rf'blocks.{int(layer) - 1}.{j}.'
        parts = _parts(state, layer, j)
        names = ['conv_pw', 'conv_dw', 'conv_pwl']
        if len(parts) == 2:
            names = ['conv_dw', 'conv_pw']
        for k, (part, name) in enumerate(zip(parts, names), 1):
            rules += [(rf'{front}{part}\.conv\.(.*)', rf'{new}{name}.\1')]
            rules += [(rf'{front}{part}\.bn\.(.*)', rf'{new}bn{k}.\1')]
    rules += [(r'conv2\.conv\.(.*)', r'conv_head.\1')]
    rules += [(r'conv2\.bn\.(.*)', r'bn2.\1')]
    return renamed(state, rules)


# -- ResNet --
def transformers_resnet(state: State) -> State:
    """Shortcuts are registered first there."""
    rules = [
        (r'conv1\.(.*)', r'resnet.embedder.embedder.convolution.\1'),
        (r'bn1\.(.*)', r'resnet.embedder.embedder.normalization.\1'),
    ]
    for layer in range(1, 5):
        front = rf'layer{layer}\.(\d+)\.'
        new = rf'resnet.encoder.stages.{layer - 1}.layers.\1.'
        for n, kind in enumerate(('convolution', 'normalization')):
            rules.append(
                (rf'{front}downsample\.{n}\.(.*)', rf'{new}shortcut.{kind}.\2')
            )
        for k in range(1, 4):
            for short, kind in (
                ('conv', 'convolution'),
                ('bn', 'normalization'),
            ):
                old = rf'{front}{short}{k}\.(.*)'
                rules.append((old, rf'{new}layer.{k - 1}.{kind}.\2'))
    return _shortcuts_first(renamed(state, rules), 'shortcut')


def _shortcuts_first(state: State, name: str) -> State:
    """Within every block, keeping all other order."""
    places: dict[str, int] = {}

    def rank(key: str) -> tuple:
        block = re.match(r'(.*?(?:layers\.\d+|block\d+-\d+))\.', key)
        block = block[1] if block else key
        places.setdefault(block, len(places))
        return places[block], f'.{name}.' not in key

    return sorted_by(state, rank)


def timm_resnet_d(state: State) -> State:
    """A deep stem is called conv1, and its last norm bn1."""
    rules = [(r'stem\.7\.(.*)', r'bn1.\1'), (r'stem\.(.*)', r'conv1.\1')]
    return renamed(state, [*rules, (r'(layer.*)', r'\1')])


# -- RegNet --
def torchvision_regnet(state: State) -> State:
    rules = [(r'conv1\.(.*)', r'stem.0.\1'), (r'bn1\.(.*)', r'stem.1.\1')]
    for layer in range(1, 5):
        for j in range(30):
            front = rf'layer{layer}\.{j}\.'
            new = rf'trunk_output.block{layer}.block{layer}-{j}.'
            for n in range(2):
                old = rf'{front}downsample\.{n}\.(.*)'
                rules.append((old, rf'{new}proj.{n}.\1'))
            for k, part in enumerate('abc', 1):
                for n, kind in enumerate(('conv', 'bn')):
                    old = rf'{front}{kind}{k}\.(.*)'
                    rules.append((old, rf'{new}f.{part}.{n}.\1'))
    return _shortcuts_first(renamed(state, rules), 'proj')


def timm_regnet(state: State) -> State:
    rules = [(r'conv1\.(.*)', r'stem.conv.\1'), (r'bn1\.(.*)', r'stem.bn.\1')]
    for layer in range(1, 5):
        for j in range(30):
            front, new = rf'layer{layer}\.{j}\.', rf's{layer}.b{j + 1}.'
            for n, kind in enumerate(('conv', 'bn')):
                old = rf'{front}downsample\.{n}\.(.*)'
                rules.append((old, rf'{new}downsample.{kind}.\1'))
                old = rf'{front}{kind}(\d)\.(.*)'
                rules.append((old, rf'{new}conv\1.{kind}.\2'))
    return renamed(state, rules)
