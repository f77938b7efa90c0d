# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Which norm every layer of the paper's models has, and what is frozen."""

import pytest
import torch
from mmengine.registry import MODELS, DefaultScope
from mmengine.utils.dl_utils.parrots_wrapper import SyncBatchNorm
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

import sn_mm
from catalog import read_paper

from . import shrunk

NORMS = {
    'BN-frozen': nn.BatchNorm2d,
    'BN': nn.BatchNorm2d,
    'GN': nn.GroupNorm,
    'SN': sn_mm.SN2d,
    'SyncBN': SyncBatchNorm,
    'SyncSN': sn_mm.SyncSN,
}
ANY_NORM = (_BatchNorm, nn.GroupNorm, nn.LayerNorm, sn_mm.SN2d)
PAPER = read_paper(shrunk.CONFIGS)
ROWS = [
    pytest.param(row, name, id=name.rpartition('/')[2])
    for row in PAPER.rows
    for name in row.configs
]
# norms of the parts of a ResNet50: stem, 16 blocks of 3, 4 shortcuts
R50, TO_CONV4, CONV5 = 53, 43, 10


def build(path):
    """(config, model of full size, without the work of filling weights)."""
    return shrunk.load(path), _build(shrunk.kind_of(path), path)


class _Models(dict):
    """Models by kind: those that differ in their start alone are one."""

    def __call__(self, kind, path):
        if kind not in self:
            cfg = shrunk.without_pretrained(shrunk.load(path))
            scope = DefaultScope.overwrite_default_scope(cfg.default_scope)
            # Swin reads numbers out of tensors while it is built
            device = 'cpu' if '_swin-' in path.name else 'meta'
            with scope, torch.device(device):
                self[kind] = MODELS.build(cfg.model)
        return self[kind]


_build = _Models()


def norms_in(model):
    """Norm layers by part: backbone, neck, roi_head.bbox_head, ..."""
    parts = {}
    for name, module in model.named_modules():
        if isinstance(module, ANY_NORM):
            words = name.split('.')
            part = '.'.join(words[: 2 if words[0] == 'roi_head' else 1])
            parts.setdefault(part, {})[name] = module
    return parts


def setting_of(row):
    """(backbone's norm, head's norm) of a row."""
    norm = row.setting.get('norm')
    return row.setting.get('backbone', norm), row.setting.get('head', norm)


@pytest.mark.parametrize('row, name', ROWS)
def test_norms_are_those_of_the_row(row, name):
    cfg, model = build(shrunk.CONFIGS / f'{name}.py')
    model.train()
    parts = norms_in(model)
    backbone, head = setting_of(row)
    expected = counts(name, head)
    assert {part: len(found) for part, found in parts.items()} == expected
    for part, found in parts.items():
        norm = backbone if part == 'backbone' else head
        assert {type(m) for m in found.values()} == {NORMS[norm]}, part
        for layer, module in found.items():
            check_state(row, name, norm, layer, module)


def counts(name, head):
    """Number of norm layers by part."""
    if '_c4_' in name:
        return {'backbone': TO_CONV4, 'roi_head.shared_head': CONV5}
    if 'rcnn' in name:
        found = {'backbone': R50}
        if head != 'none':
            # lateral and output convolutions; 4conv1fc; four mask ones
            found.update({'neck': 8, 'roi_head.bbox_head': 4})
            if 'mask-rcnn' in name:
                found['roi_head.mask_head'] = 4
        return found
    # ASPP: five branches, and what joins them; PSP: four bins likewise
    decoder = dict(deeplabv3=6, fcn_c1=1, pspnet=5)[name.partition('/')[0]]
    return {'backbone': R50, 'decode_head': decoder, 'auxiliary_head': 1}


def check_state(row, name, norm, layer, module):
    """Frozen or not: by the row, and in FPN detectors by the stage."""
    first = layer.startswith(
        ('backbone.bn1', 'backbone.sn1', 'backbone.gn1', 'backbone.layer1.')
    )
    frozen_stage = '_fpn_' in name and first
    frozen = norm == 'BN-frozen' or frozen_stage
    learns = {p.requires_grad for p in module.parameters()}
    assert learns == {not frozen}, layer
    if hasattr(module, 'running_mean'):
        assert module.training == (not frozen), layer
    if isinstance(module, nn.GroupNorm):
        assert module.num_groups == 32
    if isinstance(module, sn_mm.SN2d):
        assert module.statistics == ('in', 'ln', 'bn')


