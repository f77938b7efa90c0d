# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""SN and SyncSN on two processes, through mmengine's DDP and Runner."""

from __future__ import annotations

import copy
import tempfile
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from mmengine.model import MMDistributedDataParallel
from torch import Tensor, nn

from sn_mm import SN, SyncSN
from sn_mm.functional import switchable_norm_reference
from tests.builders import Toy, toy_runner
from tests.distributed import run_processes
from tests.utils import randomize, relative_error, run

TOLERANCE = 1e-5
NORMS = dict(SN=SN, SyncSN=SyncSN)
# Per process: images and size. Uneven, of other sizes, and none at all.
SPLITS = {
    'even': [(2, 6, 5), (2, 6, 5)],
    'uneven': [(3, 6, 5), (1, 6, 5)],
    'sizes': [(2, 8, 6), (3, 3, 5)],
    'empty': [(0, 6, 5), (3, 6, 5)],
    'single': [(1, 1, 1), (2, 4, 4)],
    'nothing': [(0, 6, 5), (0, 2, 2)],
}
STATISTICS = [('in', 'ln', 'bn'), ('bn',), ('gn', 'bn')]
CASES = [(split, stats) for split in SPLITS for stats in STATISTICS]
COLLECTIVES = [
    name
    for name in dir(dist)
    if name.startswith(
        (
            'all_',
            'broadcast',
            'reduce',
            'gather',
            'scatter',
            'send',
            'recv',
            'isend',
            'irecv',
            'barrier',
            'monitored_barrier',
        )
    )
    and callable(getattr(dist, name))
]


# -- what each process does ----------------------------------------------
def batches(split: str, channels: int = 8) -> list[tuple[Tensor, Tensor]]:
    """(x, dy) of every process, on quite another level each."""
    gen = torch.Generator().manual_seed(list(SPLITS).index(split))
    pairs = []
    for rank, (n, *size) in enumerate(SPLITS[split]):
        both = torch.randn(2, n, channels, *size, generator=gen)
        pairs.append((both[0] * (rank + 1) + 3 * rank, both[1]))
    return pairs


def sync_layer(statistics: tuple[str, ...], **kwargs) -> SyncSN:
    layer = SyncSN(8, statistics=statistics, num_groups=4, **kwargs)
    return randomize(layer).train()


class Counter:
    """Names of the collectives called, in order."""

    def __init__(self) -> None:
        self.calls = []
        for name in COLLECTIVES:
            setattr(dist, name, self._counted(name, getattr(dist, name)))

    def _counted(self, name, function):

        def counted(*args, **kwargs):
            self.calls.append(name)
            return function(*args, **kwargs)

        return counted

    def take(self) -> list[str]:
        calls, self.calls[:] = list(self.calls), []
        return calls


def layers_alone(rank: int) -> dict:
    """Values and collectives of one SyncSN layer in every case."""
    counter, results = Counter(), {}
    for split, statistics in CASES:
        layer = sync_layer(statistics)
        x, dy = batches(split)[rank]
        x.requires_grad_()
        counter.take()
        y = layer(x)
        forward = counter.take()
        y.backward(dy)
        backward = counter.take()
        grads = {n: p.grad for n, p in layer.named_parameters()}
        layer.eval()
        layer(x)
        results[split, statistics] = dict(
            values=dict(y=y.detach(), x=x.grad),
            grads=grads,
            buffers={n: b.clone() for n, b in layer.named_buffers()},
            forward=forward,
            backward=backward,
            evaluation=counter.take(),
        )
    results['silent'] = silent_layers(counter)
    return results


def silent_layers(counter: Counter) -> dict:
    """Collectives of layers that have nothing to synchronize."""
    x = torch.randn(2, 8, 4, 4, requires_grad=True)
    calls = {}
    for name, layer in dict(
        sn=SN(8),
        no_bn=SyncSN(8, statistics=('in', 'ln')),
        bn_eval=SyncSN(8, bn_eval=True),
    ).items():
        counter.take()
        layer.train()(x).sum().backward()
        calls[name] = counter.take()
    return calls


def whole_net(norm: type) -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False),
        norm(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1, bias=False),
        norm(8),
        nn.ReLU(),
        nn.Conv2d(8, 2, 1),
    )
    for m in net:
        if isinstance(m, SN):
            randomize(m)
    return net.double().train()


