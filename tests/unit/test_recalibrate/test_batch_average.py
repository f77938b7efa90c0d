# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Batch average against float64 moments of what every layer was given."""

import copy
import random

import numpy as np
import pytest
import torch
from mmdet.testing import demo_mm_inputs
from torch import nn
from torch.utils.data import DataLoader

import sn_mm
from sn_mm import SN, SSN, SN2d, SyncSN
from tests.builders import (
    SN_CFG,
    Toy,
    build,
    faster_rcnn,
    randomize_norms,
    retinanet_config,
    seg_inputs,
    segmentor_config,
    switch_norms,
)
from tests.distributed import run_processes
from tests.utils import relative_error

RUNNING = ('running_mean', 'running_var')
TOLERANCE = 2e-6


def detector(norm_cfg=SN_CFG, **backbone):
    return faster_rcnn(norm_cfg, **{'frozen_stages': -1, **backbone})


def pspnet():
    return build('mmseg', segmentor_config('pspnet').model)


def det_batches(count):
    """Of other sizes each, with boxes; statistics differ from one to next."""
    return [
        demo_mm_inputs(2, [[3, 64 + 16 * i, 96]] * 2, num_classes=3)
        for i in range(count)
    ]


def seg_batches(count):
    return [seg_inputs(2 + i, 64 + 16 * i) for i in range(count)]


def moments(layer, x):
    """BN's statistics as the layer defines them, float64: mean, variance."""
    x = x.double()
    correction = getattr(layer, 'unbiased', isinstance(layer, nn.BatchNorm2d))
    if isinstance(layer, SN2d) and x[0, 0].numel() > 1:
        m = x.mean((2, 3))
        v = x.var((2, 3), unbiased=correction)
        return m.mean(0), v.mean(0) + m.var(0, unbiased=False)
    if isinstance(layer, SN2d):
        correction = False
    return x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=correction)


def expected(model, batches, kinds=SN2d, second_moment=False):
    """Mean and variance of every layer, from inputs of a copy that runs."""
    model = copy.deepcopy(model).train()
    layers = {
        name: m
        for name, m in model.named_modules()
        if isinstance(m, kinds) and m.training
    }
    inputs = {name: [] for name in layers}
    for name, layer in layers.items():
        layer.register_forward_pre_hook(
            lambda m, args, to=inputs[name]: to.append(args[0])
        )
    with torch.no_grad(), torch.random.fork_rng():
        numpy_state = np.random.get_state()
        for batch in batches:
            data = model.data_preprocessor(copy.deepcopy(batch), True)
            model(**data, mode='loss')
        np.random.set_state(numpy_state)
    found = {}
    for name, seen in inputs.items():
        both = [moments(layers[name], x) for x in seen if x.numel()]
        means, variances = map(torch.stack, zip(*both))
        var = variances.mean(0)
        if second_moment:
            mean_square = (variances + means.square()).mean(0)
            var = mean_square - means.mean(0).square()
        found[name] = means.mean(0), var, len(seen)
    return found


def assert_averaged(model, want, tolerance=TOLERANCE):
    layers = dict(model.named_modules())
    for name, (mean, var, _) in want.items():
        got = layers[name]
        assert relative_error(got.running_mean, mean) < tolerance, name
        assert relative_error(got.running_var, var) < tolerance, name


class Trace:
    """Everything of a model, and of the random state, but some statistics."""

    def __init__(self, model, averaged):
        self.model, self.averaged = model, set(averaged)
        self.before = self.state()
        self.tensors = self.identities()

    def state(self):
        tensors = {
            name: value.clone()
            for name, value in self.model.state_dict().items()
            if name not in self.averaged
        }
        modules = {
            name: (
                m.training,
                getattr(m, 'momentum', None),
                len(m._forward_hooks),
                len(m._forward_pre_hooks),
                sorted(vars(m)),
            )
            for name, m in self.model.named_modules()
        }
        trains = [p.requires_grad for p in self.model.parameters()]
        grads = [p.grad is None for p in self.model.parameters()]
        draws = [
            random.getstate(),
            tuple(map(str, np.random.get_state())),
            torch.get_rng_state().tolist(),
        ]
        return tensors, modules, trains, grads, draws

    def identities(self):
        both = (*self.model.named_parameters(), *self.model.named_buffers())
        return {name: (id(t), t.data_ptr()) for name, t in both}

    def assert_same(self):
        tensors, *rest = self.state()
        old, *old_rest = self.before
        assert tensors.keys() == old.keys()
        for name in tensors:
            assert torch.equal(tensors[name], old[name]), name
        assert rest == old_rest
        assert self.identities() == self.tensors


