# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
import io
from contextlib import contextmanager

import torch

from sn_mm.checkpoints import tracked_file


def tracked(monkeypatch, file, total, use):
    """Bytes that the bar was told of while the file was in use."""
    told = []

    @contextmanager
    def bar(text, count, in_bytes):
        assert (text, count, in_bytes) == ('reading', total, True)
        yield told.append

    monkeypatch.setattr(tracked_file, 'progress_bar', bar)
    with tracked_file.tracked(file, total, 'reading', True) as inside:
        use(inside)
    return told


def test_each_way_to_read_and_write_counts(monkeypatch):
    file = io.BytesIO(b'0123456789\nabc')

    def use(inside):
        assert inside.read(4) == b'0123'
        assert inside.readline() == b'456789\n'
        buffer = bytearray(2)
        assert inside.readinto(buffer) == 2 and buffer == b'ab'
        inside.seek(0)
        assert inside.write(b'xyz') == 3

    # what is missing at the end comes at once
    assert tracked(monkeypatch, file, 20, use) == [4, 7, 2, 3, 4]
    assert file.getvalue() == b'xyz3456789\nabc'


def test_torch_reads_and_writes_through_it(monkeypatch):
    value, file = torch.arange(1000.0), io.BytesIO()
    told = tracked(
        monkeypatch, file, 100, lambda inside: torch.save(value, inside)
    )
    assert sum(told) >= 4000
    file.seek(0)

    def read(inside):
        assert torch.equal(torch.load(inside, weights_only=True), value)

    tracked(monkeypatch, file, len(file.getvalue()), read)


def test_without_a_bar_the_file_is_itself():
    file = io.BytesIO()
    with tracked_file.tracked(file, 1, 'x', False) as inside:
        assert inside is file
