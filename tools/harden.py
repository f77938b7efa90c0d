# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Harden the ratios of a checkpoint: one normalizer each for mean and var.

SRC stays as it is; DST appears only when it is complete. DST starts a config
with hard_ratios=True in its norm_cfg (configs/hard), and is tested with the
config that SRC was trained with. Optimizer and schedule are left out: a
hardened checkpoint starts a run (load_from), it does not resume one.

Hardening changes what the model computes: finetune DST before it is tested or
folded.

    python tools/harden.py SRC DST
    python tools/harden.py sn://FILE DST
    python tools/harden.py SRC --dry-run
"""

# ruff: noqa: E402

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def parse_args(args: list | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        'src', metavar='SRC', help='checkpoint that was trained with SN'
    )
    parser.add_argument(
        'dst', metavar='DST', nargs='?', help='new file; may not exist yet'
    )
    parser.add_argument(
        '--dry-run',
        action='store_true',
        help="print every layer's choice; write nothing",
    )
    parsed = parser.parse_args(args)
    if parsed.dst is None and not parsed.dry_run:
        parser.error('DST is missing (or give --dry-run)')
    return parsed


if __name__ == '__main__':
    # Help and wrong arguments are answered before PyTorch is imported.
    parse_args(None)

from sn_mm import cli
from sn_mm.anatomy.ratios import LayerRatios
from sn_mm.checkpoints import CheckpointError
from sn_mm.checkpoints.weights import read_weights
from sn_mm.checkpoints.writer import check_destination, write_checkpoint
from sn_mm.surgery.harden import (
    FINETUNE,
    describe_choices,
    harden_state,
    undecided,
)
from sn_mm.utils import text_table


def table(layers: list[LayerRatios]) -> str:
    """Each layer's choice, its ratio, and by how much that is the largest."""
    rows = []
    for layer in layers:
        row = [layer.name]
        for kind in ('mean', 'var'):
            names = '/'.join(dict.fromkeys(layer.choice(kind)))
            ratio = getattr(layer, kind).max(-1).mean()
            margin = layer.margin(kind).min()
            row.append(f'{names} ({ratio:.2f}, by {margin:.2f})')
        rows.append(row)
    return text_table(('layer', 'mean', 'var'), rows)


def harden_content(content: dict) -> tuple[dict, list[LayerRatios]]:
    """The content of the new file, and the layers as they were."""
    try:
        state, layers = harden_state(content['state_dict'])
        new = dict(meta=content.get('meta') or {}, state_dict=state)
        if 'ema_state_dict' in content:
            averaged = content['ema_state_dict']
            new['ema_state_dict'] = harden_state(averaged)[0]
    except ValueError as error:
        raise CheckpointError(str(error)) from error
    return new, layers


@cli.command()
def main(args: list | None = None) -> None:
    """Harden."""
    args = parse_args(args)
    if not args.dry_run:
        check_destination(Path(args.dst))
    content, layers = harden_content(read_weights(args.src))
    if args.dry_run:
        print(table(layers))
    else:
        state = content['state_dict'].values()
        size = sum(t.numel() * t.element_size() for t in state)
        write_checkpoint(content, Path(args.dst), size, progress=True)
        print(f'wrote {args.dst}')
    print(describe_choices(layers))
    unsure = undecided(layers)
    print(f'warning: {unsure}' if unsure else f'note: {FINETUNE}')


if __name__ == '__main__':
    sys.exit(main())
