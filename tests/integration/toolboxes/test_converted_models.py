# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""type='ConvertNorm' wherever the toolboxes build and load models."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from mmcv.cnn import build_norm_layer
from mmdet.apis import DetInferencer, init_detector
from mmengine.config import Config
from mmengine.runner import Runner
from mmseg.apis import MMSegInferencer, init_model
from torch import nn

from sn_mm import SN2d, convert_norm
from sn_mm.anatomy import find_norms
from sn_mm.checkpoints import CheckpointError
from tests.builders import (
    BN_CFG,
    build,
    faster_rcnn_config,
    randomize_norms,
    runner_options,
    segmentor_config,
    toolbox_config,
)


def pspnet_config():
    """With the test data that the inferencer reads its pipeline from."""
    cfg = toolbox_config(
        'mmseg', 'pspnet/pspnet_r50-d8_4xb2-40k_cityscapes-512x1024.py'
    )
    cfg.model = segmentor_config('pspnet', BN_CFG).model
    return cfg


CONFIGS = dict(mmdet=lambda: faster_rcnn_config(BN_CFG), mmseg=pspnet_config)
PICTURE = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)


class Case:
    """A config of BN that ConvertNorm makes SN, and files of both."""

    def __init__(self, scope, folder):
        self.scope, self.cfg = scope, CONFIGS[scope]()
        bn = build(scope, self.cfg.model)
        self.bn = self.save(bn, folder / 'bn.pth')
        self.model = randomize_norms(convert_norm(bn, 'SN')).eval()
        self.sn = self.save(self.model, folder / 'sn.pth')
        self.cfg.model.update(
            type='ConvertNorm',
            of=self.cfg.model.type,
            norm_cfg=dict(type='SN'),
        )
        self.cfg.custom_imports = dict(imports=['sn_mm'])
        self.cfg.work_dir = str(folder)
        self.path = str(folder / 'config.py')
        self.cfg.dump(self.path)

    def save(self, model, path):
        classes = [f'class {i}' for i in range(19)]
        palette = [[i, i, i] for i in range(19)]
        meta = dict(dataset_meta=dict(classes=classes, palette=palette))
        torch.save(dict(state_dict=model.state_dict(), meta=meta), path)
        return str(path)


@pytest.fixture(scope='module', params=CONFIGS)
def case(request, tmp_path_factory):
    return Case(request.param, tmp_path_factory.mktemp(request.param))


def by_runner(case, file):
    cfg = case.cfg.copy()
    for name in ('train', 'val', 'test'):
        for part in ('dataloader', 'cfg', 'evaluator'):
            cfg.pop(f'{name}_{part}', None)
    for name in ('optim_wrapper', 'param_scheduler', 'auto_scale_lr'):
        cfg.pop(name, None)
    cfg.update(load_from=file, **runner_options())
    cfg.default_scope = case.scope
    runner = Runner.from_cfg(cfg)
    runner.load_or_resume()
    return runner.model


def by_api(case, file):
    init = init_detector if case.scope == 'mmdet' else init_model
    return init(case.path, file, device='cpu')


def by_inferencer(case, file):
    kind = DetInferencer if case.scope == 'mmdet' else MMSegInferencer
    inferencer = kind(case.path, file, device='cpu')
    inferencer(PICTURE, return_vis=False)
    return inferencer.model


WAYS = (by_runner, by_api, by_inferencer)


@pytest.mark.parametrize('way', WAYS)
def test_the_model_of_convert_norm(case, way):
    got = way(case, case.sn).eval()
    assert type(got) is type(case.model)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in got.modules())
    assert any(isinstance(m, SN2d) for m in got.modules())
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        pairs = zip(got.extract_feat(x), case.model.extract_feat(x))
        assert all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize('way', WAYS)
def test_batch_norms_of_the_same_names_are_refused(case, way):
    with pytest.raises(CheckpointError, match='bn2sn://'):
        way(case, case.bn)


