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
import sys
from importlib.util import find_spec
from pathlib import Path

# the modules beside this file, also where another program imports it
sys.path.insert(0, str(Path(__file__).resolve().parent))

from tool_arguments import add_common_arguments, add_config_argument


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
        '--harden',
        action='store_true',
        help='harden the ratios first, without the finetuning that this needs',
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

import sn_mm
from sn_mm import cli
from sn_mm.deploy.onnx import export_onnx, parts_of, relative_error
from sn_mm.surgery import fold_with_report
from sn_mm.surgery.harden import FINETUNE


@torch.no_grad()
def outputs_of(model, size) -> list[list[torch.Tensor]]:
    """Of every network, on random inputs; the same at every call."""
    return [list(p.module(p.example)) for p in parts_of(model, size)]


def largest_error(before, after) -> float:
    """Of all outputs, each relative to its largest value."""
    return max(
        relative_error(b, a)
        for one, other in zip(before, after)
        for a, b in zip(one, other)
    )


def _need(package: str) -> None:
    if find_spec(package) is None:
        raise cli.LaunchError(
            f'--onnx needs the package {package}: pip install {package} '
            'onnxruntime'
        )


def write_onnx(
    model: torch.nn.Module, stem: Path, size: tuple[int, int]
) -> None:
    """Export the networks, and say how far onnxruntime's outputs are off."""
    for file in export_onnx(model, stem, size):
        text = 'not compared: pip install onnxruntime'
        if file.error is not None:
            text = f'onnxruntime differs by {file.error:.1e}, relative'
        print(f'wrote {file.path}; {text}')


@cli.command(ValueError, OSError)
def main(args: list | None = None) -> None:
    """Fold."""
    args = parse_args(args)
    cli.hush_model_building()
    if args.onnx:
        _need('onnx')  # before minutes of work
    cfg = cli.load_config(args.config, args.cfg_options)
    cli.check_checkpoint(args.checkpoint)
    model = cli.build_model(cfg)
    cli.load_weights(model, args.checkpoint)
    model.eval()
    size = tuple(args.size)
    before = outputs_of(model, size)
    if args.harden:
        sn_mm.harden(model)
        soft, before = before, outputs_of(model, size)
        change = largest_error(soft, before)
        print(
            f'warning: --harden alone changes the outputs by {change:.0%} of '
            f'the largest. {FINETUNE}; then fold without --harden'
        )
    model, report = fold_with_report(model)
    print(report.table())
    error = largest_error(before, outputs_of(model, size))
    print(f'largest change of an output, relative: {error:.1e}')
    if args.onnx:
        write_onnx(model, Path(args.onnx), size)


if __name__ == '__main__':
    sys.exit(main())
