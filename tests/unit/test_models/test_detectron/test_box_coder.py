# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
import pytest
import torch

from sn_mm.models.detectron import DetectronBBoxCoder
from tests.unit.test_models.test_detectron.close import assert_close

CODERS = {
    'rpn': DetectronBBoxCoder(),
    'rcnn': DetectronBBoxCoder(target_stds=(0.1, 0.1, 0.2, 0.2)),
}


@pytest.mark.parametrize('name', CODERS)
def test_box_coder(conventions, name):
    coder = CODERS[name]
    boxes, gt = conventions['boxes'], conventions['gt']
    assert_close(coder.encode(boxes, gt), conventions[f'deltas_{name}'])
    assert_close(
        coder.decode(boxes, conventions['raw_deltas']),
        conventions[f'decoded_{name}'],
    )
    back = coder.decode(boxes, coder.encode(boxes, gt))
    assert_close(back, gt, 1e-4)


def test_decoded_boxes_are_clipped_to_the_last_pixel(conventions):
    got = CODERS['rcnn'].decode(
        conventions['boxes'], conventions['raw_deltas'], max_shape=(600, 800)
    )
    assert_close(got, conventions['decoded_rcnn_clipped_600x800'])


def test_class_wise_decoding_is_decoding_of_each(conventions):
    boxes, deltas = conventions['boxes'], conventions['raw_deltas']
    both = CODERS['rcnn'].decode(boxes, torch.cat([deltas, -deltas], dim=1))
    assert torch.equal(both[:, :4], CODERS['rcnn'].decode(boxes, deltas))
    assert torch.equal(both[:, 4:], CODERS['rcnn'].decode(boxes, -deltas))
