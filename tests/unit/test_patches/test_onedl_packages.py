# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
import pytest

from sn_mm.patches import onedl_packages


@pytest.mark.parametrize(
    'installed, want',
    [
        ({'mmsegmentation'}, 'mmsegmentation'),
        ({'onedl-mmsegmentation'}, 'onedl-mmsegmentation'),
        # one's own goes first
        ({'mmsegmentation', 'onedl-mmsegmentation'}, 'mmsegmentation'),
        (set(), 'mmsegmentation'),
    ],
)
def test_the_distribution_that_is_there(monkeypatch, installed, want):
    names = dict(mmseg='mmsegmentation', mmdet='mmdet')
    monkeypatch.setattr(onedl_packages, 'MODULE2PACKAGE', names)
    monkeypatch.setattr(
        onedl_packages, '_is_installed', installed.__contains__
    )
    onedl_packages.name_onedl_packages()
    assert names == dict(mmseg=want, mmdet='mmdet')


def test_what_counts_as_installed():
    assert onedl_packages._is_installed('torch')
    assert not onedl_packages._is_installed('no-such-distribution')
