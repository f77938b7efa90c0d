# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""What synchronizing SyncSN costs: bytes, time over gloo, expected shares.

Counts the collectives of a training step in real models, measures them on
this machine's CPU between processes, beside the collectives of
nn.SyncBatchNorm (which itself runs on GPUs only), and works out their share
of a step on many GPUs from latencies and bandwidths that are assumptions.
Prints the tables of docs/scaling.md.
"""

# ruff: noqa: E402

from __future__ import annotations

import argparse
import os.path as osp
import tempfile
import time
from collections import Counter
from typing import Callable, NamedTuple


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        '--processes',
        type=int,
        nargs='+',
        default=[2, 4],
        metavar='N',
        help='numbers of processes to measure with (default: 2 4)',
    )
    parser.add_argument(
        '--repeats',
        type=int,
        default=500,
        metavar='N',
        help='measurements of each; medians are given (default: 500)',
    )
    parser.add_argument(
        '--gpus',
        type=int,
        nargs='+',
        default=[8, 64, 512],
        metavar='N',
        help='numbers of GPUs to calculate for (default: 8 64 512)',
    )
    args = parser.parse_args()
    if min(args.processes) < 2:
        parser.error('--processes: one process has nobody to wait for')
    return args


if __name__ == '__main__':
    # Help and wrong arguments are answered before PyTorch is imported.
    parse_args()

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

from sn_mm import SyncSN, cli, convert_norm
from sn_mm.distributed import all_gather
from sn_mm.distributed.groups import named_group
from sn_mm.utils import markdown_table


class Plan(NamedTuple):
    """A model to count, and the time that its training step may take."""

    scope: str
    config: str
    step: float  # assumed seconds, 2 images on a GPU; share = cost / step


MODELS_TO_COUNT = {
    'Mask R-CNN R50-FPN': Plan(
        'mmdet', 'gn/mask-rcnn_r50_fpn_gn-all_2x_coco.py', 0.25
    ),
    'Mask R-CNN R101-FPN': Plan(
        'mmdet', 'gn/mask-rcnn_r101_fpn_gn-all_2x_coco.py', 0.35
    ),
    'PSPNet R50-d8': Plan(
        'mmseg', 'pspnet/pspnet_r50-d8_4xb2-80k_cityscapes-512x1024.py', 0.35
    ),
    'PSPNet R101-d8': Plan(
        'mmseg', 'pspnet/pspnet_r101-d8_4xb2-80k_cityscapes-512x1024.py', 0.5
    ),
    'DeepLabV3 R50-d8': Plan(
        'mmseg',
        'deeplabv3/deeplabv3_r50-d8_4xb2-80k_cityscapes-512x1024.py',
        0.4,
    ),
    'DeepLabV3 R101-d8': Plan(
        'mmseg',
        'deeplabv3/deeplabv3_r101-d8_4xb2-80k_cityscapes-512x1024.py',
        0.55,
    ),
}


class Network(NamedTuple):
    """Assumptions about a cluster; see docs/scaling.md."""

    per_machine: int = 8
    start: float = 10e-6  # launching a collective
    hop_inside: float = 1e-6  # from GPU to GPU in a machine
    hop_outside: float = 5e-6  # from machine to machine
    bandwidth_inside: float = 200e9  # bytes per second
    bandwidth_outside: float = 25e9

    def gather(self, gpus: int, size: int) -> float:
        """Seconds of a ring all-gather of ``size`` bytes from each GPU."""
        machines = max(1, gpus // self.per_machine)
        outside = machines if machines > 1 else 0
        hops = outside * self.hop_outside
        hops += (gpus - 1 - outside) * self.hop_inside
        return self.start + hops + gpus * size / self._bandwidth(machines)

    def reduce(self, gpus: int, size: int) -> float:
        """Seconds of a tree all-reduce of ``size`` bytes."""
        machines = max(1, gpus // self.per_machine)
        local = min(gpus, self.per_machine)
        hops = 2 * (machines - 1).bit_length() * self.hop_outside
        hops += 2 * (local - 1) * self.hop_inside
        return self.start + hops + 2 * size / self._bandwidth(machines)

    def _bandwidth(self, machines: int) -> float:
        return (
            self.bandwidth_inside if machines == 1 else self.bandwidth_outside
        )


# -- models --------------------------------------------------------------
def norm_calls(plan: Plan) -> list[int]:
    """Channels of every call of a SyncSN layer in one training step."""
    model = _build(plan)
    widths: list[int] = []
    for module in model.modules():
        if isinstance(module, SyncSN):
            module.register_forward_hook(
                lambda layer, *_: widths.append(layer.num_features)
            )
    with torch.no_grad():
        data = model.data_preprocessor(_batch(plan.scope), True)
        model(**data, mode='loss')
    return widths


def _build(plan: Plan) -> nn.Module:
    cfg = cli.load_config(f'{plan.scope}::{plan.config}')
    cfg.model.data_preprocessor.pop('batch_augments', None)
    model = cli.build_model(cfg)
    return convert_norm(model, dict(type='SyncSN')).train()


def _batch(scope: str, extent: int = 64) -> dict:
    """Two small images: how large they are does not change the calls."""
    if scope == 'mmdet':
        from mmdet.testing import demo_mm_inputs

        return demo_mm_inputs(2, [[3, extent, extent]] * 2, with_mask=True)
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    size = (extent, extent)
    samples = []
    for _ in range(2):
        sample = SegDataSample(
            metainfo=dict(img_shape=size, ori_shape=size, pad_shape=size)
        )
        labels = torch.zeros(1, *size, dtype=torch.long)
        sample.gt_sem_seg = PixelData(data=labels)
        samples.append(sample)
    pixels = torch.zeros(2, 3, *size, dtype=torch.uint8)
    return dict(inputs=list(pixels), data_samples=samples)


# -- collectives ---------------------------------------------------------
class Cost(NamedTuple):
    """Of one layer's collectives; bytes are what each process sends."""

    forward: int
    backward: int
    seconds: float


