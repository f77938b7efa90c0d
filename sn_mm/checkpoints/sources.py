# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""What a user may write for a checkpoint, and the files behind it.

``[SCHEME://]FILE[,FILE][?option=value&...]``: see docs/checkpoints.md.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from urllib.parse import parse_qsl, urlparse

import torch
from mmengine.dist import barrier, is_main_process
from mmengine.runner.checkpoint import (
    _get_mmengine_home,
    get_deprecated_model_names,
    get_external_models,
    get_mmcls_models,
    get_torchvision_models,
)

from sn_mm.utils.errors import CheckpointError

from .ibn_net import url_of
from .layouts import Layout, recognize
from .locate import folder, locate
from .reader import CheckpointFile, read_checkpoint

SN, IBN, BN, BN_TO_ANY = 'sn://', 'ibn://', 'bn2sn://', 'bn2norm://'
SCHEMES = (SN, IBN, BN, BN_TO_ANY)
_OPTIONS = {
    SN: ('to',),
    IBN: ('to',),
    BN: ('ratios', 'part'),
    BN_TO_ANY: ('ratios', 'part'),
}


class HasPath(Protocol):
    """A file that was read."""

    path: Path


@dataclass(frozen=True)
class Source:
    """A checkpoint as written by a user.

    Attributes:
        scheme: one of :data:`SCHEMES`.
        names: one file or more.
        options: of the scheme: 'to', or 'ratios' and 'part'.
    """

    scheme: str
    names: tuple[str, ...]
    options: dict[str, str]

    @property
    def is_bn(self) -> bool:
        """Whether the file has BN, whatever norm the model has."""
        return self.scheme in (BN, BN_TO_ANY)


def parse(text: str) -> Source:
    """Take the user's text apart; without a scheme it means ``sn://``.

    Raises:
        CheckpointError: an option that the scheme does not have.
    """
    text = os.fspath(text)
    scheme = next((s for s in SCHEMES if text.startswith(s)), SN)
    rest = text[len(scheme) :] if text.startswith(scheme) else text
    base, mark, query = rest.rpartition('?')
    if not mark or '/' in query or Path(rest).exists():
        base, query = rest, ''
    options = dict(parse_qsl(query, keep_blank_values=True))
    known = _OPTIONS[scheme]
    for key in options:
        if key not in known:
            raise CheckpointError(
                f'{text}: {scheme} has no option {key!r}; it has '
                f'{", ".join(known)}'
            )
    return Source(scheme, _split(base), options)


def _split(names: str) -> tuple[str, ...]:
    """At commas, unless a file is really called so."""
    if Path(names).expanduser().exists() or '://' in names:
        return (names,)
    return tuple(n for n in names.split(',') if n)


def open_files(
    names: Sequence[str], progress: bool = False, of_run: bool = False
) -> list[CheckpointFile]:
    """Read the files; raises CheckpointError for any that cannot be.

    ``of_run``: those of one's own training runs, too.
    """
    if not names:
        raise CheckpointError('no file named: write sn://FILE')
    return [read_checkpoint(resolve(name), progress, of_run) for name in names]


def one_path(source: Source) -> Path:
    """The local file of a source that has one; raises CheckpointError."""
    if len(source.names) != 1:
        raise CheckpointError(f'{source.scheme} takes one file')
    return resolve(source.names[0])


def recognized(
    source: Source, progress: bool = False
) -> list[tuple[CheckpointFile, Layout]]:
    """Read and recognise every file of a source."""
    found = []
    for file in open_files(source.names, progress):
        with named_in_errors(file):
            layout = recognize(file.state)
            if source.scheme == IBN and layout.norm is not None:
                raise CheckpointError(
                    f'{layout} is no IBN-Net: write sn:// in place of ibn://'
                )
            found.append((file, layout))
    return found


@contextmanager
def named_in_errors(file: HasPath) -> Iterator[None]:
    """Put the file's name in front of errors about its contents."""
    try:
        yield
    except CheckpointError as error:
        raise CheckpointError(f'{file.path}: {error}') from error


# -- bn2sn:// takes the toolboxes' own schemes too --
def resolve(name: str) -> Path:
    """A local file for a path, a URL or a toolbox's scheme.

    The toolboxes' loaders unpickle without restrictions in older versions,
    so only their tables of addresses are used; downloads go to torch's
    cache.
    """
    url, digits = _url(name), ()
    if url is None:
        url, digits = _released(name)
    if url is None:
        return locate(name)
    if '://' not in url:  # the tables name files of a local mirror too
        return locate(os.path.join(_get_mmengine_home(), url))
    cached = Path(
        torch.hub.get_dir(),
        'checkpoints',
        os.path.basename(urlparse(url).path),
    )
    if is_main_process() and not cached.exists():
        cached.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(url, str(cached), *digits)
        except (OSError, RuntimeError) as error:
            raise CheckpointError(
                f'{url} cannot be fetched: {error}; fetch '
                f'it otherwise and put it at {cached}'
            ) from error
    barrier()
    return cached


def _released(name: str) -> tuple[str | None, tuple[str, ...]]:
    """Where an IBN-Net is published, and digits of its hash.

    None where the name means no such file, or one that is here.
    """
    url = url_of(name)
    if url is None:
        return None, ()
    file = os.path.basename(url)
    if Path(name).exists() or Path(file).exists():
        return None, ()
    if (folder() / file).is_file():
        return None, ()
    return url, (file.removesuffix('.pth').rpartition('-')[2],)


def _url(name: str) -> str | None:
    scheme, mark, rest = name.partition('://')
    if not mark:
        return None
    if scheme in ('http', 'https'):
        return name
    tables = {
        'torchvision': get_torchvision_models,
        'modelzoo': get_torchvision_models,
        'open-mmlab': get_external_models,
        'openmmlab': get_external_models,
        'mmcls': get_mmcls_models,
    }
    if scheme not in tables:
        raise CheckpointError(
            f'{name}: bn2sn:// and sn:// know files, http(s):// and '
            f'{", ".join(tables)}; download the file and name its path'
        )
    if tables[scheme] is get_external_models:
        rest = get_deprecated_model_names().get(rest, rest)
    try:
        table = tables[scheme]()
    except ImportError as error:
        raise CheckpointError(
            f'{name} needs torchvision: {error}; install it, or name the file'
        ) from error
    if rest not in table:
        raise CheckpointError(f'{name}: {scheme} has no model {rest!r}')
    return table[rest]
