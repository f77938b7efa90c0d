# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Fold a hardened model for inference, compare, and export it to ONNX.

Prints what became of every SN layer and how far the outputs are from those
before. Layers that are still soft stay as they are; --harden hardens first.

    python tools/fold.py CONFIG HARD_CHECKPOINT
    python tools/fold.py CONFIG CHECKPOINT --harden --onnx folded
"""

# ruff: noqa: E402

from __future__ import annotations

import argparse
import logging
import sys
import warnings
from pathlib import Path

# the modules beside this file, also where another program imports it
sys.path.insert(0, str(Path(__file__).resolve().parent))

from arguments import add_common_arguments, add_config_argument


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
        '--harden', action='store_true', help='harden the ratios first'
    )
    parser.add_argument(
        '--onnx', metavar='STEM', help='write STEM_image.onnx and so on'
    )
    parser.add_argument(
        '--size',
        type=int,
        nargs=2,
        default=(256, 256),
        metavar=('HEIGHT', 'WIDTH'),
        help='of the images, pixels (default: 256 256)',
    )
    add_common_arguments(parser)
    return parser.parse_args(args)


if __name__ == '__main__':
    # Help and wrong arguments are answered before PyTorch is imported.
    parse_args(None)

import torch
from mmengine.logging import MMLogger
from mmengine.registry import MODELS

import sn_mm
from sn_mm import cli
from sn_mm.checkpoints import CheckpointError
from sn_mm.deploy.onnx import export_onnx, parts_of
from sn_mm.surgery import fold_with_report


@torch.no_grad()
def outputs_of(model, size) -> list[list[torch.Tensor]]:
    """Of every network, on random inputs; the same at every call."""
    return [list(p.module(p.example)) for p in parts_of(model, size)]


def largest_error(before, after) -> float:
    """Relative to the largest value of each output."""
    return max(
        float((a - b).abs().max() / a.abs().max().clamp(min=1e-12))
        for one, other in zip(before, after)
        for a, b in zip(one, other)
    )


def run(args: argparse.Namespace) -> None:
    cfg = cli.load_config(args.config, args.cfg_options)
    scope = cli.register_toolbox(cfg)
    cli.check_checkpoint(args.checkpoint)
    with MODELS.switch_scope_and_registry(scope) as models:
        model = models.build(cfg.model)
    cli.load_weights(model, args.checkpoint)
    if args.harden:
        sn_mm.harden(model)
    model.eval()
    size = tuple(args.size)
    before = outputs_of(model, size)
    model, report = fold_with_report(model)
    print(report.table())
    error = largest_error(before, outputs_of(model, size))
    print(f'largest change of an output, relative: {error:.1e}')
    if args.onnx:
        for file in export_onnx(model, Path(args.onnx), size):
            text = 'not compared: pip install onnxruntime'
            if file.error is not None:
                text = f'onnxruntime differs by {file.error:.1e}, relative'
            print(f'wrote {file.path}; {text}')


def main(args: list | None = None) -> int:
    """Fold.

    Args:
        args: arguments; those of the command line by default.

    Returns:
        Exit status: 0, or 1 after an error.
    """
    args = parse_args(args)
    # building a model says much that is no matter here
    MMLogger.get_current_instance().setLevel(logging.ERROR)
    warnings.simplefilter('ignore')
    try:
        run(args)
    except (ValueError, cli.LaunchError, CheckpointError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 1
    except ModuleNotFoundError as error:
        print(f'error: {error}; pip install onnx', file=sys.stderr)
        return 1
    return 0


if __name__ == '__main__':
    sys.exit(main())
