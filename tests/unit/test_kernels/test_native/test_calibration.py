# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""The variant of the sweeps: found, kept, pinned."""

import json

import pytest
import torch

from sn_mm.kernels.native import calibration, sweeps
from sn_mm.kernels.native.calibration import Variant, calibrate, choose
from sn_mm.kernels.native.library import cache_folder

pytestmark = pytest.mark.skipif(
    sweeps.why_not(torch.zeros(1, 1)) is not None, reason='no C compiler'
)
FLOAT32 = sweeps._LIBRARIES[torch.float32]


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    monkeypatch.delenv('SN_MM_VARIANT', raising=False)
    yield
    sweeps.use_variant(None)


def choice():
    return choose(FLOAT32.get(), torch.float32, FLOAT32.files())


def stop(*args):
    raise AssertionError('tried again')


def kept():
    return list(cache_folder().glob('variant-*.json'))


def test_what_is_found_is_one_of_the_variants(monkeypatch):
    monkeypatch.setattr(calibration, '_SECONDS', 0)
    found = calibrate(FLOAT32.get(), torch.float32)
    assert found.read_ahead in (0, 2048) and found.write_ahead in (0, 2048)
    assert found.stream_from in (-1, *calibration._SIZES)


def test_found_once_and_kept(monkeypatch):
    monkeypatch.setattr(calibration, 'calibrate', lambda *_: Variant(0, 0, 7))
    assert choice().variant == Variant(0, 0, 7)
    monkeypatch.setattr(calibration, 'calibrate', stop)
    assert choice().variant == Variant(0, 0, 7)
    assert len(kept()) == 1


@pytest.mark.parametrize(
    'content',
    [b'', b'{', b'[]', b'{"read_ahead": "x"}', b'{"read_ahead": -5}', b'\xff'],
)
def test_a_broken_choice_is_made_again(content, monkeypatch):
    monkeypatch.setattr(calibration, 'calibrate', lambda *_: Variant(0, 0, 7))
    choice()
    kept()[0].write_bytes(content)
    assert choice().variant == Variant(0, 0, 7)
    assert json.loads(kept()[0].read_text())['stream_from'] == 7


def test_where_nothing_can_be_kept_it_is_found_for_the_process(
    monkeypatch, tmp_path
):
    (tmp_path / 'file').write_text('')
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'file'))
    monkeypatch.setattr(calibration, 'calibrate', lambda *_: Variant(0, 0, 7))
    assert choice().variant == Variant(0, 0, 7)


def test_the_environment_pins_a_variant(monkeypatch):
    monkeypatch.setattr(calibration, 'calibrate', stop)
    monkeypatch.setenv('SN_MM_VARIANT', '512, 0, 1048576')
    assert choice().variant == Variant(512, 0, 1048576)
    assert 'SN_MM_VARIANT' in choice().origin


@pytest.mark.parametrize('text', ['fast', '1,2', '1,2,3,4', '-1,0,0', '1,,2'])
def test_an_environment_variable_that_says_nothing_is_refused(
    text, monkeypatch
):
    monkeypatch.setenv('SN_MM_VARIANT', text)
    with pytest.raises(ValueError, match='SN_MM_VARIANT=.* three integers'):
        choice()


def test_descriptions():
    sweeps.use_variant(Variant(2048, 0, 6 << 20))
    assert sweeps.describe_library() == (
        'fetches 2048 values ahead of reading and nothing ahead of writing, '
        'writes outputs of 6 MB or more past the caches (as asked for)'
    )
    sweeps.use_variant(Variant(0, 0, -1))
    assert 'writes through the caches' in sweeps.describe_library()
