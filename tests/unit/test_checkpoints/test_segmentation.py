# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
import pytest

from sn_mm.checkpoints.segmentation import decoder_entries, decoder_params
from sn_mm.utils.errors import CheckpointError

PARAMS = dict(ratios=3, dim=512, inputs=[2048, 1024], num_classes=150)


@pytest.mark.parametrize('inputs', [[2048, 1024], [512, 0]])
def test_sizes_come_back_from_the_shapes(inputs):
    params = dict(PARAMS, inputs=inputs)
    shapes = {e.public: e.shape for e in decoder_entries(params)}
    assert decoder_params(shapes) == params
    assert ('cbr_deepsup.0.weight' in shapes) is bool(inputs[1])


def test_heads_and_their_classifiers():
    entries = {e.public: (e.target, e.shape) for e in decoder_entries(PARAMS)}
    assert entries['cbr.0.weight'] == (
        'decode_head.convs.0.conv.weight',
        (512, 2048, 3, 3),
    )
    assert entries['conv_last_deepsup.bias'] == (
        'auxiliary_head.conv_seg.bias',
        (150,),
    )


def test_an_incomplete_file():
    with pytest.raises(CheckpointError, match='conv_last.weight is missing'):
        decoder_params({'cbr.0.weight': (4, 3, 3, 3)})