def measure(rank: int, processes: int, widths: list, repeats: int, path: str):
    """In each process: costs by width, for SyncSN and SyncBatchNorm."""
    torch.set_num_threads(1)
    dist.init_process_group(
        'gloo',
        init_method=f'file://{path}.store',
        rank=rank,
        world_size=processes,
    )
    costs = {}
    for width in widths:
        forward, backward = _sent(width)
        costs['SyncSN', width] = _timed(forward, backward, repeats)
        # SyncBatchNorm: mean, 1 / std and count; two sums. All float32.
        forward = torch.zeros(2 * width + 1)
        backward = torch.zeros(2 * width)
        costs['SyncBN', width] = _timed(forward, backward, repeats)
    if rank == 0:
        torch.save({key: tuple(cost) for key, cost in costs.items()}, path)
    dist.destroy_process_group()


def _sent(width: int) -> tuple[Tensor, Tensor]:
    """What a SyncSN layer gives to its two collectives."""
    seen: list[Tensor] = []
    originals = dist.all_gather, dist.all_reduce

    def spy(original: Callable, position: int) -> Callable:
        def call(*args, **kwargs):
            seen.append(args[position].clone())
            return original(*args, **kwargs)

        return call

    dist.all_gather = spy(originals[0], 1)
    dist.all_reduce = spy(originals[1], 0)
    try:
        SyncSN(width)(torch.randn(1, width, 2, 2)).sum().backward()
    finally:
        dist.all_gather, dist.all_reduce = originals
    forward, backward = seen
    return forward, backward


