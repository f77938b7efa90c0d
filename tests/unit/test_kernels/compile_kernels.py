# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Compile Triton kernels for GPUs that need not be there, and look at them.

Usage: python compile_kernels.py COMPUTE_CAPABILITY

The functions of the sweeps and of the fused numbers run on tensors without
memory, and what they would launch is compiled instead, as Triton's launcher
would do it. A JSON list of what came out goes to standard output.
Needs PyTorch and Triton, 2.1 or newer, and nothing else: the parent package
is replaced by an empty one.
"""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
import tempfile
import types
from pathlib import Path

import torch
import triton

PACKAGE = Path(__file__).parents[3] / 'sn_mm'
IS_OLD = int(triton.__version__.split('.')[0]) < 3
POINTERS = {
    torch.float64: '*fp64',
    torch.float32: '*fp32',
    torch.float16: '*fp16',
    torch.bfloat16: '*bf16',
    torch.int64: '*i64',
}
# Nothing in float64 but loads and stores, which name no type in SASS.
DOUBLE = re.compile(r'D(ADD|MUL|FMA|SETP|MNMX)\b|.*\.F64|MUFU\.\w*64')


class Recorder:
    """Stands for a module of kernels and keeps what is launched."""

    def __init__(self):
        self.launches = {}

    def __getattr__(self, name):
        return _Launcher(self, name)


class _Launcher:
    def __init__(self, recorder, name):
        self.recorder, self.name = recorder, name

    def __getitem__(self, grid):
        assert len(grid) == 1 and grid[0] > 0, (self.name, grid)
        return self.record

    def record(self, *args, **constants):
        dtypes = [getattr(a, 'dtype', type(a)) for a in args]
        key = (self.name, str(dtypes), str(sorted(constants.items())))
        self.recorder.launches.setdefault(key, (self.name, args, constants))


def record_sweeps(capability):
    from sn_mm.kernels.triton import kernels, sweeps

    recorder = Recorder()
    sweeps.kernels = lambda: recorder
    f32, f16, bf16 = torch.float32, torch.float16, torch.bfloat16
    if capability >= 90:
        cases = [
            # one row a tile, loads of 16 bytes
            ((2, 64, 200, 304), False, f32),
            ((512, 512, 14, 14), True, f16),
            # rows of no power of two, many to a tile
            ((1024, 256, 7, 7), False, f32),
            # two values at a time
            ((2, 2048, 25, 38), False, bf16),
        ]
    else:
        cases = [
            ((2, 512, 100, 152), True, bf16),
            ((1024, 256, 7, 7), False, f16),
            # a row of one value
            ((512, 250), False, f32),
        ]
    for shape, last, dtype in cases:
        x = torch.empty(shape, device='meta', dtype=dtype)
        if last:
            x = x.to(memory_format=torch.channels_last)
        rows = torch.empty(shape[:2], device='meta')
        sweeps.moments(x)
        if math.prod(shape[2:]) < 200:  # only short rows are measured again
            sweeps.remeasure(x, x)
        sweeps.affine(x, rows, rows, rows, relu=last)
        is_first_f32 = dtype == f32 and shape[2:] != (7, 7)
        for gate in [None, (rows, rows)][: 1 + is_first_f32]:
            sweeps.products(x, x, rows, gate)
            sweeps.combine(x, x, rows, rows, rows, rows, gate)
    return kernels, recorder


def record_switch(capability):
    from sn_mm.kernels.fused import switch_kernels, switch_triton
    from sn_mm.kernels.fused.switch_settings import Switch

    recorder = Recorder()
    switch_triton._kernels = lambda: recorder
    cases = [((1024, 256), ('in', 'ln', 'bn', 'gn'), 2, {})]
    if capability >= 90:
        cases = [
            ((2, 256), ('in', 'ln', 'bn'), 1, {}),
            ((512, 64), ('in', 'ln', 'bn'), 1, {'drop_instance': True}),
        ]
    for shape, names, sets, options in cases:
        switch = Switch(names, 32, True, 1.0, False, 1e-5)._replace(**options)
        moments = torch.empty(2, *shape, device='meta', dtype=torch.float64)
        channels = torch.empty(shape[1], device='meta')
        logits = torch.empty(sets, len(names), device='meta')
        given = (channels, channels) if 'gn' in names else None
        args = (logits, logits, channels, channels)
        _, pools = switch_triton.forward(switch, moments, *args, given)
        switch_triton.backward(
            switch, moments, moments, *args, pools, given is not None, size=49
        )
    switch_triton.why_not = lambda device: None
    count = torch.empty((), device='meta', dtype=torch.int64)
    assert switch_triton.move_running(channels, channels, count, pools[2], 0.1)
    return switch_kernels, recorder


def compile_launch(kernel, args, constants, capability):
    """What Triton's launcher would compile: {'ptx': ..., 'cubin': ...}."""
    if not IS_OLD:
        return kernel.warmup(*args, grid=(1,), **constants).asm
    names = kernel.arg_names
    pointers = [i for i, a in enumerate(args) if isinstance(a, torch.Tensor)]
    types_of = {int: 'i32', float: 'fp32'}
    return triton.compile(
        kernel,
        signature={
            i: POINTERS[a.dtype] if i in pointers else types_of[type(a)]
            for i, a in enumerate(args)
        },
        constants={names.index(n): value for n, value in constants.items()},
        configs=[
            triton.compiler.compiler.instance_descriptor(
                divisible_by_16=set(pointers)
            )
        ],
        cc=capability,
        device_type='cuda',
    ).asm


