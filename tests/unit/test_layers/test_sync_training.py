# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""SyncSN in training: data parallel wrappers, checkpointing, compilation."""

from __future__ import annotations

import pytest
import torch
from mmengine.model import MMDistributedDataParallel
from mmengine.utils import digit_version
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from sn_mm import SyncSN
from tests.distributed import run_processes
from tests.utils import assert_close, randomize

STEPS = 40
OPTIONS = {
    'plain': {},
    'find_unused_parameters': dict(find_unused_parameters=True),
    'static_graph': dict(static_graph=True),
}
WRAPPERS = dict(DDP=DistributedDataParallel, MM=MMDistributedDataParallel)
# mmengine's wrapper is PyTorch's, but for what it does with batches
RUNS = [*(('DDP', option) for option in OPTIONS), ('MM', 'plain')]
CHECKPOINTS = (None, 'reentrant', 'non-reentrant')


class Net(nn.Module):
    """Two convolutions with norms, and a branch that not every step takes.

    Args:
        checkpointing: which kind of it the second convolution and its norm
            have; they then run twice.
    """

    def __init__(self, checkpointing: str | None = None) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3)
        self.norm = SyncSN(4)
        self.body = nn.Sequential(nn.Conv2d(4, 4, 1), SyncSN(4), nn.ReLU())
        self.branch = nn.Conv2d(4, 4, 1)
        self.checkpointing = checkpointing

    def forward(self, x: Tensor, branches: bool = True) -> Tensor:
        y = self.norm(self.stem(x)).relu()
        if self.checkpointing is None:
            y = self.body(y)
        else:
            reentrant = self.checkpointing == 'reentrant'
            y = checkpoint(self.body, y, use_reentrant=reentrant)
        return y + self.branch(y) if branches else y


def make_net(*args) -> Net:
    torch.manual_seed(0)
    net = Net(*args)
    for seed, layer in enumerate((net.norm, net.body[1])):
        randomize(layer, seed)
    return net


def batches(rank: int, steps: int = STEPS):
    """Inputs of 0 to 3 images, on another level for each process."""
    gen = torch.Generator().manual_seed(rank)
    for step in range(steps):
        n = (2, 1, 3, 0)[(step + rank) % 4]
        yield torch.randn(n, 3, 5, 5, generator=gen) + rank


def train(rank: int, wrapper: str, option: str) -> dict[str, Tensor]:
    """The state after :data:`STEPS` steps."""
    net = make_net()
    # Many buckets, so that reductions start in the middle of backward.
    model = WRAPPERS[wrapper](
        net, broadcast_buffers=False, bucket_cap_mb=1e-4, **OPTIONS[option]
    )
    optimizer = torch.optim.SGD(model.parameters(), 1e-3, momentum=0.9)
    for step, x in enumerate(batches(rank)):
        # Unused on one process only: its buckets are ready earlier there.
        branches = 'unused' not in option or (step + rank) % 2 == 0
        optimizer.zero_grad()
        y = model(x, branches)
        y.square().sum().div(100).backward()
        optimizer.step()
    return net.state_dict()


def checkpointed(rank: int, kind: str | None) -> dict[str, Tensor]:
    """Gradients of a few steps, in DDP."""
    net = make_net(kind)
    model = DistributedDataParallel(
        net, broadcast_buffers=False, static_graph=True
    )
    for x in batches(rank, steps=5):
        model(x).square().sum().backward()
    return {name: p.grad for name, p in net.named_parameters()}


def compiled(rank: int, compiles: bool) -> dict[str, Tensor]:
    """Output and gradients of one step."""
    net = make_net()
    model = torch.compile(net, backend='eager') if compiles else net
    x = torch.cat(list(batches(rank, steps=1))).requires_grad_()
    y = model(x)
    y.square().sum().backward()
    grads = {name: p.grad for name, p in net.named_parameters()}
    return dict(grads, y=y.detach(), x=x.grad)


def everything(rank: int) -> dict:
    results = {run: train(rank, *run) for run in RUNS}
    results.update({k: checkpointed(rank, k) for k in CHECKPOINTS})
    results['eager'] = compiled(rank, False)
    results['compiled'] = compiled(rank, True)
    return results


@pytest.fixture(scope='module')
def processes():
    return run_processes(everything)


@pytest.mark.parametrize('run', RUNS, ids='-'.join)
def test_processes_stay_the_same_bit_for_bit(processes, run):
    first, second = (p[run] for p in processes)
    start = make_net().state_dict()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name
        assert torch.isfinite(value).all(), name
        assert not torch.equal(value, start[name]), name  # it did train
    # the norm was called with samples somewhere in every step
    assert first['norm.num_batches_tracked'] == STEPS


@pytest.mark.parametrize('kind', CHECKPOINTS[1:])
def test_checkpointing(processes, kind):
    for p in processes:
        assert_close(p[kind], p[None], 1e-5)


def test_compiled_model(processes):
    for p in processes:
        assert_close(p['compiled'], p['eager'], 1e-5)


def test_one_process_compiles():
    layer, x = SyncSN(4), torch.randn(2, 4, 3, 3)
    # torch 2.1 breaks the graph, and must still get it right
    whole = digit_version(torch.__version__) >= digit_version('2.6')
    compiled = torch.compile(layer, backend='eager', fullgraph=whole)
    torch.testing.assert_close(compiled(x), layer(x))
