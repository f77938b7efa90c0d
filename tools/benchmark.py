# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""What SN costs beside other norms: tables of milliseconds and ratios.

    python tools/benchmark.py layers
    python tools/benchmark.py layers --device cuda --dtype float16
    python tools/benchmark.py detector --norms SN GN BN
    python tools/benchmark.py inference --images 1 --threads 2
    python tools/benchmark.py compiled --size 512
    python tools/benchmark.py growth --plot docs/images/growth.png

Run it on a quiet machine. All norms are measured in turns, in one run; a bar
tells the time left. --quick is done in less than a minute, to see that all
works: few rounds, small inputs, not for figures to quote.
"""

# ruff: noqa: E402

import argparse
import math
import sys
from pathlib import Path

# the package beside this file, also where another program imports it
sys.path.insert(0, str(Path(__file__).resolve().parent))

QUICK_NORMS = ['SN', 'BN', 'GN']
QUICK_VALUES = 4_000_000


def parse_args(args: list | None = None):
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        'what',
        choices=[
            'layers',
            'growth',
            'detector',
            'segmentor',
            'inference',
            'compiled',
        ],
        help='single layers, layers on growing inputs, whole steps, a '
        'detector with hard and folded SN in evaluation, or a backbone as it '
        'is and with torch.compile',
    )
    parser.add_argument(
        '--norms',
        nargs='+',
        metavar='NORM',
        help='names, such as SN, BN and GN; any other is answered with the '
        "list. For backbones also 'no norm'",
    )
    parser.add_argument(
        '--mode', choices=['train', 'eval'], help='(default: train)'
    )
    parser.add_argument('--device', default='cpu')
    parser.add_argument(
        '--dtype',
        choices=['float32', 'float64', 'float16', 'bfloat16'],
        default='float32',
        help='of the input of layers; float16 for steps means autocast',
    )
    parser.add_argument('--channels-last', action='store_true')
    parser.add_argument('--repeats', type=int, help='rounds (default: 11)')
    parser.add_argument('--threads', type=int, help='CPU threads')
    parser.add_argument(
        '--size', type=int, help='of images in whole steps (default: 384)'
    )
    parser.add_argument('--images', type=int, help='(default: 2)')
    parser.add_argument(
        '--quick',
        action='store_true',
        help='less than a minute: few rounds, small inputs',
    )
    parser.add_argument('--json', metavar='FILE', help='write results there')
    parser.add_argument(
        '--plot', metavar='FILE', help='time against size (PNG, SVG, PDF)'
    )
    parsed = parser.parse_args(args)
    for name, value in defaults(parsed).items():
        if getattr(parsed, name) is None:
            setattr(parsed, name, value)
    return parsed


def defaults(parsed) -> dict:
    """Of what was not asked for."""
    if not parsed.quick:
        return dict(repeats=11, size=384, images=2, mode='train')
    norms = dict.fromkeys(('layers', 'growth'), QUICK_NORMS)
    norms.update(dict.fromkeys(('segmentor', 'compiled'), ['SN']))
    return dict(
        repeats=1,
        size=64,
        # to compile a backward takes longer than a minute
        mode='eval' if parsed.what == 'compiled' else 'train',
        # BN needs two on the segmentor's map of a single position
        images=2 if parsed.what == 'segmentor' else 1,
        norms=norms.get(parsed.what, ['SN', 'GN']),
    )


if __name__ == '__main__':
    # Help and wrong arguments are answered before PyTorch is imported.
    parse_args(None)

import torch

from benchmarks import compiled, inference, layers, results, steps
from sn_mm import cli


def run_layers(args) -> list[dict]:
    shapes = layers.SHAPES
    if args.what == 'growth':
        shapes = [(2, 64, 2**k, 2**k) for k in range(3, 10)]
    if args.quick:
        shapes = [s for s in shapes if math.prod(s) <= QUICK_VALUES]
    rows = layers.benchmark_layers(
        args.norms or list(layers.NORMS),
        shapes,
        training=args.mode == 'train',
        device=args.device,
        dtype=getattr(torch, args.dtype),
        channels_last=args.channels_last,
        repeats=args.repeats,
    )
    print(results.layer_table(rows))
    if args.plot:
        results.plot_growth(rows, args.plot)
    return rows


def run_steps(args) -> list[dict]:
    rows = steps.benchmark_step(
        args.what,
        args.norms or list(steps.NORM_CFGS),
        size=args.size,
        images=args.images,
        device=args.device,
        repeats=args.repeats,
        amp=args.dtype == 'float16',
        rois=64 if args.quick else 512,
    )
    print(results.step_table(rows))
    return rows


def run_inference(args) -> list[dict]:
    rows = inference.benchmark_inference(
        size=args.size,
        images=args.images,
        device=args.device,
        repeats=args.repeats,
    )
    print(results.step_table(rows, bases=('BN frozen', 'SN')))
    return rows


def run_compiled(args) -> list[dict]:
    rows = compiled.benchmark_compiled(
        args.norms or ['SN', 'BN', 'GN', compiled.WITHOUT],
        training=args.mode == 'train',
        size=args.size,
        images=args.images,
        device=args.device,
        repeats=args.repeats,
    )
    print(results.compiled_table(rows))
    return rows


@cli.command(ValueError, RuntimeError, OSError)
def main(args: list | None = None) -> None:
    """Measure."""
    args = parse_args(args)
    if args.threads:
        torch.set_num_threads(args.threads)
    for name, value in results.machine().items():
        print(f'{name}: {value}', flush=True)
    if args.quick:
        print('quick: not for figures to quote', flush=True)
    runs = dict(
        detector=run_steps,
        segmentor=run_steps,
        inference=run_inference,
        compiled=run_compiled,
    )
    rows = runs.get(args.what, run_layers)(args)
    if args.json:
        options = {
            k: v for k, v in vars(args).items() if k not in ('json', 'plot')
        }
        results.write_results(args.json, dict(options=options, results=rows))


if __name__ == '__main__':
    sys.exit(main())
