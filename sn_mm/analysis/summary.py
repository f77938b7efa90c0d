# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""The figures' numbers in a few lines of text."""

from __future__ import annotations

from sn_mm.anatomy.components import label
from sn_mm.anatomy.ratios import MOMENTS, UNDECIDED


def summarize_layers(numbers: list[dict]) -> str:
    """For each snapshot: where each statistic leads, and what differs."""
    lines = []
    for snapshot in numbers:
        layers = snapshot['layers']
        lines.append(f'{snapshot["title"]}: {len(layers)} SN layers')
        for kind in MOMENTS:
            counts = {name: 0 for name in snapshot['statistics']}
            for layer in layers:
                counts[max(layer[kind], key=layer[kind].get)] += 1
            text = ', '.join(f'{n} {k.upper()}' for k, n in counts.items())
            lines.append(f'  largest {kind} ratio: {text}')
        most = sorted(layers, key=lambda x: -x['divergence'])[:3]
        text = ', '.join(f'{x["name"]} ({x["divergence"]:.2f})' for x in most)
        lines.append(f'  mean and var differ most in: {text}')
    return '\n'.join(lines)


def summarize_components(numbers: list[dict]) -> str:
    """A table for each snapshot."""
    lines = []
    for snapshot in numbers:
        names = snapshot['statistics']
        head = ''.join(f'{n.upper():>7}' for n in names)
        lines.append(f'{snapshot["title"]}')
        lines.append(f'  {"":16}layers {head}  (mean) {head}  (var)')
        for component, values in snapshot['components'].items():
            title = 'all' if component == 'all' else label(component)
            cells = [
                ''.join(f'{values[kind][n]:7.2f}' for n in names)
                for kind in MOMENTS
            ]
            lines.append(
                f'  {title:16}{values["layers"]:6} {cells[0]}         '
                f'{cells[1]}'
            )
    return '\n'.join(lines)


def summarize_time(numbers: list[dict]) -> str:
    """Average ratios of each group at the start and at the end."""
    lines = []
    for source in numbers:
        times = source['iterations']
        lines.append(
            f'{source["title"]}: {len(times)} records, iterations '
            f'{times[0]} to {times[-1]}'
        )
        for group in source['groups']:
            layers = group['layers']
            lines.append(f'  {group["title"]}, {len(layers)} layers')
            for kind in MOMENTS:
                cells = [
                    f'{name.upper()} {_mean(layers, kind, name, 0):.2f} -> '
                    f'{_mean(layers, kind, name, -1):.2f}'
                    for name in source['statistics']
                ]
                lines.append(f'    {kind:5}{", ".join(cells)}')
            ends = [
                sum(x['divergence'][i] for x in layers) / len(layers)
                for i in (0, -1)
            ]
            lines.append(f'    divergence {ends[0]:.3f} -> {ends[1]:.3f}')
    return '\n'.join(lines)


def summarize_hard(numbers: dict) -> str:
    """How many layers differ in mean and var, and how many changed."""
    count = len(numbers['layers'])
    lines = [f'{count} SN layers']
    for snapshot in numbers['snapshots']:
        text = (
            f'  {snapshot["title"]}: mean and var differ in '
            f'{snapshot["differing"]} ({snapshot["differing"] / count:.0%})'
        )
        if 'changed' in snapshot:
            moved = sum(snapshot['changed'])
            text += f'; {moved} changed ({moved / count:.0%})'
        if snapshot['undecided']:
            text += (
                f'; {snapshot["undecided"]} undecided (the largest ratio '
                f'leads by less than {UNDECIDED})'
            )
        lines.append(text)
    return '\n'.join(lines)


def _mean(layers: list[dict], kind: str, name: str, index: int) -> float:
    return sum(x[kind][name][index] for x in layers) / len(layers)
