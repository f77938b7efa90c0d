# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""RoIAlign on maps whose samples are known; mmcv's numbers: test_agreement."""

import pytest
import torch

from sn_mm.ops.roi_align import roi_align_backward, roi_align_forward


def ramp(height=8, width=10):
    """x(r, c) = r + 100 c: its bilinear samples are exact."""
    rows = torch.arange(float(height))[:, None]
    columns = torch.arange(float(width))
    return (rows + 100 * columns)[None, None]


def forward(x, rois, bins=(2, 2), pool_mode=1, sampling_ratio=2):
    output = x.new_empty(len(rois), x.shape[1], *bins)
    at = torch.empty_like(output), torch.empty_like(output)
    roi_align_forward(
        *(x, rois, output, *at, *bins, 1.0, sampling_ratio, pool_mode, True)
    )
    return output, at


def test_the_mean_of_a_ramp_is_its_value_in_the_middle(backend):
    rois = torch.tensor([[0, 2.0, 1, 6, 5]])
    output, _ = forward(ramp(), rois)
    # bins of two pixels; their middles lie half a pixel before the corner's
    rows = torch.tensor([1.5, 3.5])[:, None]
    want = rows + 100 * torch.tensor([2.5, 4.5])
    torch.testing.assert_close(output[0, 0], want)


def test_the_largest_sample_and_its_place(backend):
    rois = torch.tensor([[0, 2.0, 1, 6, 5]])
    output, (y, x) = forward(ramp(), rois, (1, 1), pool_mode=0)
    # samples at quarters and three quarters of the RoI
    assert (y.item(), x.item()) == (3.5, 4.5)
    torch.testing.assert_close(output.item(), 3.5 + 450)


@pytest.mark.parametrize('pool_mode', [0, 1])
def test_backward_is_the_transpose(backend, pool_mode):
    """<forward(x), dy> = <x, backward(dy)>, for the same samples."""
    torch.manual_seed(0)
    x = torch.randn(2, 3, 8, 9).double()
    rois = torch.tensor(
        [[1, 0.3, 1.2, 6.1, 7.0], [0, 2, 2, 3, 9], [1, -4, 0, 2, 2]]
    ).double()
    bins = (3, 2)
    output = x.new_empty(3, 3, *bins)
    at = torch.empty_like(output), torch.empty_like(output)
    options = (*bins, 1.0, 2, pool_mode, True)
    roi_align_forward(x, rois, output, *at, *options)
    dy, dx = torch.randn_like(output), torch.empty_like(x)
    roi_align_backward(dy, rois, *at, dx, *options)
    torch.testing.assert_close((output * dy).sum(), (x * dx).sum())


def test_rois_outside_and_none(backend):
    far = torch.tensor([[0, 90.0, 90, 95, 95]])
    assert not forward(ramp(), far)[0].any()
    output, (y, _) = forward(ramp(), far, pool_mode=0, sampling_ratio=0)
    assert forward(ramp(), far[:0])[0].shape == (0, 1, 2, 2)
    with pytest.raises(ValueError, match='one of the 1 images'):
        forward(ramp(), torch.tensor([[1, 0.0, 0, 1, 1]]))