def running(names):
    return [f'{name}.{buffer}' for name in names for buffer in RUNNING]


# -- the numbers ---------------------------------------------------------
@pytest.mark.parametrize('second_moment', [False, True])
@pytest.mark.parametrize(
    'norm_cfg',
    [
        dict(type='SN'),
        dict(type='SN', unbiased=True, momentum=None),
        dict(type='SyncSN', momentum=0.003),
        dict(type='SSN'),
        dict(type='SN', statistics=('bn', 'gn'), num_groups=4),
    ],
    ids=lambda cfg: '-'.join(map(str, cfg.values())),
)
def test_detector(norm_cfg, second_moment):
    model = randomize_norms(detector(norm_cfg)).eval()
    batches = det_batches(3)
    want = expected(model, batches, second_moment=second_moment)
    assert set(want) == set(switch_norms(model))
    trace = Trace(model, running(want))
    done = sn_mm.update_batch_average(
        model, batches, 3, second_moment=second_moment
    )
    trace.assert_same()
    assert_averaged(model, want)
    assert sorted(done.layers) == sorted(want) and done.batches == 3


@pytest.mark.filterwarnings('ignore:SN on a map of a single position')
@pytest.mark.parametrize('second_moment', [False, True])
def test_segmentor_with_dropout_and_a_single_position(second_moment):
    model = randomize_norms(pspnet())
    assert any(isinstance(m, nn.Dropout2d) and m.p for m in model.modules())
    batches = seg_batches(3)
    want = expected(model, batches, second_moment=second_moment)
    trace = Trace(model, running(want))
    sn_mm.update_batch_average(model, batches, 3, second_moment=second_moment)
    trace.assert_same()
    assert_averaged(model, want)


def test_forms_differ_by_the_variance_between_batches():
    model = randomize_norms(Toy())
    batches = [dict(x=[torch.randn(3, 8, 8) + 5 * i] * 2) for i in range(3)]
    for batch in batches:
        batch['label'] = [0, 1]
    values = []
    for second_moment in (False, True):
        sn_mm.update_batch_average(
            model, batches, 3, second_moment=second_moment
        )
        values.append(model.norm.running_var.clone())
    with torch.no_grad():
        means = torch.stack(
            [model.conv(torch.stack(b['x'])).mean((0, 2, 3)) for b in batches]
        )
    between = means.double().var(0, unbiased=False)
    assert between.min() > 1e-3
    torch.testing.assert_close(
        (values[1] - values[0]).double(), between, rtol=1e-4, atol=1e-5
    )


@pytest.mark.filterwarnings('ignore:SN on a map of a single position')
def test_shared_heads_count_calls():
    model = randomize_norms(build('mmdet', retinanet_config().model))
    batches = det_batches(2)
    want = expected(model, batches)
    assert {calls for *_, calls in want.values()} == {2, 2 * 5}
    sn_mm.update_batch_average(model, batches)
    assert_averaged(model, want)


# -- which layers --------------------------------------------------------
@pytest.mark.parametrize('kind', ['BN', 'SyncBN'])
def test_batch_norms_may_be_included(kind):
    model = detector(dict(type=kind), norm_eval=False)
    sn_mm.convert_norm(model, dict(type='BN'))  # SyncBN needs a GPU
    batches = det_batches(2)
    with pytest.raises(ValueError, match='include_bn=True'):
        sn_mm.update_batch_average(model, batches, 2)
    want = expected(model, batches, nn.BatchNorm2d)
    trace = Trace(model, running(want))
    sn_mm.update_batch_average(model, batches, 2, include_bn=True)
    trace.assert_same()
    assert_averaged(model, want)


def test_batch_norms_are_left_alone_otherwise():
    model = detector()
    sn_mm.convert_norm(model, 'BN', include='neck')
    batches = det_batches(2)
    want = expected(model, batches)
    assert not any(name.startswith('neck') for name in want)
    trace = Trace(model, running(want))  # BN's statistics are in it
    sn_mm.update_batch_average(model, batches, 2)
    trace.assert_same()
    assert_averaged(model, want)


def test_frozen_layers_keep_their_statistics():
    model = detector(frozen_stages=1).eval()
    for p in model.backbone.parameters():
        p.requires_grad_()  # mmdet's train() takes this back
    batches = det_batches(2)
    want = expected(model, batches)
    frozen = set(switch_norms(model)) - set(want)
    assert {'backbone.sn1', 'backbone.layer1.0.sn1'} <= frozen
    trace = Trace(model, running(want))
    done = sn_mm.update_batch_average(model, batches, 2)
    trace.assert_same()
    assert_averaged(model, want)
    assert set(done.left) == frozen
    assert 'frozen' in done.summary()


