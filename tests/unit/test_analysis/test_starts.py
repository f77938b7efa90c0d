# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
from sn_mm.analysis.advice import Start
from sn_mm.analysis.starts import starts_of_layers
from sn_mm.anatomy.starts import note_start
from tests.builders import faster_rcnn


def start(checkpoint, component=None):
    return Start(checkpoint, component, None, component or '')


def test_layers_that_were_filled_know_it():
    model = faster_rcnn()
    note_start(model.backbone.sn1, 'sn://a.pth')
    assert starts_of_layers(model, []) == {'backbone.sn1': 'sn://a.pth'}


def test_the_first_start_that_fills_a_component_counts():
    model = faster_rcnn()
    starts = [start('neck.pth', 'neck'), start('all.pth')]
    found = starts_of_layers(model, starts)
    assert found['neck.fpn_convs.0.sn'] == 'neck.pth'
    assert found['backbone.sn1'] == 'all.pth'


def test_ratios_that_a_bn_file_will_give():
    """A frozen stage takes BN alone, whatever is asked."""
    model = faster_rcnn(frozen_stages=1)
    file = 'bn2sn://bn.pth?ratios=0.5'
    found = starts_of_layers(model, [start(file, 'backbone')])
    assert not any(n.startswith('neck') for n in found)
    assert found['backbone.sn1'].startswith(f'{file}: bn')
    later = found['backbone.layer2.0.sn1']
    assert later.startswith(f'{file}: ') and later != found['backbone.sn1']
    assert '0.5' in later.removeprefix(file)
