# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Files of any origin: what is no tensor is inert, and nothing runs."""

from __future__ import annotations

import argparse
import collections
import datetime
import io
import json
import os
import pickle
import struct
import sys
import types

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.logging import HistoryBuffer
from torch import nn

from sn_mm import load_pretrained
from sn_mm.checkpoints import CheckpointError
from sn_mm.checkpoints.reader import read_content
from sn_mm.checkpoints.tensors_only import Inert, flattened, load


class Runs:
    """Code that a pickle would run, by what names it."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


def written(path, content, zipped=True):
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    return path


@pytest.mark.parametrize('zipped', [True, False])
def test_nothing_runs(tmp_path, zipped):
    trace = str(tmp_path / 'ran')
    content = dict(
        a=Runs(os.mkdir, trace),
        b=Runs(eval, f'__import__("os").mkdir({trace!r})'),
        c=Runs(getattr, HistoryBuffer, 'mean'),
        d=Runs(exec, '1 / 0'),
        weight=torch.ones(3),
    )
    path = written(tmp_path / 'file.pth', content, zipped)
    got = read_content(path)
    assert torch.equal(got['weight'], torch.ones(3))
    assert not os.path.exists(trace)
    # a callable that was fetched is inert, as what it would give
    assert isinstance(got['a'], Inert) and got['c'] is Inert


def test_a_chain_of_calls_stays_inert(tmp_path):
    """getattr(getattr(a module, ...), ...)(...), as opcodes."""
    trace = tmp_path / 'ran'
    code = (
        b"cbuiltins\ngetattr\n(cbuiltins\n__import__\n(S'os'\ntR"
        b"S'mkdir'\ntR(S'" + os.fsencode(trace) + b"'\ntR."
    )
    assert isinstance(load(io.BytesIO(code)), Inert)
    assert not trace.exists()
    with pytest.raises(pickle.UnpicklingError):
        load(io.BytesIO(b'garbage'))


def test_what_runs_leave_beside_the_weights(tmp_path):
    module = types.ModuleType('no_such_package')
    kind = type('Callback', (), dict(__module__='no_such_package'))
    module.Callback = kind
    sys.modules['no_such_package'] = module
    try:
        content = dict(
            state_dict=dict(w=nn.Parameter(torch.ones(2))),
            message_hub=dict(loss=HistoryBuffer([1.0], [1])),
            lr=np.float64(0.1),
            numbers=np.arange(3),
            cfg=Config(dict(a=1)),
            args=argparse.Namespace(model_ema=True),
            when=datetime.datetime.now(),
            callback=kind(),
            names={'a', 'b'},
            counts=collections.Counter('aab'),
            default=collections.defaultdict(list, x=[1]),
            size=torch.Size([1]),
            dtype=torch.float16,
            network=nn.BatchNorm2d(2, affine=False),
        )
        path = written(tmp_path / 'run.pth', content)
    finally:
        del sys.modules['no_such_package']
    got = read_content(path)
    assert torch.equal(got['state_dict']['w'], torch.ones(2))
    assert got['args'].state == dict(model_ema=True)
    assert got['names'] == {'a', 'b'}
    assert got['counts'] == dict(a=2, b=1) and got['default'] == dict(x=[1])
    assert got['size'] == (1,) and got['dtype'] is torch.float16
    for name in ('message_hub', 'lr', 'callback', 'cfg', 'when', 'network'):
        value = got[name]
        value = value['loss'] if name == 'message_hub' else value
        assert isinstance(value, Inert), name
    assert flattened(got).keys() == {
        'state_dict.w',
        'network.running_mean',
        'network.running_var',
        'network.num_batches_tracked',
    }


def test_a_tensor_of_a_subclass_is_a_tensor(tmp_path):
    tensor = torch.ones(2)
    tensor.note = Runs(eval, '1 / 0')
    path = written(tmp_path / 'file.pth', dict(w=tensor, x=Runs(print)))
    assert type(read_content(path)['w']) is torch.Tensor


def test_files_are_mapped(tmp_path):
    """Tensors share the memory of the file, which is read when needed."""
    big = torch.zeros(1 << 20)
    path = written(tmp_path / 'file.pth', dict(a=big, b=Runs(print)))
    got = read_content(path)['a']
    with open('/proc/self/maps') as maps:
        assert str(path) in maps.read()
    assert torch.equal(got, big)


def test_torchscript_is_refused(tmp_path):
    path = tmp_path / 'file.pt'
    torch.jit.script(nn.BatchNorm2d(2)).save(str(path))
    with pytest.raises(CheckpointError, match='TorchScript'):
        load_pretrained(nn.BatchNorm2d(2), f'bn2sn://{path}')


def safetensors_file(path, tensors):
    """Written by hand: a length, JSON, and the numbers."""
    head, data = {}, b''
    for name, tensor in tensors.items():
        own = tensor.numpy().tobytes()
        kind = {torch.float32: 'F32', torch.int64: 'I64'}[tensor.dtype]
        head[name] = dict(
            dtype=kind,
            shape=list(tensor.shape),
            data_offsets=[len(data), len(data) + len(own)],
        )
        data += own
    text = json.dumps(head).encode()
    text += b' ' * (-len(text) % 8)
    path.write_bytes(struct.pack('<Q', len(text)) + text + data)


def test_safetensors_by_content(tmp_path, monkeypatch):
    path = tmp_path / 'file.bin'
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    safetensors_file(path, network.state_dict())
    monkeypatch.setitem(sys.modules, 'safetensors.torch', None)
    with pytest.raises(CheckpointError, match='pip install safetensors'):
        read_content(path)
    fake = types.ModuleType('safetensors.torch')
    fake.load_file = lambda file: {str(file): torch.ones(1)}
    monkeypatch.setitem(sys.modules, 'safetensors', types.ModuleType('s'))
    monkeypatch.setitem(sys.modules, 'safetensors.torch', fake)
    assert list(read_content(path)) == [str(path)]


class Part(nn.Module):
    """As a class of somebody's, which a reader need not have."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
        self.nothing = None
        self.register_buffer('also_nothing', None)