def test_modes_inside_a_training_model_are_respected():
    model = detector().train()
    model.neck.eval()
    sn_mm.convert_norm(
        model, dict(type='SN', bn_eval=True), include='backbone.layer4'
    )
    sn_mm.convert_norm(
        model, dict(type='SN', statistics=('in', 'ln')), include='roi_head'
    )
    done = sn_mm.update_batch_average(model, det_batches(2), 2)
    parts = {name.split('.')[0] for name in done.layers}
    assert parts == {'backbone'}
    assert set(done.left.values()) == {'bn_eval', 'frozen in evaluation mode'}
    assert not model.neck.training and model.backbone.training


def test_without_batch_statistics_there_is_nothing_to_do(caplog):
    model = detector(dict(type='SN', statistics=('in', 'ln')))
    trace = Trace(model, ())
    done = sn_mm.update_batch_average(model, det_batches(1), 1)
    assert done.layers == [] and done.batches == 0
    trace.assert_same()


def test_layers_that_no_batch_reaches_keep_their_statistics():
    model = randomize_norms(Toy())
    model.unused = SN(4)
    model.unused.running_mean.fill_(3)
    batch = dict(x=[torch.randn(3, 8, 8)] * 2, label=[0, 1])
    done = sn_mm.update_batch_average(model, [batch])
    assert done.left == {'unused': 'not reached by the batches'}
    assert bool((model.unused.running_mean == 3).all())


@pytest.mark.parametrize('norm', [SN(4), nn.BatchNorm2d(4)])
def test_empty_batches_do_not_count(norm):
    class Halves(nn.Sequential):
        def forward(self, x):
            for part in (x[:0], x, x[:0]):
                super().forward(part)

    norm.num_batches_tracked.fill_(5)
    model = Halves(norm)
    x = torch.randn(3, 4, 5, 6)
    done = sn_mm.update_batch_average(model, [x], include_bn=True)
    assert done.layers == ['0']
    mean, var = moments(norm, x)
    assert relative_error(norm.running_mean, mean) < TOLERANCE
    assert relative_error(norm.running_var, var) < TOLERANCE
    assert int(norm.num_batches_tracked) == 5


def test_statistics_that_were_broken_are_mended():
    model = Toy()
    model.norm.running_mean.fill_(float('nan'))
    model.norm.running_var.fill_(float('inf'))
    batch = dict(x=[torch.randn(3, 8, 8)] * 2, label=[0, 1])
    sn_mm.update_batch_average(model, [batch])
    assert model.norm.running_mean.isfinite().all()
    assert model.norm.running_var.isfinite().all()


# -- nothing else changes ------------------------------------------------
class Failing:
    """Batches, the third of which cannot be read."""

    def __init__(self, batches):
        self.batches = batches

    def __iter__(self):
        yield from self.batches[:2]
        raise OSError('disk on fire')


@pytest.mark.parametrize('kind', ['SN', 'SSN'])
def test_an_error_changes_nothing(kind):
    model = randomize_norms(detector(dict(type=kind))).train()
    batches = det_batches(2)
    trace = Trace(model, ())  # the statistics, too
    with pytest.raises(OSError, match='disk on fire'):
        sn_mm.update_batch_average(model, Failing(batches))
    trace.assert_same()
    broken = [*batches, dict(inputs=1, data_samples=None)]
    with pytest.raises((TypeError, AttributeError)):
        sn_mm.update_batch_average(model, broken)
    trace.assert_same()
    with torch.no_grad():
        model.backbone.conv1.weight[0, 0, 0, 0] = float('nan')
    trace = Trace(model.neck, ())
    with pytest.raises(FloatingPointError, match='not finite'):
        sn_mm.update_batch_average(model, batches[:1])
    trace.assert_same()


def test_sparse_choices_are_not_made():
    """SSN fixes ratios in its training forward: not here."""
    model = Toy(SSN(4))
    model.norm.radius.fill_(1)
    with torch.no_grad():
        model.norm.mean_weight.copy_(torch.tensor([5.0, 0, 0]))
    batch = dict(x=[torch.randn(3, 8, 8)] * 2, label=[0, 1])
    trace = Trace(model, running(['norm']))
    sn_mm.update_batch_average(model, [batch])
    trace.assert_same()
    assert not model.norm.mean_fixed.any()


