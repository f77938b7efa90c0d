# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
import copy

from torch import nn

from sn_mm.anatomy.starts import frozen_in_training, note_start, noted_start
from tests.builders import resnet


def test_notes_stay_with_the_layer():
    layer = nn.BatchNorm2d(3)
    assert noted_start(layer) is None
    note_start(layer, 'here')
    assert noted_start(layer) == 'here'
    assert noted_start(copy.deepcopy(layer)) == 'here'
    assert 'start' not in ''.join(layer.state_dict())


def test_stages_that_freeze_when_training_starts():
    """mmdet's ResNet freezes them in ``train()``."""
    model = resnet(frozen_stages=1, norm_eval=False)
    model.eval()
    for parameter in model.parameters():
        parameter.requires_grad = True
    model.layer4[0].conv1.weight.requires_grad = False
    frozen = frozen_in_training(model)
    assert model.sn1 in frozen and model.layer1[0].sn1 in frozen
    assert model.layer4[0].conv1 in frozen
    assert model.layer2[0].sn1 not in frozen and model.relu not in frozen
    # and nothing has changed
    assert not any(m.training for m in model.modules())
    grads = [n for n, p in model.named_parameters() if not p.requires_grad]
    assert grads == ['layer4.0.conv1.weight']
