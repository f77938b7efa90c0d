# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""List the configs: paper's row and result, start, GPUs x images, length.

    python tools/list_configs.py                    # every config
    python tools/list_configs.py faster_rcnn        # one folder
    python tools/list_configs.py --table VII        # one table of the paper
    python tools/list_configs.py --batch 4x2 configs/faster_rcnn/NAME.py
    python tools/list_configs.py --write            # docs, metafiles, READMEs

--batch prints the learning rate and the steps of a config for that many GPUs
x images, as options of tools/train.py (--auto-scale-lr does no more than the
learning rate).
"""

# ruff: noqa: E402

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

# the modules beside this file, also where another program imports it
sys.path.insert(0, str(Path(__file__).resolve().parent))


def parse_args(args: list | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        'what', metavar='FOLDER', nargs='*', help='of configs/; default: all'
    )
    parser.add_argument(
        '--table', metavar='NUMBER', help='only this table of the paper'
    )
    parser.add_argument(
        '--batch',
        metavar='GPUSxIMAGES',
        type=_batch,
        help='with configs in place of folders: their schedule for it',
    )
    parser.add_argument(
        '--write',
        action='store_true',
        help='write docs/configs.md, metafile.yml and README.md of folders',
    )
    parsed = parser.parse_args(args)
    if parsed.batch and not parsed.what:
        parser.error('--batch needs a config')
    if parsed.write and (parsed.what or parsed.table or parsed.batch):
        parser.error('--write writes about all configs: name none')
    return parsed


def _batch(text: str) -> tuple[int, int]:
    match = re.fullmatch(r'(\d+)x(\d+)', text)
    if not match:
        raise argparse.ArgumentTypeError(
            f'{text!r} is not GPUS x IMAGES, as 8x2'
        )
    return int(match[1]), int(match[2])


if __name__ == '__main__':
    # Help and wrong arguments are answered before PyTorch is imported.
    parse_args(None)

from catalog import (
    CatalogError,
    ConfigEntry,
    Schedule,
    read_entries,
    read_paper,
    schedule_for,
    write_catalog,
)
from catalog.markdown import table
from sn_mm import cli

ROOT = Path(__file__).resolve().parents[1]


@cli.command(CatalogError)
def main(args: list | None = None) -> None:
    """List or write."""
    args = parse_args(args)
    if args.batch:
        for path in args.what:
            print(_options(schedule_for(Path(path), *args.batch)))
    elif args.write:
        paper = read_paper(ROOT / 'configs')
        entries = read_entries(ROOT / 'configs', paper)
        changed = write_catalog(ROOT, paper, entries)
        for path in changed:
            print(f'wrote {path.relative_to(ROOT)}')
        print(_written(entries, len(changed)))
    else:
        print(_listing(args.what, args.table))


def _listing(folders: list, number: str | None) -> str:
    configs = ROOT / 'configs'
    paper = read_paper(configs)
    for folder in folders:
        if not (configs / folder).is_dir():
            raise CatalogError(f'configs/ has no folder {folder}')
    if number is not None:
        known = list(dict.fromkeys(row.table for row in paper.rows))
        if number not in known:
            raise CatalogError(
                f'no Table {number} here; there are {", ".join(known)}'
            )

    def wanted(config: str) -> bool:
        tables = {row.table for row in paper.rows_of(config)}
        folder = config.partition('/')[0]
        return (not folders or folder in folders) and (
            number is None or number in tables
        )

    return table(read_entries(configs, paper, wanted))


def _written(entries: Sequence[ConfigEntry], changed: int) -> str:
    """What was not looked at, and whether anything has changed."""
    lines = [] if changed else ['everything is up to date']
    missing = [e for e in entries if e.missing]
    if missing:
        names = ', '.join(dict.fromkeys(e.missing for e in missing))
        lines.append(
            f'{len(missing)} configs cannot be read here ({names}): what is '
            'written about them stays as it is'
        )
    return '\n'.join(lines)


def _options(schedule: Schedule) -> str:
    """The schedule as arguments of tools/train.py."""
    settings = ' '.join(
        f'{key}={str(value).replace(" ", "")}'
        for key, value in schedule.options.items()
    )
    return f'--cfg-options {settings}'


if __name__ == '__main__':
    sys.exit(main())
