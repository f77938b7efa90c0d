# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Recompute BN's test statistics of a checkpoint from training batches.

CONFIG tells the model and its training data, CHECKPOINT the weights. OUT is
CHECKPOINT with other running statistics; everything else in it stays. With
--launcher all processes share the work.

    python tools/batch_average.py CONFIG CHECKPOINT OUT
    python tools/batch_average.py CONFIG sn://FILE OUT --num-samples 50000
"""

# ruff: noqa: E402

from __future__ import annotations

import argparse
import sys
from pathlib import Path

# the modules beside this file, also where another program imports it
sys.path.insert(0, str(Path(__file__).resolve().parent))

from tool_arguments import (
    add_common_arguments,
    add_config_argument,
    export_local_rank,
)


def parse_args(args: list | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_config_argument(parser)
    parser.add_argument(
        'checkpoint', metavar='CHECKPOINT', help='.pth file, or sn://FILE'
    )
    parser.add_argument(
        'out', metavar='OUT', help='new .pth file; may not exist yet'
    )
    parser.add_argument(
        '--num-samples',
        type=int,
        default=8192,
        metavar='N',
        help='training images to average over, in all processes together; '
        'at most the whole data set (default: %(default)s)',
    )
    parser.add_argument(
        '--include-bn',
        action='store_true',
        help='also the statistics of BN and SyncBN layers',
    )
    parser.add_argument(
        '--second-moment',
        action='store_true',
        help="average E[x^2] instead of the variance, as the authors' code",
    )
    add_common_arguments(parser)
    parsed = parser.parse_args(args)
    if parsed.num_samples < 1:
        parser.error('--num-samples must be at least 1')
    return parsed


if __name__ == '__main__':
    # Help and wrong arguments are answered before PyTorch is imported.
    parse_args(None)

from mmengine.dist import is_main_process
from mmengine.runner import Runner

import sn_mm
from sn_mm import cli
from sn_mm.checkpoints.writer import check_destination, write_checkpoint
from sn_mm.datasets import DataError, check_dataloaders
from sn_mm.recalibrate import BatchAverage
from sn_mm.recalibrate.fresh_loader import batches_for


@cli.command(DataError)
def main(args: list | None = None) -> None:
    """Average."""
    args = parse_args(args)
    export_local_rank(args.local_rank)
    out = Path(args.out)
    cfg = cli.load_config(
        args.config, args.cfg_options, args.work_dir, args.launcher
    )
    cli.log_warnings_alone(cfg)
    with cli.without_prints():
        cli.register_toolbox(cfg)
        cli.check_checkpoint(args.checkpoint)
        check_dataloaders(cfg, ('train_dataloader',))
        check_destination(out)
        runner = cli.build_runner(cfg)
        content = cli.load_weights(runner.model, args.checkpoint)
        done = _average(runner, args)
    if is_main_process():
        size = cli.put_weights(content, runner.model, done.layers)
        write_checkpoint(content, out, size, progress=True)
        print(done.summary())
        print(f'wrote {out}')


def _average(runner: Runner, args: argparse.Namespace) -> BatchAverage:
    loader = runner.build_dataloader(
        runner.cfg.train_dataloader, seed=runner.seed
    )
    try:
        done = sn_mm.update_batch_average(
            runner.model,
            loader,
            batches_for(loader, args.num_samples),
            args.include_bn,
            args.second_moment,
        )
    except (ValueError, TypeError, FloatingPointError) as error:
        raise cli.LaunchError(str(error)) from error
    if not done.layers:
        raise cli.LaunchError(
            'no layer has BN statistics that a batch could change: layers '
            "without 'bn', with bn_eval or frozen keep theirs"
        )
    return done


if __name__ == '__main__':
    sys.exit(main())