def test_batch_norms_to_start_from(case):
    model = by_runner(case, f'bn2sn://{case.bn}')
    state = torch.load(case.bn, weights_only=False)['state_dict']
    own = model.state_dict()
    assert all(torch.equal(own[key], value) for key, value in state.items())


def test_norms_that_no_norm_cfg_reaches():
    """BiSeNet's attention modules name BN themselves."""
    cfg = toolbox_config(
        'mmseg',
        'bisenetv1/bisenetv1_r18-d32_4xb4-160k_cityscapes-1024x1024.py',
    ).model
    cfg.backbone.backbone_cfg.init_cfg = None
    cfg.update(type='ConvertNorm', of=cfg.type, norm_cfg=dict(type='SN'))
    model = build('mmseg', cfg)
    norms = [m for m in model.modules() if isinstance(m, SN2d)]
    assert len(norms) > 30
    assert not any(
        isinstance(m, nn.modules.batchnorm._BatchNorm) for m in model.modules()
    )


HEAD = dict(in_channels=32, channels=16, num_classes=3, norm_cfg=BN_CFG)
GN_CFG = dict(type='GN', num_groups=4)
# of both toolboxes, that have norms of their own ways: a part, its inputs'
# (channels, side), and kinds of norms that stay
PARTS = {
    'mmdet.CTResNetNeck': (
        dict(
            in_channels=32,
            num_deconv_filters=(16, 16),
            num_deconv_kernels=(4, 4),
            use_dcn=False,
        ),
        [(32, 8)],
    ),
    'mmdet.DilatedEncoder': (
        dict(
            in_channels=32,
            out_channels=32,
            block_mid_channels=16,
            num_residual_blocks=2,
            block_dilations=[2, 4],
        ),
        [(32, 8)],
    ),
    'mmdet.SSH': (
        dict(num_scales=1, in_channels=[16], out_channels=[16]),
        [(16, 8)],
    ),
    'mmdet.BFP': (
        dict(
            in_channels=16,
            num_levels=2,
            refine_level=1,
            refine_type='non_local',
            norm_cfg=BN_CFG,
        ),
        [(16, 16), (16, 8)],
    ),
    'mmdet.ChannelMapper': (
        dict(in_channels=[8], out_channels=16, norm_cfg=GN_CFG, num_outs=2),
        [(8, 8)],
    ),
    'mmseg.EMAHead': (
        dict(HEAD, ema_channels=16, num_bases=8, num_stages=2),
        [(32, 8)],
    ),
    'mmseg.DMHead': (dict(HEAD, filter_sizes=(1, 3)), [(32, 8)]),
    'mmseg.LightHamHead': (
        dict(
            HEAD,
            in_channels=[16, 32],
            in_index=[0, 1],
            ham_channels=16,
            norm_cfg=GN_CFG,
            ham_kwargs=dict(MD_R=8),
        ),
        [(16, 16), (32, 8)],
    ),
    'mmseg.SETRUPHead': (HEAD, [(32, 8)], nn.LayerNorm),
    'mmseg.STDCHead': (
        dict(HEAD, num_classes=2, num_convs=1, boundary_threshold=0.1),
        [(32, 8)],
    ),
}


@pytest.mark.parametrize('target', ['SN', 'SSN', 'BN'])
@pytest.mark.parametrize('name', PARTS)
def test_parts_of_toolboxes_go_on_to_run(name, target):
    """convert_norm never leaves a model that cannot run."""
    options, maps, *stay = PARTS[name]
    scope, kind = name.split('.')
    part = build(scope, Config(dict(part=dict(options, type=kind))).part)
    convert_norm(part, target)
    wanted = type(build_norm_layer(dict(type=target), 8)[1])
    kinds = {type(m) for m in find_norms(part).values()}
    assert kinds == {wanted, *stay}
    x = tuple(torch.randn(2, c, side, side) for c, side in maps)
    found = part.train()(x)
    found = found if isinstance(found, (list, tuple)) else [found]
    sum(t.sum() for t in found).backward()
    with torch.no_grad():
        part.eval()(x)
