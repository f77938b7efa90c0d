# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""The ADE20K encoder and decoder in the shipped segmentor."""

import pytest
import torch
import torch.nn.functional as F
from mmengine.runner import load_checkpoint

from sn_mm import load_pretrained
from sn_mm.checkpoints import CheckpointError
from tests.public.networks import relative_error
from tests.public.released_configs import build

CONFIG = 'fcn-c1-deepsup_r50-d8_sn_100k_ade20k'


@pytest.fixture(scope='module')
def files(released):
    """(encoder, decoder, both files as one writes them)."""
    encoder, encoder_path = released('seg_encoder_resnet50dilated8_sn')
    decoder, decoder_path = released('seg_decoder_c1_deepsup')
    return encoder, decoder, f'sn://{encoder_path},{decoder_path}'


def load_by_scheme(model, files):
    load_checkpoint(model, files, strict=True)


def load_by_function(model, files):
    assert load_pretrained(model, files).complete


def load_one_by_one(model, files):
    encoder, decoder = files[len('sn://') :].split(',')
    report = load_pretrained(model, encoder)
    assert all('_head.' in key for key in report.missing)
    report = load_pretrained(model, decoder)
    assert all(key.startswith('backbone.') for key in report.missing)


@pytest.mark.parametrize(
    'load', [load_by_scheme, load_by_function, load_one_by_one]
)
@torch.no_grad()
def test_outputs(files, load):
    encoder, decoder, names = files
    _, model = build(CONFIG)
    load(model, names)
    image = torch.randn(
        1, 3, 64, 72, generator=torch.Generator().manual_seed(3)
    )
    features = encoder.features(image)
    got = model.extract_feat(image)
    for g, w in zip(got, features):
        assert relative_error(g, w) < 1e-4
    assert got[3].shape[-2:] == (8, 9)
    want, want_deep = decoder(features)
    assert relative_error(model.decode_head(got), want) < 1e-4
    assert relative_error(model.auxiliary_head(got), want_deep) < 1e-4


@torch.no_grad()
def test_prediction_is_upsampled_once_from_raw_pixels(files):
    """From bytes in BGR to the class map of an original image."""
    encoder, decoder, names = files
    _, model = build(CONFIG)
    load_pretrained(model, names)
    image = torch.randint(
        0, 256, (3, 64, 72), generator=torch.Generator().manual_seed(4)
    )
    from mmseg.structures import SegDataSample

    meta = dict(
        ori_shape=(50, 55), img_shape=(64, 72), pad_shape=(64, 72), flip=False
    )
    batch = dict(
        inputs=[image.byte()], data_samples=[SegDataSample(metainfo=meta)]
    )
    result = model.test_step(batch)[0]
    mean = torch.tensor([102.9801, 115.9465, 122.7717]).view(3, 1, 1)
    logits = decoder(encoder.features((image - mean)[None]))[0]
    want = F.interpolate(
        logits, (50, 55), mode='bilinear', align_corners=False
    )[0]
    assert relative_error(result.seg_logits.data, want) < 1e-4


@pytest.mark.parametrize(
    'changes, message',
    [
        ({'model.decode_head.num_classes': 19}, 'set num_classes=150'),
        (
            {'model.backbone.contract_dilation': False},
            'contract_dilation=True in model.backbone',
        ),
        ({'model.backbone.type': 'ResNetV1c'}, "set type='ResNet'"),
    ],
)
def test_contradictions(files, changes, message):
    _, model = build(CONFIG, **changes)
    with pytest.raises(CheckpointError, match=message):
        load_pretrained(model, files[2])


def test_images_are_resized_once_to_multiples_of_eight():
    import numpy as np

    from sn_mm.models.c1_deepsup import ResizeToStride

    results = dict(img=np.zeros((100, 133, 3), np.uint8))
    ResizeToStride(short=300).transform(results)
    assert results['img'].shape[:2] == results['img_shape'] == (304, 400)
    assert results['scale_factor'] == (400 / 133, 304 / 100)
