# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Convert public SN checkpoints to OpenMMLab's names, and back.

The layout is recognised from the keys. Files are read without running code
in them, the source stays as it is, and DST appears only when it is complete.

    python tools/convert_checkpoint.py SRC DST
    python tools/convert_checkpoint.py ENCODER,DECODER DST --to mmseg
    python tools/convert_checkpoint.py bn2sn://resnet50.pth?ratios=bn DST
    python tools/convert_checkpoint.py CONVERTED DST --to public
    python tools/convert_checkpoint.py SRC --dry-run

Files can also be used without converting them: sn://SRC wherever a config
takes a checkpoint. docs/checkpoints.md has the table of layouts.
"""

# ruff: noqa: E402

from __future__ import annotations

import argparse
import sys
from pathlib import Path

_TARGETS = (
    'mmdet',
    'mmseg',
    'mmpretrain',
    'torchvision',
    'backbone',
    'model',
    'public',
)


def parse_args(args: list | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        'src',
        metavar='SRC',
        help='file, published file name, ENCODER,DECODER or bn2sn://FILE',
    )
    parser.add_argument(
        'dst', metavar='DST', nargs='?', help='new file; may not exist yet'
    )
    parser.add_argument(
        '--to',
        choices=_TARGETS,
        default='mmdet',
        help='names of the new file: mmdet or mmseg (backbones without a '
        'prefix, detectors and segmentors whole; the default), backbone, '
        'model (all with their component in front), mmpretrain, torchvision, '
        "or public (back to the authors' layout)",
    )
    parser.add_argument(
        '--part',
        choices=('encoder', 'decoder'),
        help='which of the two public files a segmentor becomes',
    )
    parser.add_argument(
        '--dry-run',
        action='store_true',
        help='print the layout and where every key goes; write nothing',
    )
    parsed = parser.parse_args(args)
    if parsed.dst is None and not parsed.dry_run:
        parser.error('DST is missing (or give --dry-run)')
    return parsed


if __name__ == '__main__':
    # Help and wrong arguments are answered before PyTorch is imported.
    parse_args(None)

from sn_mm import cli
from sn_mm.checkpoints.files import convert_source
from sn_mm.checkpoints.writer import check_destination, write_checkpoint


@cli.command()
def main(args: list | None = None) -> None:
    """Convert."""
    args = parse_args(args)
    if not args.dry_run:
        check_destination(Path(args.dst))
    made = convert_source(args.src, args.to, args.part, progress=True)
    if args.dry_run:
        print(made.report.table())
    else:
        write_checkpoint(
            made.content, Path(args.dst), made.size, progress=True
        )
        print(f'wrote {args.dst}')
    print(made.report.summary())


if __name__ == '__main__':
    sys.exit(main())
