# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Batches, learning rates, steps and weight decay of the paper's settings."""

import re

import pytest
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS

from catalog import schedule_for
from catalog.schedule import batch_of
from sn_mm import RowNorm

from . import shrunk
from .test_placement import ANY_NORM, build

DECAY = 1e-4
ONE_X = ((8, 2), 0.02, 90000, [60000, 80000])
TWO_X = ((8, 2), 0.02, 180000, [120000, 160000])
THREE_X = ((8, 2), 0.02, 270000, [210000, 250000])
# GPUs x images, learning rate, iterations and where it falls, by name
SETTINGS = {
    '4xb3-120k_coco': ((4, 3), 0.01, 120000, [80000]),
    '1x_coco': ONE_X,
    '2x_coco': TWO_X,
    '3x_coco': THREE_X,
    '8xb2-100k_ade20k-450x450': ((8, 2), 0.02, 100000, None),
    '8xb2-130k_cityscapes-713x713': ((8, 2), 0.02, 130000, None),
}
EXPERIMENTS = [
    path for path in shrunk.paths() if path.parent.name != 'swap_in'
]


def setting_of(path):
    return SETTINGS[
        path.stem.rpartition('_')[0].rpartition('_')[2]
        + '_'
        + path.stem.rpartition('_')[2]
    ]


@pytest.mark.parametrize('path', EXPERIMENTS, ids=lambda path: path.stem)
def test_batch_length_and_steps(path):
    batch, lr, length, steps = setting_of(path)
    cfg = shrunk.load(path)
    assert cfg.train_dataloader.batch_size == batch[1]
    assert batch_of(cfg) == batch  # by auto_scale_lr
    assert not cfg.auto_scale_lr.enable
    assert cfg.train_cfg.type == 'IterBasedTrainLoop'
    assert cfg.train_cfg.max_iters == length
    sampler = cfg.train_dataloader.sampler.type
    assert sampler == 'InfiniteSampler'
    assert not cfg.log_processor.by_epoch
    assert not cfg.default_hooks.checkpoint.by_epoch
    optimizer = cfg.optim_wrapper.optimizer
    assert optimizer.type == 'SGD' and optimizer.momentum == 0.9
    assert (optimizer.lr, optimizer.weight_decay) == (lr, DECAY)
    *warmup, main = cfg.param_scheduler
    assert main.end == length and not main.by_epoch
    if steps:
        assert main.type == 'MultiStepLR' and main.gamma == 0.1
        assert main.milestones == steps
    else:
        assert main.type == 'PolyLR' and main.power == 0.9
        assert main.eta_min == 0 and main.begin == 0
    if '_fpn_' in path.name:
        assert [(w.type, w.end) for w in warmup] == [('LinearLR', 500)]
    else:
        assert warmup == []


@pytest.mark.parametrize(
    'path', shrunk.distinct(shrunk.paths()), ids=lambda path: path.stem
)
def test_norms_do_not_decay(path):
    cfg, model = build(path)
    model.train()
    optimizer = build_optim_wrapper(model, cfg.optim_wrapper).optimizer
    options = {
        id(p): (group['lr'], group['weight_decay'])
        for group in optimizer.param_groups
        for p in group['params']
    }
    base = (cfg.optim_wrapper.optimizer.lr, 0.0)
    twice = (2 * base[0], 0.0)
    # the public code's detectors: biases learn twice as fast, norms' too
    public = '_2fc_' in path.name
    # starts from BN weights: equal ratios that have little time to learn
    times = cfg.optim_wrapper.get('paramwise_cfg', {}).get('ratio_lr_mult', 1)
    assert times == (20 if path.parent.name == 'swap_in' else 1)
    ratios = (times * base[0], 0.0)
    seen = 0
    for module in model.modules():
        norm = isinstance(module, ANY_NORM)
        for name, p in module.named_parameters(recurse=False):
            if not p.requires_grad:
                continue
            if norm:
                wanted = base
                if name in ('mean_weight', 'var_weight'):
                    wanted = ratios
                elif public and name == 'bias':
                    wanted = twice
                assert options[id(p)] == pytest.approx(wanted)
                seen += 1
            elif name == 'weight' and p.dim() > 1:
                decay = cfg.optim_wrapper.optimizer.weight_decay
                assert options[id(p)] == (base[0], decay)
            elif name == 'bias' and public:
                assert options[id(p)] == twice
    assert seen or '4conv1fc_' in path.name or 'frozen-bn' in path.name


