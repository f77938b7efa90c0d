# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
import torch
from mmdet.structures import DetDataSample

from sn_mm.models.detectron import DetectronDataPreprocessor


def test_test_images_end_at_their_padding():
    preprocessor = DetectronDataPreprocessor(
        mean=[1, 2, 3], std=[1, 1, 1], pad_size_divisor=32
    )
    for training, shape in ((False, (32, 64)), (True, (30, 40))):
        sample = DetDataSample(metainfo=dict(img_shape=(30, 40)))
        data = dict(inputs=[torch.ones(3, 30, 40)], data_samples=[sample])
        out = preprocessor(data, training)
        assert out['data_samples'][0].img_shape == shape
        assert out['inputs'].shape == (1, 3, 32, 64)
        assert (out['inputs'][0, :, 30:] == 0).all()
