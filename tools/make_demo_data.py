# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Make the demo data: real handwritten digits on cluttered backgrounds.

Writes OUT/coco, an instance detection data set in the layout of COCO 2017,
and OUT/cityscapes, a semantic segmentation data set of the same scenes in
the layout of Cityscapes. Needs no download: the scans and photographs come
with scikit-learn. The same options give the same files, byte by byte.
"""

import argparse
import signal
import sys
from pathlib import Path

# the package beside this file, also where another program imports it
sys.path.insert(0, str(Path(__file__).resolve().parent))

from demo.options import FORMATS, DemoOptions


def parse_args(args: list) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    default = DemoOptions()
    parser.add_argument('out', metavar='OUT', help='folder to make')
    parser.add_argument(
        '--train',
        type=int,
        metavar='N',
        default=default.train,
        help='number of training images (default: %(default)s)',
    )
    parser.add_argument(
        '--val',
        type=int,
        metavar='N',
        default=default.val,
        help='number of validation images (default: %(default)s)',
    )
    parser.add_argument(
        '--size',
        type=int,
        nargs=2,
        metavar=('H', 'W'),
        default=default.size,
        help='height and width of the images in pixels '
        f'(default: {default.size[0]} {default.size[1]})',
    )
    parser.add_argument(
        '--seed',
        type=int,
        default=default.seed,
        help='seed of the random choices (default: %(default)s)',
    )
    parser.add_argument(
        '--only',
        choices=FORMATS,
        help='make one of the two data sets only (default: both)',
    )
    parser.add_argument(
        '--overwrite',
        action='store_true',
        help='replace OUT if this tool made it from other options',
    )
    return parser.parse_args(args)


def main(args: list = None) -> int:
    """Run the tool.

    Args:
        args (list[str], optional): Arguments; those of the command line by
            default.

    Returns:
        int: Exit status, 0 if the data set is there.
    """
    args = parse_args(args)
    # OpenCV takes longer to import than --help to print
    from demo.data_folder import make_demo_data

    try:
        options = DemoOptions(
            train=args.train,
            val=args.val,
            size=tuple(args.size),
            seed=args.seed,
            formats=(args.only,) if args.only else FORMATS,
        )
        made = make_demo_data(args.out, options, args.overwrite)
    except (ValueError, OSError, ImportError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print('\nstopped; nothing was written', file=sys.stderr)
        return 130
    print(f'{args.out}: {"made" if made else "up to date"}')
    return 0


if __name__ == '__main__':
    # Being stopped is no reason to leave half a data set behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    sys.exit(main())
