# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""The cost of a norm in a whole training step of a real model."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from mmcv.cnn.bricks.norm import is_norm
from mmengine.config import ConfigDict
from mmengine.logging import MMLogger
from mmengine.structures import InstanceData, PixelData
from torch import nn

from sn_mm.cli import build_model, load_config
from sn_mm.utils import progress_bar

from .layers import FAMILY
from .timing import runs, time_together

NORM_CFGS = {
    'SN': dict(type='SN'),
    'SyncSN': dict(type='SyncSN'),
    'BN': dict(type='BN'),
    'GN': dict(type='GN', num_groups=32),
    **{kind: dict(type=kind) for kind in FAMILY},
}
_CONFIGS = {
    'detector': 'mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py',
    'segmentor': (
        'mmseg::deeplabv3/deeplabv3_r50-d8_4xb2-40k_cityscapes-512x1024.py'
    ),
}


def benchmark_step(
    model: str,
    norms: Sequence[str],
    *,
    size: int = 384,
    images: int = 2,
    device: str = 'cpu',
    repeats: int = 5,
    amp: bool = False,
    rois: int = 512,
) -> list[dict]:
    """Time training steps: forward, losses, backward, SGD.

    Args:
        model: 'detector' (Faster R-CNN R50-FPN, 4conv1fc head) or
            'segmentor' (DeepLabV3 R50), with the norm everywhere.
        norms: names out of :data:`NORM_CFGS`.
        size: height and width of the images, pixels.
        images: batch size.
        device, repeats: as for the layers.
        amp: run the forward under autocast.
        rois: that the detector's heads are trained on, for each image.

    Returns:
        One dict per norm: ``model``, ``norm``, ``ms``, ``layers`` (norm
        layers in the model).
    """
    for name, known in ((model, _CONFIGS), *((n, NORM_CFGS) for n in norms)):
        if name not in known:
            raise ValueError(
                f'unknown {name!r}; choose from {", ".join(known)}'
            )
    models = {n: build(model, NORM_CFGS[n], rois).to(device) for n in norms}
    candidates = {
        n: _step(m, model, size, images, torch.device(device), amp)
        for n, m in models.items()
    }
    where = torch.device(device)
    total = runs(len(candidates), repeats, 1)
    with progress_bar(model, total) as advance:
        times = time_together(
            candidates, repeats, where, warmup=1, advance=advance
        )
    return [
        dict(model=model, norm=n, ms=ms, layers=_count(models[n]))
        for n, ms in times.items()
    ]


def build(model: str, norm_cfg: dict, rois: int = 512) -> nn.Module:
    """The model with one norm in backbone, neck and heads; not pretrained."""
    config = load_config(_CONFIGS[model])
    cfg = config.model
    cfg.pop('pretrained', None)
    cfg.backbone.update(init_cfg=None, frozen_stages=-1, norm_eval=False)
    if model == 'detector':
        cfg.neck.norm_cfg = norm_cfg
        cfg.train_cfg.rcnn.sampler.num = rois
        cfg.roi_head.bbox_head.update(
            type='Shared4Conv1FCBBoxHead',
            conv_out_channels=256,
            norm_cfg=norm_cfg,
        )
        # else the cost of RoIAlign depends on where the proposals of an
        # untrained RPN happen to lie, which differs from norm to norm
        cfg.roi_head.bbox_roi_extractor.roi_layer.sampling_ratio = 2
    else:
        # mmseg pads to the crops of the config, 512 x 1024, whatever is given
        cfg.data_preprocessor.update(size=None, size_divisor=32)
    config.model = ConfigDict(_with_norm(cfg.to_dict(), norm_cfg))
    torch.manual_seed(0)
    built = build_model(config)
    # it would log how each parameter was initialized
    MMLogger.get_current_instance().setLevel('WARNING')
    built.init_weights()
    return built.train()


def _with_norm(node, norm_cfg: dict):
    """Every norm_cfg in a config replaced."""
    if isinstance(node, dict):
        return {
            k: dict(norm_cfg) if k == 'norm_cfg' else _with_norm(v, norm_cfg)
            for k, v in node.items()
        }
    if isinstance(node, (list, tuple)):
        return type(node)(_with_norm(v, norm_cfg) for v in node)
    return node


def _count(model: nn.Module) -> int:
    return sum(is_norm(m) for m in model.modules())


def _step(
    model: nn.Module,
    kind: str,
    size: int,
    images: int,
    device: torch.device,
    amp: bool,
) -> Callable:
    optimizer = torch.optim.SGD(model.parameters(), 1e-4, 0.9)
    data = _batch(kind, size, images)

    def step():
        batch = model.data_preprocessor(data, training=True)
        with torch.autocast(device.type, enabled=amp):
            losses = model(**batch, mode='loss')
        total, _ = model.parse_losses(losses)
        optimizer.zero_grad()
        total.backward()
        optimizer.step()

    return step


def _batch(kind: str, size: int, images: int) -> dict:
    """Random images; 8 boxes each, or random classes for every pixel."""
    gen = torch.Generator().manual_seed(0)
    inputs = [
        torch.randint(0, 256, (3, size, size), generator=gen).byte()
        for _ in range(images)
    ]
    sample = _detection if kind == 'detector' else _segmentation
    return dict(
        inputs=inputs, data_samples=[sample(size, gen) for _ in inputs]
    )


def _detection(size: int, gen: torch.Generator):
    from mmdet.structures import DetDataSample

    corners = torch.rand(8, 2, generator=gen) * size * 0.6
    extents = (0.1 + 0.3 * torch.rand(8, 2, generator=gen)) * size
    sample = DetDataSample(metainfo=_meta(size))
    sample.gt_instances = InstanceData(
        bboxes=torch.cat([corners, corners + extents], 1),
        labels=torch.randint(0, 80, (8,), generator=gen),
    )
    return sample


def _segmentation(size: int, gen: torch.Generator):
    from mmseg.structures import SegDataSample

    labels = torch.randint(0, 19, (1, size, size), generator=gen)
    sample = SegDataSample(metainfo=_meta(size))
    sample.gt_sem_seg = PixelData(data=labels)
    return sample


def _meta(size: int) -> dict:
    shape = (size, size)
    return dict(
        img_shape=shape,
        ori_shape=shape,
        pad_shape=shape,
        batch_input_shape=shape,
        scale_factor=(1.0, 1.0),
    )
