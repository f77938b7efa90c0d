# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Demo data sets as folders that are whole or not there at all.

A folder is built under another name beside its place and renamed when it is
done. A marker file in it tells that it was made here, and from what.
"""

from __future__ import annotations

import json
import os
import shutil
from contextlib import contextmanager
from pathlib import Path

import cv2
from rich.console import Console
from rich.progress import track

from .cityscapes import CityscapesWriter
from .coco import CocoWriter
from .options import DemoOptions
from .scenes import render_scene

MARKER = '.sn_mm_demo.json'

# To be raised by every change that gives other bytes for the same options.
VERSION = 2

_WRITERS = dict(coco=CocoWriter, cityscapes=CityscapesWriter)


def make_demo_data(
    out: os.PathLike, options: DemoOptions, overwrite: bool = False
) -> bool:
    """Make a demo data set, unless it is there already.

    Equal options give equal bytes in every file (with the same versions of
    NumPy, OpenCV and scikit-learn).

    Args:
        out (os.PathLike): Folder to make; it holds a folder per format.
        options (DemoOptions): What to make.
        overwrite (bool): Whether to replace a folder that was made here from
            other options or that lacks files.

    Returns:
        bool: False if the folder was there already, made from these options.

    Raises:
        FileExistsError: If ``out`` holds what was not made here, or would
            have to be overwritten without leave. It is left as it is.
        ImportError: If scikit-learn is not installed.
        OSError: If the folder cannot be written. Nothing is left behind.
    """
    # Links are followed, so that the rename stays on one file system.
    out = Path(os.path.realpath(out))
    if _is_up_to_date(out, options, overwrite):
        return False
    with _scratch_folder(out) as scratch:
        _write_files(scratch, options)
        marker = dict(generator='sn_mm.demo', **_stamp(options))
        (scratch / MARKER).write_text(json.dumps(marker, indent=2) + '\n')
        # Somebody else may have made the folder while this one was built.
        if _is_up_to_date(out, options, overwrite):
            return False
        _move_into_place(scratch, out)
    return True


def expected_files(options: DemoOptions) -> set:
    """Relative paths of all files of a data set, the marker included."""
    files = {MARKER}
    for name in options.formats:
        for split, count in options.counts.items():
            paths = _WRITERS[name].paths(split, count)
            files.update(f'{name}/{path}' for path in paths)
    return files


def _is_up_to_date(out: Path, options: DemoOptions, overwrite: bool) -> bool:
    """Whether a folder needs no work; raises if it must not be touched."""
    if not out.exists():
        return False
    if not out.is_dir():
        raise FileExistsError(f'{out} is a file; name a folder')
    present = _files_in(out)
    if not present and not any(out.iterdir()):
        return False
    made_from = _read_marker(out)
    if made_from is None:
        raise FileExistsError(
            f'{out} is not empty and was not made by this tool (it has no '
            f'{MARKER}); name another folder'
        )
    stamp, known = made_from
    missing = known - present
    if stamp == _stamp(options) and not missing:
        return True
    if not overwrite:
        reason = _what_differs(stamp, _stamp(options), missing)
        raise FileExistsError(
            f'{out} {reason}; pass --overwrite to replace it'
        )
    foreign = present - known
    if foreign:
        raise FileExistsError(
            f'{out} also holds {len(foreign)} files that this tool did not '
            f'make, such as {min(foreign)}; move them away first'
        )
    return False


def _what_differs(found: dict, wanted: dict, missing: set) -> str:
    if found['version'] != wanted['version']:
        return 'was made by another version of this tool'
    if found != wanted:
        changed = {
            name: value
            for name, value in found['options'].items()
            if value != wanted['options'][name]
        }
        return f'was made with {json.dumps(changed)}'
    return f'lacks {len(missing)} of its files, such as {min(missing)}'


def _stamp(options: DemoOptions) -> dict:
    return dict(version=VERSION, options=options.to_json())


def _read_marker(out: Path):
    """What a folder says it was made from, and the files it should have.

    Returns:
        tuple[dict, set] or None: None if the folder has no valid marker.
    """
    try:
        content = json.loads((out / MARKER).read_text())
        stamp = dict(version=content['version'], options=content['options'])
        fields = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in content['options'].items()
        }
        return stamp, expected_files(DemoOptions(**fields))
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        return None


def _files_in(folder: Path) -> set:
    return {
        Path(root, name).relative_to(folder).as_posix()
        for root, _, names in os.walk(folder)
        for name in names
    }


def _write_files(folder: Path, options: DemoOptions) -> None:
    # OpenCV's threads cost more than they give on pictures this small.
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        for split, count in options.counts.items():
            writers = [
                _WRITERS[name](folder / name, split)
                for name in options.formats
            ]
            for index in track(
                range(count),
                description=f'{split} images',
                console=Console(stderr=True),
            ):
                scene = render_scene(options.seed, split, index, options.size)
                for writer in writers:
                    writer.add(index, scene)
            for writer in writers:
                writer.finish()
    finally:
        cv2.setNumThreads(threads)


@contextmanager
def _scratch_folder(out: Path):
    """A new folder beside ``out``, gone at the end unless it was renamed."""
    scratch = out.with_name(f'{out.name}.tmp-{os.getpid()}')
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        scratch.mkdir()
    except OSError as error:
        raise OSError(
            f'cannot make a folder in {out.parent} ({error.strerror}); make '
            'it writable or name another place'
        ) from error
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _move_into_place(scratch: Path, out: Path) -> None:
    """Rename a folder to ``out``, which may be empty or one of ours."""
    if not out.exists():
        scratch.rename(out)
        return
    old = out.with_name(f'{out.name}.old-{os.getpid()}')
    out.rename(old)
    try:
        scratch.rename(out)
    except BaseException:
        old.rename(out)
        raise
    shutil.rmtree(old)