def replace_driver(capability):
    """Let Triton compile for a GPU without asking for one."""
    if IS_OLD:
        # links against the driver to make something that launches
        stub = Path(tempfile.mkdtemp()) / 'stub.py'
        stub.write_text('launch = None\n')
        triton.compiler.compiler.make_stub = lambda *_, **__: str(stub)
        return
    from triton.backends.compiler import GPUTarget
    from triton.runtime import driver

    class NoDevice:
        def get_current_target(self):
            return GPUTarget('cuda', capability, 32)

        def get_current_device(self):
            return 0

        def get_current_stream(self, device=None):
            return 0

    driver.set_active(NoDevice())


def tool(name):
    """A tool of CUDA out of Triton's wheel, or None."""
    found = sorted(Path(triton.__file__).parent.rglob(name))
    return str(found[0]) if found else None


def resources(asm, is_sweep):
    """Registers, bytes spilled, and what the code does in float64."""
    if not tool('nvdisasm'):
        return _from_assembler(asm['ptx'])
    with tempfile.NamedTemporaryFile(suffix='.cubin') as file:
        file.write(asm['cubin'])
        file.flush()
        usage = _run(tool('cuobjdump'), '-res-usage', file.name)
        found = {
            'registers': int(re.search(r'REG:(\d+)', usage)[1]),
            'spilled': int(re.search(r'STACK:(\d+)', usage)[1]),
        }
        if is_sweep:
            found.update(_disassembled(file.name))
        else:
            found.update(_counts_in_ptx(asm['ptx']))
    return found


def _disassembled(cubin):
    text = _run(tool('nvdisasm'), '-c', cubin)
    codes = re.findall(
        r'/\*[0-9a-f]{4,}\*/\s+(?:@!?\w+\s+)?([A-Z][A-Z0-9_.]*)', text
    )
    return {
        'instructions': len(codes),
        'float64': sum(bool(DOUBLE.match(code)) for code in codes),
    }


def _counts_in_ptx(ptx):
    codes = re.findall(r'^\s+(?:@!?%p\d+ )?([a-z][\w.]+)', ptx, re.M)
    return {
        'instructions': len(codes),
        'float64': sum('.f64' in code for code in codes),
    }


def _from_assembler(ptx):
    """For a Triton without a disassembler: what ptxas says, and its input."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, 'kernel.ptx')
        source.write_text(ptx)
        target = re.search(r'\.target (\w+)', ptx)[1]
        command = (tool('ptxas'), '-v', '--gpu-name', target, str(source))
        usage = _run(*command, '-o', str(Path(folder, 'kernel.cubin')))
    spilled = re.findall(r'(\d+) bytes spill', usage)
    return {
        'registers': int(re.search(r'Used (\d+) registers', usage)[1]),
        'spilled': sum(map(int, spilled)),
        **_counts_in_ptx(ptx),
    }


def _run(*command):
    done = subprocess.run(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=True,
    )
    return done.stdout


def waits_in_loops(ptx):
    """How often threads wait for each other in what a jump back repeats."""
    lines = ptx.splitlines()
    labels = {
        m[1]: i
        for i, line in enumerate(lines)
        if (m := re.match(r'(\$\w+):', line))
    }
    waiting = set()
    for i, line in enumerate(lines):
        jump = re.search(r'\bbra(?:\.uni)?\s+(\$\w+);', line)
        start = labels.get(jump[1], i) if jump else i
        waiting |= {k for k in range(start, i) if 'bar.sync' in lines[k]}
    return len(waiting)


def main():
    parent = types.ModuleType('sn_mm')
    parent.__path__ = [str(PACKAGE)]
    sys.modules['sn_mm'] = parent
    capability = int(sys.argv[1])
    replace_driver(capability)
    found = []
    for record in (record_sweeps, record_switch):
        kernels, recorder = record(capability)
        for name, args, constants in recorder.launches.values():
            kernel = getattr(kernels, name)
            module = kernels.__name__.rpartition('.')[2]
            is_sweep = module == 'kernels' and 'merge' not in name
            asm = compile_launch(kernel, args, constants, capability)
            found.append(
                {
                    'module': module,
                    'kernel': name,
                    'dtype': str(args[0].dtype),
                    'constants': constants,
                    'waits_in_loops': waits_in_loops(asm['ptx']),
                    **resources(asm, is_sweep),
                }
            )
    json.dump(found, sys.stdout)


if __name__ == '__main__':
    main()