def _timed(forward: Tensor, backward: Tensor, repeats: int) -> Cost:
    """Median seconds of an all-gather and an all-reduce, one after another."""
    group, times = named_group(), []
    for _ in range(repeats):
        start = time.perf_counter()
        all_gather(forward, group)
        dist.all_reduce(backward, group=group)
        times.append(time.perf_counter() - start)
    return Cost(
        forward.numel() * forward.element_size(),
        backward.numel() * backward.element_size(),
        sorted(times)[repeats // 2],
    )


def run_processes(processes: int, widths: list, repeats: int) -> dict:
    """:func:`measure` in that many processes; the costs of the first."""
    with tempfile.TemporaryDirectory() as folder:
        path = osp.join(folder, 'costs')
        mp.spawn(measure, (processes, widths, repeats, path), processes)
        found = torch.load(path, weights_only=True)
    return {key: Cost(*cost) for key, cost in found.items()}


# -- tables --------------------------------------------------------------
def print_table(head: list[str], rows: list[list]) -> None:
    """Print a blank line and the table, in Markdown."""
    print(f'\n{markdown_table(head, rows, numbers=True)}')


def print_layers(costs: dict[int, dict], widths: list[int]) -> None:
    """Bytes and times of one layer, by width."""
    counts = sorted(costs)
    head = ['channels', 'SyncSN forward, bytes', 'backward, bytes']
    head += ['SyncBN forward, bytes', 'backward, bytes']
    for n in counts:
        head += [f'SyncSN, {n} processes, us', f'SyncBN, {n} processes, us']
    rows = []
    for width in widths:
        row = [width]
        for kind in ('SyncSN', 'SyncBN'):
            cost = costs[counts[0]][kind, width]
            row += [cost.forward, cost.backward]
        for n in counts:
            for kind in ('SyncSN', 'SyncBN'):
                row.append(round(1e6 * costs[n][kind, width].seconds))
        rows.append(row)
    print_table(head, rows)


def print_models(calls: dict[str, list[int]], costs: dict[int, dict]) -> None:
    """Bytes and times of a step, by model."""
    counts = sorted(costs)
    head = ['model', 'collectives', 'SyncSN, kB', 'SyncBN, kB']
    for n in counts:
        head += [f'SyncSN, {n} processes, ms', f'SyncBN, {n} processes, ms']
    rows = []
    for name, widths in calls.items():
        row = [name, f'{len(widths)} + {len(widths)}']
        for kind in ('SyncSN', 'SyncBN'):
            each = [costs[counts[0]][kind, w] for w in widths]
            sent = sum(c.forward + c.backward for c in each)
            row.append(round(sent / 1e3))
        for n in counts:
            for kind in ('SyncSN', 'SyncBN'):
                seconds = sum(costs[n][kind, w].seconds for w in widths)
                row.append(f'{1e3 * seconds:.1f}')
        rows.append(row)
    print_table(head, rows)


def print_shares(
    calls: dict[str, list[int]], costs: dict, numbers: list[int]
) -> None:
    """Expected milliseconds and shares of a step, by number of GPUs."""
    network = Network()
    head = ['model', 'step, ms']
    head += [f'{n} GPUs' for n in numbers] + ["any, sync_group='machine'"]
    rows = []
    for name, widths in calls.items():
        step, row = MODELS_TO_COUNT[name].step, [name]
        row.append(round(1e3 * step))
        for n in (*numbers, network.per_machine):
            each = [costs['SyncSN', w] for w in widths]
            seconds = sum(
                network.gather(n, c.forward) + network.reduce(n, c.backward)
                for c in each
            )
            share = seconds / (step + seconds)
            row.append(f'{1e3 * seconds:.1f} ms, {share:.0%}')
        rows.append(row)
    print_table(head, rows)


def main() -> None:
    args = parse_args()
    calls = {}
    for name, plan in MODELS_TO_COUNT.items():
        calls[name] = norm_calls(plan)
        counted = sorted(Counter(calls[name]).items())
        each = ', '.join(f'{n} x {width}' for width, n in counted)
        print(f'{name}, layers x channels: {each}', flush=True)
    widths = sorted(set().union(*calls.values()))
    costs = {n: run_processes(n, widths, args.repeats) for n in args.processes}
    print_layers(costs, widths)
    print_models(calls, costs)
    print_shares(calls, costs[args.processes[0]], args.gpus)


if __name__ == '__main__':
    main()
