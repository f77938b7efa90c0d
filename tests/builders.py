# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Small models out of the toolboxes' own configs, and a toy for the Runner."""

from __future__ import annotations

import copy
import os.path as osp
import types
import uuid
from collections.abc import Iterator
from importlib import import_module

import torch
from mmengine.config import Config, ConfigDict
from mmengine.dataset import pseudo_collate
from mmengine.model import BaseModel
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import Runner
from torch import Tensor, nn

from sn_mm import SN, SN2d
from sn_mm.functional import switchable_norm_reference
from tests.utils import randomize

SN_CFG = dict(type='SN', requires_grad=True)
BN_CFG = dict(type='BN', requires_grad=True)
TINY = dict(depth=18, base_channels=8, stem_channels=8, init_cfg=None)
TINY_OUT = [8, 16, 32, 64]


def toolbox_config(scope: str, path: str) -> Config:
    """One of the configs that mmdet or mmseg ship."""
    folder = osp.dirname(import_module(scope).__file__)
    return Config.fromfile(osp.join(folder, '.mim', 'configs', path))


def build(scope: str, cfg: dict) -> nn.Module:
    """A model of mmdet or mmseg, initialized the same way every time."""
    import_module(f'{scope}.models')
    init_default_scope(scope)
    torch.manual_seed(0)
    model = MODELS.build(dict(cfg, _scope_=scope))
    if hasattr(model, 'init_weights'):
        model.init_weights()
    return model


def resnet(
    scope: str = 'mmdet', norm_cfg: dict = SN_CFG, **kwargs
) -> nn.Module:
    """ResNet-18 with an eighth of the channels."""
    return build(
        scope, dict(type='ResNet', norm_cfg=norm_cfg, **{**TINY, **kwargs})
    )


def faster_rcnn(norm_cfg: dict = SN_CFG, **backbone) -> nn.Module:
    """Faster R-CNN + FPN with a 4conv1fc box head, the norm everywhere."""
    return build('mmdet', faster_rcnn_config(norm_cfg, **backbone).model)


def faster_rcnn_config(norm_cfg: dict = SN_CFG, **backbone) -> Config:
    cfg = toolbox_config('mmdet', 'faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py')
    _shrink_detector(cfg.model, norm_cfg, backbone)
    cfg.model.rpn_head.update(in_channels=16, feat_channels=16)
    cfg.model.roi_head.bbox_roi_extractor.out_channels = 16
    cfg.model.roi_head.bbox_head.update(
        type='Shared4Conv1FCBBoxHead',
        in_channels=16,
        conv_out_channels=16,
        fc_out_channels=32,
        num_classes=3,
        norm_cfg=norm_cfg,
    )
    return cfg


def retinanet_config(norm_cfg: dict = SN_CFG, **backbone) -> Config:
    """RetinaNet, whose head serves all pyramid levels."""
    cfg = toolbox_config('mmdet', 'retinanet/retinanet_r50_fpn_1x_coco.py')
    _shrink_detector(cfg.model, norm_cfg, backbone)
    cfg.model.bbox_head.update(
        in_channels=16,
        feat_channels=16,
        stacked_convs=2,
        num_classes=3,
        norm_cfg=norm_cfg,
    )
    return cfg


def _shrink_detector(
    model: ConfigDict, norm_cfg: dict, backbone: dict
) -> None:
    model.backbone.update({**TINY, 'norm_cfg': norm_cfg, **backbone})
    model.neck.update(in_channels=TINY_OUT, out_channels=16, norm_cfg=norm_cfg)


def segmentor_config(
    name: str = 'pspnet', norm_cfg: dict = SN_CFG, **changes
) -> Config:
    """PSPNet or DeepLabV3 on a 7 x 7 stem, with the auxiliary head.

    ``changes`` are merged into the model.
    """
    cfg = toolbox_config('mmseg', f'_base_/models/{name}_r50-d8.py')
    model = cfg.model
    model.pretrained = None
    model.data_preprocessor.size_divisor = 32
    model.backbone.update({**TINY, 'type': 'ResNet', 'norm_cfg': norm_cfg})
    model.decode_head.update(
        in_channels=64, channels=16, num_classes=4, norm_cfg=norm_cfg
    )
    model.auxiliary_head.update(
        in_channels=32, channels=16, num_classes=4, norm_cfg=norm_cfg
    )
    cfg.merge_from_dict(dict(model=changes))
    return cfg


def seg_inputs(images: int, size: int = 64) -> dict:
    """A batch for mmseg's data preprocessor: 4 classes."""
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    gen = torch.Generator().manual_seed(0)
    samples = []
    for _ in range(images):
        sample = SegDataSample(
            metainfo=dict(
                img_shape=(size, size),
                ori_shape=(size, size),
                pad_shape=(size, size),
            )
        )
        labels = torch.randint(4, (1, size, size), generator=gen)
        sample.gt_sem_seg = PixelData(data=labels)
        samples.append(sample)
    pixels = torch.randint(256, (images, 3, size, size), generator=gen)
    return dict(inputs=list(pixels), data_samples=samples)