@pytest.mark.parametrize(
    'name, batch, lr, length, steps',
    [
        ('faster-rcnn_r50_fpn_sn-all_1x_coco', (8, 2), *ONE_X[1:]),
        (
            'faster-rcnn_r50_fpn_sn-all_1x_coco',
            (4, 2),
            0.01,
            180000,
            [120000, 160000],
        ),
        (
            'faster-rcnn_r50_fpn_sn-all_1x_coco',
            (1, 2),
            0.0025,
            720000,
            [480000, 640000],
        ),
        (
            'faster-rcnn_r50_c4_sn-all_4xb3-120k_coco',
            (8, 3),
            0.02,
            60000,
            [40000],
        ),
    ],
)
def test_schedule_for_another_batch(name, batch, lr, length, steps):
    path = shrunk.CONFIGS / 'faster_rcnn' / f'{name}.py'
    schedule = schedule_for(path, *batch)
    assert schedule.lr == pytest.approx(lr)
    assert schedule.length == length
    assert list(schedule.steps) == steps
    # as settings of a run, they make the config so
    cfg = shrunk.load(path)
    cfg.merge_from_dict(schedule.options)
    assert cfg.train_dataloader.batch_size == batch[1]
    assert cfg.optim_wrapper.optimizer.lr == pytest.approx(lr)
    assert cfg.train_cfg.max_iters == length
    main = cfg.param_scheduler[-1]
    assert (list(main.milestones), main.end) == (steps, length)
    if len(cfg.param_scheduler) > 1:
        assert cfg.param_scheduler[0].end == 500


def test_poly_schedule_for_another_batch():
    name = 'pspnet_r50-d8_syncsn-8x2_8xb2-130k_cityscapes-713x713.py'
    schedule = schedule_for(shrunk.CONFIGS / 'pspnet' / name, 4, 2)
    assert (schedule.lr, schedule.length) == (0.01, 260000)
    assert schedule.options['param_scheduler.0.end'] == 260000


def scales(pipeline):
    """What the resizing steps of a pipeline are given."""
    return [
        step.get('scale', step.get('scale_factor'))
        for step in shrunk.dicts(pipeline)
        if step.get('type') in ('Resize', 'RandomResize')
    ]


@pytest.mark.parametrize('path', EXPERIMENTS, ids=lambda path: path.stem)
def test_image_sizes(path):
    cfg = shrunk.load(path)
    train = cfg.train_dataloader.dataset.pipeline
    test = cfg.test_dataloader.dataset.pipeline
    assert cfg.val_dataloader.dataset.pipeline == test
    if 'coco' in path.name:
        scale = (1000, 600) if '_c4_' in path.name else (1333, 800)
        assert scales(train) == scales(test) == [scale]
        return
    crop = (450, 450) if 'ade20k' in path.name else (713, 713)
    assert cfg.model.data_preprocessor.size == crop
    crops = [s.crop_size for s in train if s.type == 'RandomCrop']
    assert crops == [crop]
    if 'ade20k' in path.name:
        assert scales(test) == [(2048, 450)]
        shorts = (300, 400, 500, 600)
        assert scales(cfg.tta_pipeline) == [(2048, s) for s in shorts]
    else:
        assert scales(test) == [(2048, 1024)]
        assert scales(cfg.tta_pipeline) == [1.0, 1.25, 1.5, 1.75]
    assert cfg.tta_model.type == 'SegTTAModel'


def trained_on_several_gpus():
    """Configs of mmdet and mmseg; those of ImageNet average the batches."""
    return [
        path
        for path in sorted(shrunk.CONFIGS.glob('*/*.py'))
        if path.parent.name not in ('_base_', 'demo', 'hard', 'pretrain')
        and not re.search('_demo|in1k', path.stem)
    ]


@pytest.mark.parametrize(
    'path', trained_on_several_gpus(), ids=lambda path: path.stem
)
def test_processes_share_running_statistics(path):
    """So that a test of a checkpoint is its validation again."""
    cfg = shrunk.load(path)
    types = {node.get('type') for node in shrunk.dicts(cfg.model)}
    if any(map(has_statistics_of_its_own, types)):
        hooks = {hook['type'] for hook in cfg.custom_hooks}
        assert 'SyncBuffersHook' in hooks


def has_statistics_of_its_own(kind):
    """Whether a type in a config is a layer whose processes differ."""
    cls = MODELS.module_dict.get(kind)
    ours = isinstance(cls, type) and issubclass(cls, RowNorm)
    return (
        ours and not cls.is_synchronized and cls(32).running_mean is not None
    )
