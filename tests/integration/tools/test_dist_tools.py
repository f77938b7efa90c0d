# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Runs on several processes, by dist_train.sh, dist_test.sh, slurm_train.sh.

Of PSPNet, whose loss on a batch is the mean over its pictures' losses: two
processes with a picture each do what one process does with both.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.distributed import run_processes
from tests.paths import ROOT, TOOLS

from .recording import DIE, losses

STEPS, HALF = 8, 4
CONFIG = f"""
_base_ = '{ROOT}/configs/demo/pspnet_r18-d8_syncsn-all_demo-160x192.py'
custom_imports = dict(
    imports=['sn_mm', 'tests.integration.tools.recording'],
    allow_failed_imports=False)
custom_hooks = [dict(type='Recorder')]
model = dict(
    backbone=dict(base_channels=8, stem_channels=8),
    decode_head=dict(
        in_channels=64, channels=16, dropout_ratio=0,
        loss_decode=dict(
            class_weight=None, reduction='mean', loss_weight=1.)),
    auxiliary_head=dict(
        in_channels=32, channels=16, dropout_ratio=0,
        loss_decode=dict(
            class_weight=None, reduction='mean', loss_weight=.4)))
train_dataloader = dict(
    batch_size=1,
    sampler=dict(shuffle=False),
    dataset=dict(pipeline=[
        dict(type='LoadImageFromFile'),
        dict(type='LoadAnnotations'),
        dict(type='PackSegInputs')]))
train_cfg = dict(max_iters={STEPS}, val_interval={STEPS})
optim_wrapper = dict(
    optimizer=dict(
        type='SGD', lr=0.02, momentum=0.9, weight_decay=1e-4, _delete_=True))
param_scheduler = []
default_hooks = dict(checkpoint=dict(interval={HALF}))
"""
LAST = f'iter_{STEPS}.pth'


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp('dist')
    (folder / 'config.py').write_text(CONFIG)
    return folder


def environment(**variables) -> dict[str, str]:
    names = ('NNODES', 'NODE_RANK', 'MASTER_ADDR', 'PORT')
    clean = {k: v for k, v in os.environ.items() if k not in names}
    return dict(clean, PYTHON=sys.executable, **variables)


