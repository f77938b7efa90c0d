# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
from torch import nn

from sn_mm import SN
from sn_mm.analysis.caveats import caveats
from sn_mm.layers import IBN, KN


def test_a_line_for_each_caveat_and_none_for_others():
    norms = {
        'a': IBN(8),
        'b': SN(8),
        'c': KN(8),
        'd': IBN(8),
        'e': nn.BatchNorm2d(8),
    }
    ibn, kn = caveats(norms)
    assert ibn.startswith('2 layers (a, d): IBN by norm_cfg alone')
    assert kn.startswith('1 layers (c): KN without predicted moments')
    assert caveats(dict(b=SN(8), e=nn.BatchNorm2d(8))) == []