def net_batch() -> tuple[Tensor, Tensor]:
    gen = torch.Generator().manual_seed(3)
    x = torch.randn(4, 3, 7, 6, generator=gen, dtype=torch.double)
    x += torch.arange(4.0).view(4, 1, 1, 1)  # the parts differ
    return x, torch.randn(4, 2, 7, 6, generator=gen, dtype=torch.double)


class Forgetful(nn.Module):
    """Has a norm that a step leaves out: find_unused_parameters."""

    def __init__(self, norm: type) -> None:
        super().__init__()
        self.net = whole_net(norm)
        self.unused = norm(4).double()

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


def nets_in_ddp(rank: int) -> dict:
    """One backward of a net under MMDistributedDataParallel."""
    results = {}
    share = slice(0, 3) if rank == 0 else slice(3, 4)
    for name, norm in NORMS.items():
        for unused in (False, True):
            net = Forgetful(norm) if unused else whole_net(norm)
            model = MMDistributedDataParallel(
                net, broadcast_buffers=False, find_unused_parameters=unused
            )
            x, dy = net_batch()
            for _ in range(2):  # the reducer complains in the second
                model.zero_grad()
                y = model(x[share])
                # DDP averages over processes, the loss is a sum
                (2 * (y * dy[share]).sum()).backward()
            inner = net.net if unused else net
            results[name, unused] = dict(
                y=y.detach(),
                grads={n: p.grad for n, p in inner.named_parameters()},
                buffers={n: b.clone() for n, b in inner.named_buffers()},
            )
    return results


def runner_trains(rank: int) -> dict:
    """The Runner with ``sync_bn='torch'``; its log and the model's state."""
    results = {}
    for name, norm in NORMS.items():
        torch.manual_seed(0)
        with tempfile.TemporaryDirectory() as folder:
            runner = toy_runner(
                folder,
                Toy(norm(4)),
                2,
                launcher='pytorch',
                cfg=dict(
                    sync_bn='torch',
                    model_wrapper_cfg=dict(
                        type='MMDistributedDataParallel',
                        device_ids=None,
                        find_unused_parameters=True,
                    ),
                ),
            )
            runner.train()
            dist.barrier()
            log = ''.join(p.read_text() for p in Path(folder).rglob('*.log'))
        assert isinstance(runner.model, MMDistributedDataParallel)
        results[name] = dict(
            log=log,
            kind=type(runner.model.module.norm),
            state=copy.deepcopy(runner.model.module.state_dict()),
        )
    return results


def everything(rank: int) -> dict:
    """All of it, since starting processes is what takes long."""
    return dict(
        nets=nets_in_ddp(rank),
        runner=runner_trains(rank),
        layers=layers_alone(rank),
    )


@pytest.fixture(scope='module')
def processes():
    return run_processes(everything)


# -- what it must amount to ----------------------------------------------
def joint_reference(split: str, statistics: tuple[str, ...]) -> dict:
    """One SyncSN over both batches, by float64 autograd.

    The oracle takes BN statistics as arguments: those of the union, which
    are part of the graph.
    """
    layer = sync_layer(statistics).double()
    pairs = [
        (x.double().requires_grad_(), dy.double()) for x, dy in batches(split)
    ]
    union = torch.cat([x.transpose(0, 1).flatten(1) for x, _ in pairs], 1)
    mean = union.mean(1)
    var = (union - mean[:, None]).square().mean(1)
    values = []
    for x, _ in pairs:
        if len(x):
            y = switchable_norm_reference(
                x,
                layer.mean_weight,
                layer.var_weight,
                layer.weight,
                layer.bias,
                mean,
                var,
                statistics=statistics,
                num_groups=4,
            )
        else:
            y = x.clone()
        values.append(y)
    sum((y * dy).sum() for y, (_, dy) in zip(values, pairs)).backward()
    grads = {n: p.grad for n, p in layer.named_parameters()}
    buffers = dict(
        running_mean=layer.running_mean.lerp(mean, 0.1),
        running_var=layer.running_var.lerp(var, 0.1),
    )
    return dict(
        values=[
            dict(y=y.detach(), x=x.grad) for y, (x, _) in zip(values, pairs)
        ],
        grads=grads,
        buffers={n: b.detach() for n, b in buffers.items()},
    )


SOMETHING = [c for c in CASES if c[0] != 'nothing']