@pytest.mark.filterwarnings('error')
@pytest.mark.parametrize('as_zip', [True, False])
@pytest.mark.parametrize('wrap', [lambda m: m, lambda m: {'net': m}])
def test_modules_saved_whole(tmp_path, as_zip, wrap, monkeypatch):
    """Their tensors are read; their classes are not even imported."""
    path, part = tmp_path / 'file.pth', Part()
    content = wrap(nn.ModuleDict(dict(module=part)))
    torch.save(content, path, _use_new_zipfile_serialization=as_zip)
    monkeypatch.delattr(sys.modules[__name__], 'Part')
    got = flattened(read_content(path))
    front = 'module.' if isinstance(content, nn.Module) else 'net.module.'
    state = part.state_dict()
    assert list(got) == [f'{front}{key}' for key in state]
    assert all(torch.equal(got[front + key], state[key]) for key in state)


@pytest.mark.parametrize('as_zip', [True, False])
@pytest.mark.parametrize('ending', ['.safetensors', '.tar', '.json', ''])
def test_any_ending(tmp_path, as_zip, ending):
    """Also one that torch itself takes for another kind of file."""
    path = tmp_path / f'file{ending}'
    state = nn.BatchNorm2d(4).state_dict()
    torch.save(state, path, _use_new_zipfile_serialization=as_zip)
    got = read_content(path)
    assert all(torch.equal(got[key], state[key]) for key in state)


def test_safetensors(tmp_path):
    pytest.importorskip('safetensors')
    path = tmp_path / 'file.pth'
    state = nn.BatchNorm2d(4).state_dict()
    safetensors_file(path, state)
    got = read_content(path)
    assert got.keys() == state.keys()
    assert all(torch.equal(got[key], state[key]) for key in state)
