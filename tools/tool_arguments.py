# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Arguments that tools share, named as in the toolboxes.

Beside the tools, since it is imported before PyTorch and sn_mm are.
"""

from __future__ import annotations

import argparse
import os


def add_config_argument(parser: argparse.ArgumentParser) -> None:
    """Add the positional ``config``, for :func:`sn_mm.cli.load_config`.

    Args:
        parser: changed in place.
    """
    parser.add_argument(
        'config',
        metavar='CONFIG',
        help="a config file, or one of a toolbox's own: mmdet::NAME",
    )


def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    """Add ``--work-dir``, ``--cfg-options``, ``--launcher``, ``--local_rank``.

    Args:
        parser: changed in place.
    """
    parser.add_argument(
        '--work-dir',
        metavar='DIR',
        help='folder of logs and checkpoints (default: work_dir of the '
        'config, or work_dirs/ and the name of the config)',
    )
    add_settings_argument(parser)
    parser.add_argument(
        '--launcher',
        choices=('none', 'pytorch', 'slurm', 'mpi'),
        default='none',
        help='what started the processes of a distributed run '
        '(default: %(default)s)',
    )
    # torch.distributed.launch passes one or the other.
    parser.add_argument(
        '--local_rank',
        '--local-rank',
        type=int,
        default=0,
        help='set by the launcher',
    )


def add_settings_argument(parser: argparse.ArgumentParser) -> None:
    """Add ``--cfg-options``.

    Args:
        parser: changed in place.
    """
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=_Settings,
        metavar='KEY=VALUE',
        help='settings that override the config: model.backbone.depth=34 '
        'train_cfg.max_epochs=2; lists as key="[a,b]" or key=a,b, nested '
        'ones as key="[(a,b),(c,d)]", without blanks',
    )


def export_local_rank(local_rank: int) -> None:
    """Set ``LOCAL_RANK``, where mmengine looks for it, unless it is set."""
    os.environ.setdefault('LOCAL_RANK', str(local_rank))


class _Settings(argparse.Action):
    """mmengine's DictAction, imported when there are settings."""

    def __call__(self, parser, namespace, values, option_string=None):
        for value in values:
            if '=' not in value:
                parser.error(f'{option_string} {value}: write KEY=VALUE')
        from mmengine.config import DictAction

        action = DictAction(self.option_strings, self.dest, nargs=self.nargs)
        action(parser, namespace, values, option_string)
