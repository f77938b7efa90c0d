# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""ONNX files of folded models, run in onnxruntime."""

from __future__ import annotations

import builtins

import pytest
import torch
from torch import nn

from sn_mm import SN2d, fold
from sn_mm.deploy.onnx import export_onnx, parts_of
from tests.builders import (
    build,
    faster_rcnn,
    randomize_norms,
    resnet,
    retinanet_config,
    segmentor_config,
)
from tests.unit.test_surgery.test_fold import hardened

pytest.importorskip('onnx')
pytest.importorskip('onnxruntime')

MODELS = {
    'backbone': (resnet, ['image']),
    'two-stage': (faster_rcnn, ['image', 'box_head']),
    'one-stage': (
        lambda: build('mmdet', retinanet_config().model),
        ['image'],
    ),
    'segmentor': (
        lambda: build('mmseg', segmentor_config('deeplabv3').model),
        ['image'],
    ),
}


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('name', MODELS)
def test_folded_models(name, tmp_path):
    make, parts = MODELS[name]
    model = fold(hardened(make()))
    done = export_onnx(model, tmp_path / 'm', (128, 96))
    assert [d.name for d in done] == parts
    for file in done:
        assert file.path.stat().st_size
        assert file.error < 1e-5, file
    assert len(list(tmp_path.iterdir())) == len(parts)


def operators(path) -> set[str]:
    import onnx

    return {node.op_type for node in onnx.load(str(path)).graph.node}


def test_everything_on_bn_is_convolutions_alone(tmp_path):
    model = hardened(resnet(), [('bn', 'bn')])
    (file,) = export_onnx(fold(model), tmp_path / 'm', (64, 64))
    assert operators(file.path) <= {'Conv', 'Relu', 'Add', 'MaxPool'}


def test_sn_that_is_not_folded(tmp_path):
    model = randomize_norms(resnet())
    model.eval()
    (file,) = export_onnx(model, tmp_path / 'm', (64, 64))
    assert file.error < 1e-5


def test_parts_of_a_cascade():
    heads = nn.ModuleList(nn.Conv2d(4, 4, 1) for _ in range(2))
    layer = type('L', (nn.Module,), dict(output_size=(7, 7)))()
    extractor = nn.Module()
    extractor.roi_layers, extractor.out_channels = nn.ModuleList([layer]), 4
    model = nn.Sequential(nn.Conv2d(3, 4, 1), SN2d(4))
    model.roi_head = nn.Module()
    model.roi_head.bbox_head = heads
    model.roi_head.bbox_roi_extractor = nn.ModuleList([extractor] * 2)
    parts = parts_of(model, (8, 8))
    assert [p.name for p in parts] == ['image', 'box_head_0', 'box_head_1']
    with torch.no_grad():
        for part in parts[1:]:
            assert part.module(part.example)[0].shape[1:] == (4, 7, 7)


def test_without_onnxruntime(tmp_path, monkeypatch):
    imported = builtins.__import__

    def without(name, *args, **kwargs):
        if name == 'onnxruntime':
            raise ModuleNotFoundError(name)
        return imported(name, *args, **kwargs)

    monkeypatch.setattr(builtins, '__import__', without)
    model = nn.Sequential(nn.Conv2d(3, 4, 1), SN2d(4)).eval()
    (file,) = export_onnx(model, tmp_path / 'm', (8, 8))
    assert file.error is None and file.path.exists()


@pytest.mark.parametrize('hard', [False, True])
def test_layers_of_equal_weights_are_files_that_open(tmp_path, hard):
    """Torch writes equal tensors once; new and frozen layers have such."""
    norms = [SN2d(8) for _ in range(3)]
    with torch.no_grad():
        for norm in norms if hard else ():
            norm.mean_weight[1] = 9
            norm.var_weight[0] = 9
            norm.harden_()
    model = nn.Sequential(nn.Conv2d(3, 8, 1), *norms).eval()
    (file,) = export_onnx(model, tmp_path / 'model', (12, 20))
    assert file.error < 1e-4
