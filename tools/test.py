# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Test a detector or a segmentor; the config tells which toolbox.

Takes the configs and the arguments of mmdet's and mmseg's own tools/test.py.
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
    parser.add_argument('checkpoint', metavar='CHECKPOINT', help='.pth file')
    parser.add_argument(
        '--out',
        metavar='PATH',
        help='write the predictions: mmdet to a .pkl file, mmseg as label '
        'maps to a folder',
    )
    parser.add_argument(
        '--show', action='store_true', help='show the predictions in a window'
    )
    parser.add_argument(
        '--show-dir',
        metavar='DIR',
        help='draw the predictions into pictures in DIR',
    )
    parser.add_argument(
        '--wait-time',
        type=float,
        default=2,
        metavar='SECONDS',
        help='time that --show shows each picture for (default: %(default)s)',
    )
    parser.add_argument(
        '--tta', action='store_true', help='augment the test images'
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
    """Test."""
    args = parse_args(args)
    export_local_rank(args.local_rank)
    pictures = None
    cfg = cli.load_config(
        args.config, args.cfg_options, args.work_dir, args.launcher
    )
    scope = cli.register_toolbox(cfg)
    cli.check_checkpoint(args.checkpoint)
    check_dataloaders(cfg, ('test_dataloader',))
    cfg.load_from = args.checkpoint
    if args.show or args.show_dir:
        pictures = cli.draw_predictions(
            cfg, scope, args.show, args.show_dir, args.wait_time
        )
    if args.tta:
        cli.enable_tta(cfg, scope)
    if args.out:
        cli.dump_predictions(cfg, scope, args.out)
    cli.build_runner(cfg).test()
    if pictures:
        print(f'pictures: {pictures}')


if __name__ == '__main__':
    sys.exit(main())