@pytest.mark.parametrize(
    'name, statistics, frozen',
    [
        ('faster-rcnn_r50_fpn_2fc_sn_2x_coco', ('in', 'ln', 'bn'), True),
        ('faster-rcnn_r50_fpn_2fc_sn-nobn_2x_coco', ('in', 'ln'), True),
        ('faster-rcnn_r50-scratch_fpn_2fc_sn_3x_coco', None, False),
        ('faster-rcnn_r50-scratch_fpn_2fc_sn-nobn_3x_coco', 'nobn', False),
        ('mask-rcnn_r50_fpn_sn-nobn-all_2x_coco', ('in', 'ln'), True),
        ('mask-rcnn_r50-scratch_fpn_sn-all_3x_coco', None, False),
        ('mask-rcnn_r50-scratch_fpn_sn-nobn-all_3x_coco', 'nobn', False),
    ],
)
def test_public_variants(name, statistics, frozen):
    statistics = {None: ('in', 'ln', 'bn'), 'nobn': ('in', 'ln')}.get(
        statistics, statistics
    )
    folder = 'mask_rcnn' if name.startswith('mask') else 'faster_rcnn'
    cfg, model = build(shrunk.CONFIGS / folder / f'{name}.py')
    model.train()
    parts = norms_in(model)
    expected = {'backbone': R50, 'neck': 8}
    if folder == 'mask_rcnn':
        expected.update({'roi_head.bbox_head': 4, 'roi_head.mask_head': 4})
    else:
        assert len(model.roi_head.bbox_head.shared_fcs) == 2
    assert {part: len(found) for part, found in parts.items()} == expected
    for found in parts.values():
        for layer, module in found.items():
            assert module.statistics == statistics
            assert (module.running_mean is None) == (statistics[-1] == 'ln')
            first = layer.startswith(('backbone.sn1', 'backbone.layer1.'))
            learns = {p.requires_grad for p in module.parameters()}
            assert learns == {not (frozen and first)}, layer
    scratch = '-scratch' in name
    assert cfg.model.data_preprocessor.bgr_to_rgb is not scratch
    assert (set(cfg.model.data_preprocessor.std) == {1.0}) is scratch


R101 = [path for path in shrunk.paths() if '_r101' in path.name]


@pytest.mark.parametrize('path', R101, ids=lambda path: path.stem)
def test_r101_is_r50_with_more_blocks(path):
    twin = path.with_name(path.name.replace('_r101', '_r50'))
    deep, shallow = build(path)[1], build(twin)[1]
    assert len(deep.backbone.layer3) == 23
    assert len(shallow.backbone.layer3) == 6
    deep, shallow = norms_in(deep), norms_in(shallow)
    assert deep.keys() == shallow.keys()
    for part, found in shallow.items():
        extra = 3 * 17 if part == 'backbone' else 0
        assert len(deep[part]) == len(found) + extra, part
        for layer, module in found.items():
            assert type(deep[part][layer]) is type(module), layer


@pytest.mark.parametrize(
    'path', shrunk.paths('deeplabv3', 'fcn_c1', 'pspnet'), ids=lambda p: p.stem
)
def test_segmentors_have_stride_8_and_a_plain_stem(path):
    backbone = shrunk.load(path).model.backbone
    assert backbone.type == 'ResNet'
    assert tuple(backbone.strides) == (1, 2, 1, 1)
    assert tuple(backbone.dilations) == (1, 1, 2, 4)
    assert backbone.contract_dilation
    if '_r50' in path.name and '_syncbn_' in path.name:
        built = build(path)[1]
        assert built.backbone.conv1.kernel_size == (7, 7)
        assert built.decode_head.num_classes == (
            150 if 'ade20k' in path.name else 19
        )
        assert built.auxiliary_head.loss_decode.loss_weight == 0.4
        assert built.auxiliary_head.num_classes == (
            built.decode_head.num_classes
        )


# -- swap-in recipes --
SWAPS = {
    'retinanet': {'backbone': 53, 'neck': 8, 'bbox_head': 8},
    'fcos': {'backbone': 53, 'neck': 8, 'bbox_head': 8},
    'cascade-rcnn': {'backbone': 53, 'neck': 8, 'roi_head.bbox_head': 12},
    'mask-rcnn_swin': {
        'neck': 8,
        'roi_head.bbox_head': 4,
        'roi_head.mask_head': 4,
    },
    # a stem of three convolutions; pyramid pooling on all levels
    'upernet': {'backbone': 55, 'decode_head': 12, 'auxiliary_head': 1},
    # two norms to every separable convolution
    'deeplabv3plus': {'backbone': 55, 'decode_head': 14, 'auxiliary_head': 1},
    'fcn_hr18': {'backbone': 305, 'decode_head': 1},
}


@pytest.mark.parametrize('fragment', ['sn', 'syncsn'])
@pytest.mark.parametrize('model', SWAPS)
def test_one_line_swaps_sn_or_syncsn_in(model, fragment, tmp_path):
    path = next(
        path
        for path in shrunk.paths('swap_in')
        if path.name.startswith(model) and '_sn-' in path.name
    )
    text = path.read_text()
    (tmp_path / 'swap_in').mkdir()
    (tmp_path / '_base_').symlink_to(shrunk.CONFIGS / '_base_')
    changed = tmp_path / 'swap_in' / path.name
    changed.write_text(text.replace('_base_/sn.py', f'_base_/{fragment}.py'))
    _, built = build(changed)
    parts = norms_in(built)
    if model == 'mask-rcnn_swin':  # the transformer keeps its own
        types = {type(m) for m in parts.pop('backbone').values()}
        assert types == {nn.LayerNorm}
    kind = sn_mm.SN2d if fragment == 'sn' else sn_mm.SyncSN
    assert {part: len(found) for part, found in parts.items()} == SWAPS[model]
    for found in parts.values():
        assert {type(m) for m in found.values()} == {kind}


def test_every_swap_in_config_is_one_of_these():
    names = [path.name for path in shrunk.paths('swap_in')]
    for name in names:
        assert any(name.startswith(model) for model in SWAPS), name
    for model in SWAPS:
        assert any(name.startswith(model) for name in names), model
    # SyncSN is shown for all segmentors
    sync = {name.partition('_syncsn')[0] for name in names if '_sync' in name}
    assert sync == {'upernet_r50', 'deeplabv3plus_r50-d8', 'fcn_hr18'}
