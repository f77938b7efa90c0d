# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Draw what SN layers chose: from checkpoints, histories, or both.

    python tools/plot_ratios.py layers CHECKPOINT
    python tools/plot_ratios.py components WORK_DIR_A WORK_DIR_B
    python tools/plot_ratios.py time WORK_DIR
    python tools/plot_ratios.py hard epoch_4.pth epoch_8.pth epoch_12.pth

layers      ratios of every layer, as stacked bars
components  average ratios of backbone, FPN, RPN, box head, mask head, ...
time        ratios and their divergence against training time, in groups of
            receptive fields; a history (RatioHook writes one) knows those,
            for checkpoints give --config
hard        the largest ratios of several snapshots, and what changed

SRC is a checkpoint, sn://FILE for one of the public code, a history file, or
the work folder of a run. Pictures are written as PNG, SVG and PDF; the numbers
are summarized on the terminal.
"""

# ruff: noqa: E402

from __future__ import annotations

import argparse
import sys
from pathlib import Path

_HARD_COUNT = 4


def parse_args(args: list | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        'kind',
        choices=['layers', 'components', 'time', 'hard'],
        help='which picture',
    )
    parser.add_argument(
        'sources', metavar='SRC', nargs='+', help='what to draw, side by side'
    )
    parser.add_argument(
        '--out',
        metavar='STEM',
        help='files to write, without ending (default: ratios_KIND)',
    )
    parser.add_argument(
        '--titles', nargs='+', metavar='TITLE', help='a name for each SRC'
    )
    parser.add_argument(
        '--at',
        nargs='+',
        type=int,
        metavar='ITERATION',
        help='of histories, the records nearest to these (default: the last; '
        f'hard: {_HARD_COUNT}, evenly spaced)',
    )
    parser.add_argument(
        '--bins',
        nargs='*',
        type=float,
        metavar='PIXELS',
        help='where groups of receptive fields begin (default: 49 299)',
    )
    parser.add_argument(
        '--config', help='of the model; tells receptive fields of checkpoints'
    )
    parser.add_argument('--json', metavar='FILE', help='write the numbers')
    return parser.parse_args(args)


if __name__ == '__main__':
    # Help and wrong arguments are answered before PyTorch is imported.
    parse_args(None)

import sn_mm  # noqa: F401  (registers the layers)
from sn_mm import cli
from sn_mm.analysis import ratio_numbers, snapshots, summary
from sn_mm.analysis.snapshots import Run, Snapshot
from sn_mm.anatomy.layer_info import LayerInfo, infos_of_model
from sn_mm.utils import write_json


def layers_of_config(path: str) -> list[LayerInfo]:
    """The SN layers of a config's model, receptive fields included."""
    cli.hush_model_building()
    layers, note = infos_of_model(cli.build_model(cli.load_config(path)))
    if note:
        print(f'warning: {note}', file=sys.stderr)
    return layers


def picked(source: Run, at: list[int] | None, count: int) -> list[Snapshot]:
    """Snapshots of a source: the nearest to ``at``, or ``count`` of them."""
    every = source.snapshots
    if at and all(s.iteration is not None for s in every) and every[1:]:
        nearest = [
            min(range(len(every)), key=lambda i: abs(every[i].iteration - t))
            for t in at
        ]
        return [every[i] for i in sorted(set(nearest))]
    last = len(every) - 1
    if count == 1 or last == 0:
        return every[-1:]
    places = {round(i * last / (count - 1)) for i in range(count)}
    return [every[i] for i in sorted(places)]


def numbers_of(args: argparse.Namespace, sources: list[Run]):
    """What to draw, to write down and to summarize."""
    if args.kind == 'time':
        bins = ratio_numbers.BINS if args.bins is None else args.bins
        return [ratio_numbers.time_numbers(s, bins) for s in sources]
    count = 1
    if args.kind == 'hard' and len(sources) == 1:
        count = _HARD_COUNT
    chosen = [x for s in sources for x in picked(s, args.at, count)]
    if args.kind == 'hard':
        return ratio_numbers.hard_numbers(chosen)
    if args.kind == 'layers':
        return ratio_numbers.layer_numbers(chosen)
    return ratio_numbers.component_numbers(chosen)


def draw(kind: str, content, stem: Path) -> list[Path]:
    """Write the picture; matplotlib is needed for nothing else."""
    try:
        from sn_mm.analysis import plots
    except ImportError as error:
        raise cli.LaunchError(
            f'drawing needs matplotlib ({error}): pip install matplotlib'
        ) from error
    figures = dict(
        layers=plots.draw_layers,
        components=plots.draw_components,
        time=plots.draw_time,
        hard=plots.draw_hard,
    )
    return plots.save(figures[kind](content), stem)


SUMMARIES = dict(
    layers=summary.summarize_layers,
    components=summary.summarize_components,
    time=summary.summarize_time,
    hard=summary.summarize_hard,
)


@cli.command(ValueError, OSError)
def main(args: list | None = None) -> None:
    """Draw."""
    args = parse_args(args)
    sources = snapshots.read_sources(args.sources, args.titles)
    if args.config:
        known = layers_of_config(args.config)
        sources = [snapshots.with_fields(s, known) for s in sources]
    content = numbers_of(args, sources)
    if args.json:
        write_json(args.json, content)
    files = draw(args.kind, content, Path(args.out or f'ratios_{args.kind}'))
    print(SUMMARIES[args.kind](content))
    for path in files:
        print(f'wrote {path}')


if __name__ == '__main__':
    sys.exit(main())
