# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
import pytest
import torch
from torch import nn

from sn_mm.teaching.outputs import check_parts, run_taught, taught_modules

from .networks import pictures, trained


def test_parts():
    assert check_parts('backbone') == ('backbone',)
    assert check_parts(['neck', 'backbone']) == ('backbone', 'neck')
    assert check_parts('all') == ('backbone', 'neck', 'heads')
    assert check_parts(['all']) == ('backbone', 'neck', 'heads')
    with pytest.raises(ValueError, match="parts='bbox_head': choose from"):
        check_parts(['backbone', 'bbox_head'])
    for gap in ('neck', ('backbone', 'heads'), ()):
        with pytest.raises(ValueError, match='on what the parts before'):
            check_parts(gap)


def test_a_plain_module_is_one_part():
    model, x = trained(), pictures(1)[0]
    outputs = run_taught(model, x, ('backbone',))
    assert list(outputs) == ['output.0', 'output.1']
    assert torch.equal(outputs['output.1'], model(x)[1])
    assert taught_modules(model, ('backbone',)) == {'': model}


class Parts(nn.Module):
    def __init__(self, **heads):
        super().__init__()
        self.backbone, self.neck = trained(), nn.Identity()
        for name, head in heads.items():
            setattr(self, name, head)


class Maps(nn.Module):
    """A head that gives a dict, with indices that nobody can be taught."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(12, 2, 1)

    def forward(self, feats):
        logits = self.conv(feats[1])
        return dict(logits=logits, labels=logits.argmax(1))


class Odd(Maps):
    def forward(self, feats, positives):
        return self.conv(feats[1])


def test_names_of_parts_and_of_what_they_give():
    model = Parts(decode_head=Maps(), auxiliary_head=nn.ModuleList([Maps()]))
    outputs = run_taught(model, pictures(1)[0], check_parts('all'))
    assert list(outputs) == [
        'backbone.0',
        'backbone.1',
        'neck.0',
        'neck.1',
        'decode_head.logits',
        'auxiliary_head.0.logits',
    ]
    some = run_taught(model, pictures(1)[0], ('backbone',))
    assert list(some) == ['backbone.0', 'backbone.1']
    assert list(taught_modules(model, ('backbone', 'neck'))) == [
        'backbone',
        'neck',
    ]
    assert taught_modules(model, check_parts('all')) == {'': model}


def test_a_head_that_nobody_knows_how_to_run():
    model = Parts(mask_head=Odd())
    with pytest.raises(ValueError, match=r'mask_head \(Odd\) needs positives'):
        run_taught(model, pictures(1)[0], check_parts('all'))
