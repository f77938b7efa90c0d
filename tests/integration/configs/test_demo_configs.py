# Copyright (c) sn_mm authors. Licensed under Apache-2.0.

import pytest
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DATASETS, MODELS, DefaultScope
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

import sn_mm
from demo import METAINFO
from sn_mm.cli import register_toolbox
from tests.paths import CONFIGS

CONFIGS = sorted((CONFIGS / 'demo').glob('*.py'))
NORMS = dict(
    sn=sn_mm.SN2d, syncsn=sn_mm.SyncSN, gn=nn.GroupNorm, bn=nn.BatchNorm2d
)
SOME = dict(ssn=sn_mm.SSN)  # not for every task
ANY_NORM = (_NormBase, nn.GroupNorm, nn.LayerNorm)
TASKS = ('faster-rcnn', 'mask-rcnn', 'deeplabv3', 'pspnet')


@pytest.fixture(scope='module', params=CONFIGS, ids=lambda path: path.stem)
def path(request):
    return request.param


@pytest.fixture(scope='module')
def cfg(path, tiny_demo_data):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('SN_MM_DEMO_DATA', str(tiny_demo_data))
        cfg = Config.fromfile(path)
    scope = register_toolbox(cfg)
    with DefaultScope.overwrite_default_scope(scope):
        yield cfg


@pytest.fixture(scope='module')
def model(cfg):
    model = MODELS.build(cfg.model)
    model.init_weights()
    return model


def norm_of(path):
    """The norm's class, by the name of a config."""
    known = {**NORMS, **SOME}
    (name,) = (n for n in known if f'_{n}-all_' in path.name)
    return known[name]


def test_every_task_has_every_norm():
    names = [path.name for path in CONFIGS if norm_of(path) in NORMS.values()]
    assert len(names) == len(TASKS) * len(NORMS)
    for task in TASKS:
        for norm in NORMS:
            found = [
                name
                for name in names
                if name.startswith(f'{task}_') and f'_{norm}-all_demo' in name
            ]
            assert len(found) == 1, (task, norm)


def test_every_norm_layer_is_the_named_one(model, cfg, path):
    norms = {
        name: type(module)
        for name, module in model.named_modules()
        if isinstance(module, ANY_NORM)
    }
    assert set(norms.values()) == {norm_of(path)}
    # ... and every part has some
    parts = {
        '.'.join(name.split('.')[: 2 if name.startswith('roi') else 1])
        for name in norms
    }
    expected = {'backbone'}
    if cfg.default_scope == 'mmseg':
        expected |= {'decode_head', 'auxiliary_head'}
    else:
        expected |= {'neck', 'roi_head.bbox_head'}
        if 'mask-rcnn' in path.name:
            expected.add('roi_head.mask_head')
    assert parts == expected


def test_trains_everything_and_does_not_decay_norms(model, cfg):
    model.train()
    assert all(p.requires_grad for p in model.parameters())
    norms = [m for m in model.modules() if isinstance(m, ANY_NORM)]
    assert all(m.training for m in norms)
    optimizer = build_optim_wrapper(model, cfg.optim_wrapper).optimizer
    decay = {
        id(p): group['weight_decay']
        for group in optimizer.param_groups
        for p in group['params']
    }
    assert {decay[id(p)] for m in norms for p in m.parameters()} == {0}
    convs = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    assert 0 not in {decay[id(m.weight)] for m in convs}


def test_one_step_reaches_every_parameter(model, cfg):
    model.train()
    dataset = DATASETS.build(cfg.train_dataloader.dataset)
    batch = pseudo_collate([dataset[0], dataset[1]])
    data = model.data_preprocessor(batch, training=True)
    loss, _ = model.parse_losses(model(**data, mode='loss'))
    loss.backward()
    grads = {name: p.grad for name, p in model.named_parameters()}
    assert [n for n, grad in grads.items() if grad is None] == []
    assert [n for n, g in grads.items() if not g.isfinite().all()] == []


def test_predicts_at_the_size_of_the_picture(model, cfg):
    model.eval()
    dataset = DATASETS.build(cfg.test_dataloader.dataset)
    (sample,) = model.test_step(pseudo_collate([dataset[0]]))
    if cfg.default_scope == 'mmseg':
        assert sample.pred_sem_seg.shape == sample.ori_shape
    else:
        height, width = sample.ori_shape
        boxes = sample.pred_instances.bboxes
        assert (boxes >= 0).all()
        assert (boxes[:, 0::2] <= width).all()
        assert (boxes[:, 1::2] <= height).all()


@pytest.mark.parametrize(
    'path', [p for p in CONFIGS if 'rcnn' in p.name], ids=lambda p: p.stem
)
def test_classes_are_those_of_the_data(path):
    metainfo = Config.fromfile(path).train_dataloader.dataset.metainfo
    assert tuple(metainfo.classes) == METAINFO['classes']
    assert [tuple(c) for c in metainfo.palette] == METAINFO['palette']
