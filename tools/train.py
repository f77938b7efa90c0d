# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Train a detector or a segmentor; the config tells which toolbox.

Takes the configs and the arguments of mmdet's and mmseg's own tools/train.py.
SN and its relatives are registered, also for a config without custom_imports.
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
        '--resume',
        nargs='?',
        const='auto',
        metavar='CHECKPOINT',
        help='go on from a checkpoint, or without a value from the latest '
        'in the work folder',
    )
    parser.add_argument(
        '--amp',
        action='store_true',
        help='automatic mixed precision (needs a GPU)',
    )
    parser.add_argument(
        '--auto-scale-lr',
        action='store_true',
        help="scale the learning rate to this run's batch size",
    )
    add_common_arguments(parser)
    return parser.parse_args(args)


if __name__ == '__main__':
    # Help and wrong arguments are answered before PyTorch is imported.
    parse_args(None)

import sn_mm  # noqa: F401  (registers the layers)
from sn_mm import cli
from sn_mm.datasets import DataError, check_dataloaders


@cli.command(DataError)
def main(args: list | None = None) -> None:
    """Train."""
    args = parse_args(args)
    export_local_rank(args.local_rank)
    cfg = cli.load_config(
        args.config, args.cfg_options, args.work_dir, args.launcher
    )
    cli.register_toolbox(cfg)
    if args.amp:
        cli.enable_amp(cfg)
    if args.auto_scale_lr:
        cli.enable_auto_scale_lr(cfg)
    if args.resume is not None:
        cli.set_resume(cfg, args.resume)
    cli.check_checkpoint(cfg.get('load_from'))
    cli.check_starts(cfg)
    check_dataloaders(cfg, ('train_dataloader', 'val_dataloader'))
    with cli.resuming(cfg):
        cli.build_runner(cfg).train()


if __name__ == '__main__':
    sys.exit(main())