def switch_norms(model: nn.Module) -> dict[str, nn.Module]:
    """The SN layers of a model, by name; at least one."""
    layers = {n: m for n, m in model.named_modules() if isinstance(m, SN2d)}
    assert layers
    return layers


def randomize_norms(model: nn.Module) -> nn.Module:
    """Let every SN layer be itself: see :func:`tests.utils.randomize`."""
    for seed, layer in enumerate(switch_norms(model).values()):
        randomize(layer, seed)
        with torch.no_grad():
            layer.weight.abs_().add_(0.5)
    return model


def reference_copy(model: nn.Module) -> nn.Module:
    """A float64 copy whose SN layers are the oracle, gradients autograd's."""
    model = copy.deepcopy(model).double()
    for layer in switch_norms(model).values():
        layer.forward = types.MethodType(_reference_forward, layer)
    return model


def _reference_forward(self: SN2d, x: Tensor) -> Tensor:
    running = (None, None)
    if not self.training and self.track_running_stats:
        running = (self.running_mean, self.running_var)
    return switchable_norm_reference(
        x,
        self.mean_weight,
        self.var_weight,
        self.weight,
        self.bias,
        *running,
        statistics=self.statistics,
        unbiased=self.unbiased,
        num_groups=self.num_groups,
        eps=self.eps,
    )


def outputs_and_grads(
    model: nn.Module, inputs: Tensor | list[Tensor]
) -> dict[str, Tensor]:
    """Outputs of model(inputs) and all gradients of a fixed random loss.

    Parameters and inputs that take no part have no entry.
    """
    leaves = [x.detach().clone().requires_grad_() for x in flatten(inputs)]
    whole = leaves[0] if isinstance(inputs, Tensor) else list(leaves)
    outputs = list(flatten(model(whole)))
    gen = torch.Generator().manual_seed(7)
    weights = [
        torch.randn(o.shape, generator=gen, dtype=torch.double).to(o.dtype)
        for o in outputs
    ]
    model.zero_grad(set_to_none=True)
    # not autograd.grad(), which reentrant checkpoints (with_cp) refuse
    torch.autograd.backward(outputs, weights)
    values = {f'output {i}': o.detach() for i, o in enumerate(outputs)}
    named = [(f'input {i}', x) for i, x in enumerate(leaves)]
    named += model.named_parameters()
    values.update((k, p.grad) for k, p in named if p.grad is not None)
    return values


def flatten(outputs) -> Iterator[Tensor]:
    """The tensors in nested tuples and lists."""
    if isinstance(outputs, Tensor):
        yield outputs
    else:
        for o in outputs:
            yield from flatten(o)


class Toy(BaseModel):
    """What a Runner needs of a model: conv, norm, ReLU, classifier."""

    def __init__(self, norm: nn.Module | None = None) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, bias=False)
        self.norm = SN(4) if norm is None else norm
        self.fc = nn.Linear(4, 2)

    def forward(
        self, x: list[Tensor], label: list[int] = (), mode: str = 'tensor'
    ):
        scores = self.fc(
            self.norm(self.conv(torch.stack(x))).relu().mean((2, 3))
        )
        if mode == 'loss':
            labels = torch.tensor(label)
            return dict(loss=nn.functional.cross_entropy(scores, labels))
        return list(scores)


def toy_runner(
    work_dir, model: nn.Module | None = None, epochs: int = 1, **kwargs
) -> Runner:
    """A Runner that trains :class:`Toy` on 4 images, 2 iterations an epoch."""
    gen = torch.Generator().manual_seed(0)
    data = [
        dict(x=torch.randn(3, 8, 8, generator=gen), label=i % 2)
        for i in range(4)
    ]
    if model is None:
        torch.manual_seed(0)
        model = Toy()
    optimizer = dict(type='SGD', lr=0.1, momentum=0.9)
    return Runner(
        model,
        str(work_dir),
        train_dataloader=loader(data),
        train_cfg=dict(by_epoch=True, max_epochs=epochs),
        optim_wrapper=dict(type='OptimWrapper', optimizer=optimizer),
        **runner_options(),
        **kwargs,
    )


def runner_options() -> dict:
    """A scope of its own: Runners of one process share nothing."""
    return dict(experiment_name=uuid.uuid4().hex, default_scope='mmengine')


def loader(data: list[dict]) -> dict:
    """Batches of 2, always in the same order."""
    return dict(
        batch_size=2,
        dataset=data,
        num_workers=0,
        sampler=dict(type='DefaultSampler', shuffle=False),
        collate_fn=pseudo_collate,
    )