def test_training_goes_on_as_if_nothing_had_been():
    """Momentum of the optimizer, gradients and random crops of dropout."""
    results = []
    for averages in (False, True):
        torch.manual_seed(1)
        model = pspnet()
        optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9)
        for batch in seg_batches(2):
            data = model.data_preprocessor(batch, True)
            losses = model(**data, mode='loss')
            if averages:  # in the middle of a step, even
                sn_mm.update_batch_average(model, seg_batches(1))
            optimizer.zero_grad()
            model.parse_losses(losses)[0].backward()
            optimizer.step()
        results.append(list(model.parameters()))
    for without, with_average in zip(*results):
        assert torch.equal(without, with_average)


# -- data ----------------------------------------------------------------
def test_takes_what_there_is():
    model = Toy()
    batches = [
        dict(x=[torch.randn(3, 8, 8)] * 2, label=[0, 1]) for _ in range(3)
    ]
    assert sn_mm.update_batch_average(model, batches, 2).batches == 2
    assert sn_mm.update_batch_average(model, iter(batches), 9).batches == 3
    trace = Trace(model, ())
    for nothing in ([], iter(())):
        with pytest.raises(ValueError, match='at least one batch'):
            sn_mm.update_batch_average(model, nothing)
    for number in (0, -1):
        with pytest.raises(ValueError, match='num_iters'):
            sn_mm.update_batch_average(model, batches, number)
    trace.assert_same()


@pytest.mark.parametrize(
    'make', [lambda x: x, lambda x: (x, 'label'), lambda x: dict(input=x)]
)
def test_plain_modules(make):
    model = nn.Sequential(SN(3)).double()
    batches = torch.randn(4, 2, 3, 5, 6)
    sn_mm.update_batch_average(
        model, [make(x.double()) for x in batches], progress=False
    )
    pairs = [moments(model[0], x) for x in batches]
    for name, values in zip(RUNNING, zip(*pairs)):
        want = torch.stack(values).mean(0)
        assert relative_error(getattr(model[0], name), want) < 1e-12


def test_loader_goes_on_where_it_was():
    data = [
        dict(x=torch.randn(3, 8, 8), label=i % 2, index=i) for i in range(10)
    ]
    from mmengine.dataset import InfiniteSampler, pseudo_collate

    def loader():
        return DataLoader(
            data,
            2,
            sampler=InfiniteSampler(data, seed=3),
            collate_fn=pseudo_collate,
        )

    class Indexed(Toy):
        def forward(self, x, label=(), index=(), mode='tensor'):
            return super().forward(x, label, mode)

    orders = []
    for averages in (False, True):
        source = loader()
        iterator, order = iter(source), []
        for _ in range(8):
            order.append(next(iterator)['index'])
            if averages:
                done = sn_mm.update_batch_average(Indexed(), source, 3)
                assert done.batches == 3
        orders.append(order)
    assert orders[0] == orders[1]


# -- several processes ---------------------------------------------------
def _toy_batches(rank, count):
    gen = torch.Generator().manual_seed(rank)
    return [
        dict(
            x=[torch.randn(3, 8, 8, generator=gen) + rank + i] * (2 + rank),
            label=[0] * (2 + rank),
        )
        for i in range(count)
    ]


def _average_on(rank):
    results = {}
    for name, norm in dict(SN=SN(4), SyncSN=SyncSN(4)).items():
        torch.manual_seed(0)
        model = Toy(norm)
        for counts in ((2, 2), (3, 2)):
            done = sn_mm.update_batch_average(
                model, _toy_batches(rank, counts[rank])
            )
            results[name, counts] = (
                model.norm.running_mean.clone(),
                model.norm.running_var.clone(),
                done.batches,
            )
    return results


def test_all_processes_are_averaged():
    ranks = run_processes(_average_on)
    torch.manual_seed(0)
    model = Toy()
    with torch.no_grad():
        inputs = [
            [model.conv(torch.stack(b['x'])) for b in _toy_batches(rank, 2)]
            for rank in (0, 1)
        ]
    calls = dict(
        SN=[*inputs[0], *inputs[1]],
        SyncSN=[torch.cat(both) for both in zip(*inputs)],
    )
    for (name, _), (mean, var, batches) in ranks[0].items():
        pairs = [moments(model.norm, x) for x in calls[name]]
        want = [torch.stack(values).mean(0) for values in zip(*pairs)]
        assert relative_error(mean, want[0]) < TOLERANCE, name
        assert relative_error(var, want[1]) < TOLERANCE, name
        assert batches == 4
    for key, values in ranks[1].items():
        for a, b in zip(values, ranks[0][key]):
            assert torch.equal(torch.as_tensor(a), torch.as_tensor(b)), key