def command(script: str, *args, **variables) -> subprocess.CompletedProcess:
    return subprocess.run(
        ['bash', str(TOOLS / script), *map(str, args)],
        env=environment(**variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,  # a run that hangs
    )


@pytest.fixture(scope='module')
def train(folder, tiny_demo_data):
    """Run two processes; the finished command."""

    def run(work_dir, *args, **variables):
        return command(
            'dist_train.sh',
            folder / 'config.py',
            2,
            '--work-dir',
            folder / work_dir,
            *args,
            SN_MM_DEMO_DATA=str(tiny_demo_data),
            **variables,
        )

    return run


def tool_main(*arguments) -> None:
    spec = importlib.util.spec_from_file_location('t', TOOLS / 'train.py')
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    assert tool.main(list(map(str, arguments))) == 0


def train_process(
    folder: Path, data: Path, work_dir: str, arguments: tuple[str], rank: int
) -> None:
    """What each of two processes does that dist_train.sh would start."""
    os.environ['SN_MM_DEMO_DATA'] = str(data)
    tool_main(
        *(folder / 'config.py', '--work-dir', folder / work_dir),
        *('--launcher', 'pytorch', *arguments),
    )


@pytest.fixture(scope='module')
def train_forked(folder, tiny_demo_data):
    """Run two processes, forked off one that has imported what takes long."""

    def run(work_dir, *arguments):
        run_processes(
            functools.partial(
                *(train_process, folder, tiny_demo_data),
                *(work_dir, arguments),
            )
        )

    return run


@pytest.fixture(scope='module')
def whole(train_forked, folder):
    """The work folder of an uninterrupted run."""
    train_forked('whole')
    return folder / 'whole'


def load(path: Path) -> dict:
    return torch.load(path, map_location='cpu', weights_only=False)


# -- training ------------------------------------------------------------
def test_losses_are_those_of_one_process(
    whole, folder, tiny_demo_data, monkeypatch
):
    monkeypatch.setenv('SN_MM_DEMO_DATA', str(tiny_demo_data))
    work_dir = folder / 'one'
    options = ('--cfg-options', 'train_dataloader.batch_size=2')
    tool_main(folder / 'config.py', '--work-dir', work_dir, *options)

    want = losses(work_dir, 0)
    parts = [losses(whole, rank) for rank in range(2)]
    assert parts[0] != parts[1]
    assert len(want) == STEPS and want[STEPS - 1] < 0.9 * want[0]
    for step, loss in want.items():
        mean = (parts[0][step] + parts[1][step]) / 2
        # sums in another order differ by rounding, which training amplifies
        assert mean == pytest.approx(loss, rel=1e-5 * 2**step), step
    one = load(folder / 'one' / LAST)['state_dict']
    two = load(whole / LAST)['state_dict']
    assert one.keys() == two.keys()
    for name in one:
        distance = (two[name] - one[name]).double().norm()
        assert distance <= 1e-3 * one[name].double().norm() + 1e-2, name


def test_a_killed_process_ends_the_run_which_can_be_resumed(
    whole, train, train_forked, folder
):
    killed = train('killed', **{DIE: f'1:{HALF + 2}'})
    assert killed.returncode != 0
    assert 'SIGKILL' in killed.stdout or '-9' in killed.stdout
    assert (folder / 'killed' / f'iter_{HALF}.pth').exists()
    assert not (folder / 'killed' / LAST).exists()

    train_forked('killed', '--resume')
    want, got = load(whole / LAST), load(folder / 'killed' / LAST)
    for name, value in want['state_dict'].items():
        assert torch.equal(got['state_dict'][name], value), name
    momenta = [c['optimizer']['state'] for c in (want, got)]
    for key, value in momenta[0].items():
        other = momenta[1][key]['momentum_buffer']
        assert torch.equal(other, value['momentum_buffer']), key


# -- what the scripts start ----------------------------------------------
@pytest.fixture
def recorded(tmp_path):
    """Run a script with stand-ins for python and srun: their arguments."""
    for name in ('python', 'srun'):
        stand_in = tmp_path / name
        stand_in.write_text(
            '#!/usr/bin/env bash\n'
            'if [[ $1 == -c ]]; then echo 12345; exit; fi\n'
            f'printf "%s\\n" {name} "$@"\n'
        )
        stand_in.chmod(0o755)
    path = f'{tmp_path}{os.pathsep}{os.environ["PATH"]}'

    def run(script, *args, **variables):
        variables.setdefault('PYTHON', 'python')
        env = {**environment(), 'PATH': path, **variables}
        done = subprocess.run(
            ['bash', str(TOOLS / script), *args],
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        return done.returncode, done.stdout.splitlines()

    return run


def test_dist_train_on_one_machine(recorded):
    assert recorded('dist_train.sh', 'c.py', '8', '--resume', 'a b') == (
        0,
        [
            'python',
            '-m',
            'torch.distributed.run',
            '--nnodes=1',
            '--node_rank=0',
            '--nproc_per_node=8',
            '--master_addr=127.0.0.1',
            '--master_port=12345',
            str(TOOLS / 'train.py'),
            'c.py',
            '--resume',
            'a b',
            '--launcher',
            'pytorch',
        ],
    )


def test_dist_test_on_two_machines(recorded):
    code, lines = recorded(
        'dist_test.sh',
        *('c.py', 'c.pth', '4', '--out', 'o.pkl'),
        NNODES='2',
        NODE_RANK='1',
        MASTER_ADDR='10.0.0.1',
    )
    assert code == 0
    assert lines[3:] == [
        '--nnodes=2',
        '--node_rank=1',
        '--nproc_per_node=4',
        '--master_addr=10.0.0.1',
        '--master_port=29500',
        str(TOOLS / 'test.py'),
        'c.py',
        'c.pth',
        '--out',
        'o.pkl',
        '--launcher',
        'pytorch',
    ]


def test_port_of_the_user(recorded):
    _, lines = recorded('dist_train.sh', 'c.py', '2', PORT='29501')
    assert '--master_port=29501' in lines


SRUN = [
    '--partition=dev',
    '--job-name=job',
    '--gres=gpu:8',
    '--ntasks=16',
    '--ntasks-per-node=8',
    '--cpus-per-task=5',
    '--kill-on-bad-exit=1',
]


def test_slurm_train(recorded):
    args = ('dev', 'job', 'c.py', 'work', '--amp')
    variables = dict(SRUN_ARGS='--time=1 --qos=q', PY_ARGS='--resume')
    code, lines = recorded('slurm_train.sh', *args, GPUS='16', **variables)
    assert code == 0
    assert lines == [
        'srun',
        *SRUN,
        '--time=1',
        '--qos=q',
        'python',
        '-u',
        str(TOOLS / 'train.py'),
        'c.py',
        '--work-dir',
        'work',
        '--launcher',
        'slurm',
        '--resume',
        '--amp',
    ]


def test_slurm_train_without_work_dir(recorded):
    code, lines = recorded(
        'slurm_train.sh', 'dev', 'job', 'c.py', '--amp', GPUS='4'
    )
    assert code == 0
    assert '--gres=gpu:4' in lines and '--ntasks-per-node=4' in lines
    assert lines[lines.index('c.py') + 1 :] == ['--launcher', 'slurm', '--amp']


@pytest.mark.parametrize(
    'script, args, variables, words',
    [
        ('dist_train.sh', ['c.py', 'x'], {}, "GPUS.*'x'"),
        ('dist_train.sh', ['c.py', '0'], {}, "GPUS.*'0'"),
        ('dist_test.sh', ['c.py', 'c.pth', '--out'], {}, "GPUS.*'--out'"),
        ('dist_train.sh', ['c.py', '2'], dict(NNODES='2'), 'MASTER_ADDR'),
        ('dist_train.sh', ['c.py', '2'], dict(NNODES='two'), "NNODES.*'two'"),
        (
            'slurm_train.sh',
            ['dev', 'job', 'c.py'],
            dict(GPUS='12'),
            'GPUS=12 is no multiple of GPUS_PER_NODE=8',
        ),
        ('slurm_train.sh', ['d', 'j', 'c.py'], dict(GPUS='all'), "GPUS.*'all"),
    ],
)
def test_wrong_arguments_start_nothing(
    recorded, script, args, variables, words
):
    code, (line,) = recorded(script, *args, **variables)
    assert code == 2
    assert re.search(words, line)


@pytest.mark.parametrize(
    'script', ['dist_train.sh', 'dist_test.sh', 'slurm_train.sh']
)
def test_usage(recorded, script):
    code, lines = recorded(script, '--help')
    assert code == 0 and lines[0].startswith(f'Usage: bash tools/{script} ')
    assert recorded(script, 'c.py') == (2, lines)
