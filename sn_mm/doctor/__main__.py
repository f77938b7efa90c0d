# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Say whether this environment fits together, with a fix beside each misfit.

Looks at Python, PyTorch, torchvision, the OpenMMLab packages, sn_mm's kernels
and folders, by importing them as programs do. Installs and changes nothing
unless told to. The exit status is 1 if something has to be mended, else 0.

    python -m sn_mm.doctor
    python -m sn_mm.doctor --install-ops    mmcv-lite gets sn_mm's operators
                                            at every start of this Python
    python -m sn_mm.doctor --remove-ops     undoes that
    python -m sn_mm.doctor --packages mmdet    only packages; mmdet is needed
"""

from __future__ import annotations

import argparse
import os
import sys

from . import start_up
from .checks import TOOLBOXES, examine
from .findings import page


def parse_args(args: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog='python -m sn_mm.doctor',
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    group = parser.add_mutually_exclusive_group()
    group.add_argument(
        '--install-ops',
        action='store_true',
        help="write the line into this environment's site-packages",
    )
    group.add_argument(
        '--remove-ops', action='store_true', help='remove the line'
    )
    group.add_argument(
        '--packages',
        nargs='*',
        metavar='TOOLBOX',
        help='look at no folders, and miss these (mmdet, mmseg, mmpretrain) '
        'where they are not installed',
    )
    args = parser.parse_args(args)
    for name in args.packages or ():
        if name not in TOOLBOXES:
            parser.error(f'{name} is none of {", ".join(TOOLBOXES)}')
    return args


def main(args: list[str] | None = None) -> int:
    """Print the page, or install or remove the line.

    Args:
        args: arguments; those of the command line by default.

    Returns:
        Exit status: 0, or 1 if something has to be mended.
    """
    args = parse_args(args)
    try:
        if args.install_ops:
            print(start_up.install())
            return 0
        if args.remove_ops:
            print(start_up.remove())
            return 0
    except OSError as error:
        print(f'error: {error}', file=sys.stderr)
        return 1
    findings = examine(
        needed=args.packages or (), folders=args.packages is None
    )
    try:
        print(_printable(page(findings)), flush=True)
    except BrokenPipeError:  # whoever read it has gone, as head does
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return int(any(f.state == 'misfit' for f in findings))


def _printable(text: str) -> str:
    """The text, with escapes for what standard output cannot encode.

    Errors of other packages may be in any language.
    """
    encoding = sys.stdout.encoding or 'utf-8'
    return text.encode(encoding, 'backslashreplace').decode(encoding)


if __name__ == '__main__':
    sys.exit(main())