@pytest.mark.parametrize('split,statistics', SOMETHING)
def test_sync_sn_is_sn_over_the_joint_batch(processes, split, statistics):
    got = [p['layers'][split, statistics] for p in processes]
    want = joint_reference(split, statistics)
    for rank in range(2):
        for name, value in want['values'][rank].items():
            error = relative_error(got[rank]['values'][name], value)
            assert error < TOLERANCE, (rank, name, error)
    for name, value in want['grads'].items():
        # each process has its part of the sum; DDP adds them up
        total = got[0]['grads'][name] + got[1]['grads'][name]
        error = relative_error(total, value)
        assert error < TOLERANCE, (name, error)
    for name, value in want['buffers'].items():
        first, second = (g['buffers'][name] for g in got)
        assert torch.equal(first, second), name
        assert relative_error(first, value) < TOLERANCE, name
    assert int(got[0]['buffers']['num_batches_tracked']) == 1


@pytest.mark.parametrize('statistics', STATISTICS)
def test_nothing_anywhere(processes, statistics):
    start = sync_layer(statistics)
    for p in processes:
        got = p['layers']['nothing', statistics]
        assert not len(got['values']['y'])
        assert all(not g.any() for g in got['grads'].values())
        for name, buffer in start.named_buffers():
            assert torch.equal(got['buffers'][name], buffer), name


@pytest.mark.parametrize('split,statistics', CASES)
def test_one_collective_forward_and_one_backward(processes, split, statistics):
    for p in processes:
        got = p['layers'][split, statistics]
        assert len(got['forward']) == 1
        assert got['forward'][0].startswith('all_gather')
        assert got['backward'] == ['all_reduce']
        assert got['evaluation'] == []


def test_no_collective_where_nothing_is_synchronized(processes):
    for p in processes:
        assert p['layers']['silent'] == dict(sn=[], no_bn=[], bn_eval=[])


@pytest.mark.parametrize('unused', [False, True])
def test_sync_sn_in_ddp_is_the_whole_batch_on_one(processes, unused):
    net = whole_net(SN)
    x, dy = net_batch()
    for _ in range(2):  # as there: running statistics move twice
        net.zero_grad()
        y = net(x)
        (y * dy).sum().backward()
    got = [p['nets']['SyncSN', unused] for p in processes]
    assert relative_error(torch.cat([g['y'] for g in got]), y) < TOLERANCE
    for rank in range(2):
        for name, p in net.named_parameters():
            error = relative_error(got[rank]['grads'][name], p.grad)
            assert error < TOLERANCE, (name, error)
        for name, b in net.named_buffers():
            error = relative_error(got[rank]['buffers'][name], b)
            assert error < TOLERANCE, (name, error)


@pytest.mark.parametrize('unused', [False, True])
def test_sn_in_ddp_keeps_to_its_own_batch(processes, unused):
    got = [p['nets']['SN', unused] for p in processes]
    x, _ = net_batch()
    for rank, part in enumerate((x[:3], x[3:])):
        want = whole_net(SN)(part)
        assert relative_error(got[rank]['y'], want) < TOLERANCE
    for name, grad in got[0]['grads'].items():
        assert torch.equal(grad, got[1]['grads'][name]), name
    means = [g['buffers']['1.running_mean'] for g in got]
    assert not torch.allclose(*means)


def test_the_runner_tells_about_sync_bn_once(processes):
    logs = {n: r['log'] for n, r in processes[0]['runner'].items()}
    assert logs['SN'].count('sync_bn converts batch norms only') == 1
    assert "1 SN layer(s) of Toy ('norm', ...)" in logs['SN']
    assert "norm_cfg = dict(type='SyncSN')" in logs['SN']
    assert 'Epoch(train)' in logs['SyncSN']
    assert 'sync_bn converts' not in logs['SyncSN']


@pytest.mark.parametrize('norm', ['SN', 'SyncSN'])
def test_the_runner_trains_both(processes, norm):
    first, second = (p['runner'][norm] for p in processes)
    assert first['kind'] is second['kind'] is NORMS[norm]
    assert first['state'].keys() == Toy(SN(4)).state_dict().keys()
    for name, value in first['state'].items():
        synced = 'running' not in name or norm == 'SyncSN'
        assert torch.equal(value, second['state'][name]) is synced, name
    assert (first['state']['norm.mean_weight'] != 1).any()
    assert int(first['state']['norm.num_batches_tracked']) == 2


def test_sync_sn_without_a_process_group_is_sn():
    x, dy = torch.randn(2, 3, 8, 4, 5).unbind(0)
    a, b = randomize(SyncSN(8)).train(), randomize(SN(8)).train()
    got, want = run(a, x, dy), run(b, x, dy)
    assert all(torch.equal(got[n], v) for n, v in want.items())
    assert torch.equal(a.running_var, b.running_var)
