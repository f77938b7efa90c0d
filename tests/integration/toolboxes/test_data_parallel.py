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
from tests.builders import Toy, toy_runner
from tests.distributed import run_processes
from tests.utils import randomize, relative_error, run

TOLERANCE = 1e-5
NORMS = dict(SN=SN, SyncSN=SyncSN)


# -- what each process does ----------------------------------------------
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
    )


@pytest.fixture(scope='module')
def processes():
    return run_processes(everything)


# -- what it must amount to ----------------------------------------------


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
