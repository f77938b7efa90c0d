# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Benchmark results as a table, as JSON and as a plot."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Sequence
from pathlib import Path

import torch

from sn_mm.kernels.native import sweeps
from sn_mm.utils import markdown_table, write_json

from .layers import FAMILY, bandwidth_shares, geometric_means

# Okabe and Ito's colours, told apart with any kind of colour vision, and a
# grey for the copy.
_MARKERS = 'hH8dp1234|_x+'
_LOOKS = {
    'SN': ('#D55E00', 'o'),
    'SyncSN': ('#0072B2', 's'),
    'BN': ('#009E73', 'D'),
    'GN': ('#CC79A7', '^'),
    'LN': ('#E69F00', 'v'),
    'IN': ('#56B4E9', 'P'),
    'SN, ReLU': ('#8C510A', '<'),
    'GN, ReLU': ('#762A83', 'd'),
    'SN+ReLU': ('#01665E', '>'),
    'plain SN': ('#000000', 'X'),
    'copy': ('#999999', '*'),
    # the family by its order: one colour, and a marker each
    **{kind: ('#F0E442', mark) for kind, mark in zip(FAMILY, _MARKERS)},
}
_OTHER_LOOK = ('#444444', '.')
_NO_DATE = {'.svg': {'Date': None}, '.pdf': {'CreationDate': None}}


def machine() -> dict[str, str | int]:
    """Hardware and versions, to stand beside every figure."""
    facts = dict(
        cpu=_cpu_model(),
        cores=os.cpu_count(),
        caches=_caches(),
        instructions=torch.backends.cpu.get_cpu_capability(),
        threads=torch.get_num_threads(),
        python=platform.python_version(),
        torch=torch.__version__,
        compiler=_compiler(),
        flags=_flags(),
        sweeps=sweeps.describe_library(),
    )
    if torch.cuda.is_available():
        facts.update(gpu=torch.cuda.get_device_name(), cuda=torch.version.cuda)
    return facts


def layer_table(rows: list[dict]) -> str:
    """Milliseconds per shape, ratios to some norms, bytes kept."""
    norms = list(dict.fromkeys(r['norm'] for r in rows))
    shapes = list(dict.fromkeys(tuple(r['shape']) for r in rows))
    cells = {(tuple(r['shape']), r['norm']): r for r in rows}
    lines = []
    for shape in shapes:
        times = [f'{cells[shape, n]["ms"]:.2f}' for n in norms]
        lines.append([' x '.join(map(str, shape)), *times])
    for base in ('BN', 'GN', 'GN, ReLU'):
        if base in norms:
            means = geometric_means(rows, base)
            ratios = [f'{means[n]:.2f}' for n in norms]
            lines.append([f'over {base} (geometric mean)', *ratios])
            worst = [
                max(cells[s, n]['ms'] / cells[s, base]['ms'] for s in shapes)
                for n in norms
            ]
            lines.append(
                [f'over {base} (worst)', *(f'{w:.2f}' for w in worst)]
            )
    if 'copy' in norms:
        shares = bandwidth_shares(rows)
        cells_of = [f'{shares[n]:.2f}' if n in shares else '' for n in norms]
        lines.append(['of copy bandwidth (two largest)', *cells_of])
    if all('kept' in r for r in rows):
        kept = [max(cells[s, n]['kept'] for s in shapes) for n in norms]
        lines.append(['kept / input (worst)', *(f'{k:.3f}' for k in kept)])
    return markdown_table(['ms', *norms], lines, numbers=True)


def step_table(rows: list[dict], bases: Sequence[str] = ('BN', 'GN')) -> str:
    """Milliseconds of whole training steps, and ratios to some of them."""
    times = {r['norm']: r['ms'] for r in rows}
    bases = [b for b in bases if b in times]
    lines = []
    for r in rows:
        ratios = [f'{r["ms"] / times[b]:.3f}' for b in bases]
        lines.append([r['norm'], r['layers'], f'{r["ms"]:.0f}', *ratios])
    head = ['norm', 'layers', 'ms', *(f'over {b}' for b in bases)]
    return markdown_table(head, lines, numbers=True)


def compiled_table(rows: list[dict]) -> str:
    """Milliseconds of a network as it is and compiled, and the ratio."""
    lines = []
    for r in rows:
        ms, compiled = r['ms'], r['compiled_ms']
        ratio = f'{compiled / ms:.2f}'
        lines.append([r['norm'], f'{ms:.1f}', f'{compiled:.1f}', ratio])
    head = ['norm', 'ms', 'compiled, ms', 'compiled / eager']
    return markdown_table(head, lines, numbers=True)


def write_results(path: str | Path, results: dict) -> None:
    """Write results and the machine they were taken on, as JSON."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, dict(machine=machine(), **results))


def plot_growth(rows: list[dict], path: str | Path) -> None:
    """Time against the size of the input, one line for every norm.

    A norm has the same colour and marker in every picture, whichever others
    are drawn.

    Args:
        rows: of :func:`benchmarks.layers.benchmark_layers`.
        path: .png, .svg or .pdf.
    """
    import matplotlib

    matplotlib.use('Agg')
    import matplotlib.pyplot as plt

    plt.rcParams.update({'pdf.fonttype': 42})  # text stays text
    figure, axis = plt.subplots(figsize=(6, 4), constrained_layout=True)
    norms = dict.fromkeys(r['norm'] for r in rows)
    for norm in norms:
        colour, marker = _LOOKS.get(norm, _OTHER_LOOK)
        points = sorted(
            (_numel(r['shape']), r['ms']) for r in rows if r['norm'] == norm
        )
        axis.loglog(*zip(*points), marker + '-', color=colour, label=norm)
    axis.set_xlabel('values in the input')
    axis.set_ylabel('ms, forward and backward')
    axis.grid(True, which='both', alpha=0.3)
    axis.legend()
    figure.savefig(path, dpi=150, metadata=_NO_DATE.get(Path(path).suffix))
    plt.close(figure)


def _caches() -> str:
    """'L1d 32K, L1i 32K, L2 1024K, L3 36608K' of the first core."""
    found = {}
    folder = Path('/sys/devices/system/cpu/cpu0/cache')
    for index in sorted(folder.glob('index*')):
        try:
            level, kind, size = (
                (index / name).read_text().strip()
                for name in ('level', 'type', 'size')
            )
        except OSError:
            continue
        suffix = {'Data': 'd', 'Instruction': 'i'}.get(kind, '')
        found[f'L{level}{suffix}'] = size
    return ', '.join(f'{k} {v}' for k, v in found.items()) or 'not known'


def _compiler() -> str:
    """The first line that the C compiler of the kernels says of itself."""
    words = sweeps.compile_command()
    if not words:
        return 'none'
    try:
        done = subprocess.run(
            [words[0], '--version'], capture_output=True, text=True, timeout=9
        )
    except (OSError, subprocess.SubprocessError) as error:
        return f'{words[0]}: {error}'
    return (done.stdout.splitlines() or [words[0]])[0]


def _flags() -> str:
    """What the kernels are compiled with, or why they are not used."""
    reason = sweeps.why_not(torch.ones(1, 2, 3, 4))
    if reason:
        return f'not used: {reason}'
    return ' '.join(w for w in sweeps.compile_command()[1:] if w[:1] == '-')


def _numel(shape: list[int]) -> int:
    return torch.Size(shape).numel()


def _cpu_model() -> str:
    try:
        lines = Path('/proc/cpuinfo').read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [x.split(':')[1].strip() for x in lines if 'model name' in x]
    return names[0] if names else platform.machine()
