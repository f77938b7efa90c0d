# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
import pytest
import torch
from mmengine.config import Config

from sn_mm.patches import cpu_processes as module
from sn_mm.patches.cpu_processes import cpu_processes


def config(**more):
    return Config(dict(launcher='pytorch', **more))


@pytest.fixture(params=['cpu', 'cuda'])
def device(request, monkeypatch):
    monkeypatch.setattr(module, 'get_device', lambda: request.param)
    return request.param


def test_a_launcher_without_a_gpu(device):
    cfg = config(
        env_cfg=dict(dist_cfg=dict(backend='nccl')),
        find_unused_parameters=True,
    )
    set_device = torch.cuda.set_device
    with cpu_processes(cfg):
        assert (torch.cuda.set_device is set_device) is (device == 'cuda')
        if device == 'cpu':
            torch.cuda.set_device(3)  # which there is none of
    assert torch.cuda.set_device is set_device
    if device == 'cuda':
        assert 'model_wrapper_cfg' not in cfg
        return
    assert cfg.env_cfg.dist_cfg.backend == 'gloo'
    assert cfg.model_wrapper_cfg == dict(
        type='MMDistributedDataParallel',
        broadcast_buffers=False,
        find_unused_parameters=True,
        device_ids=None,
    )


def test_what_a_config_says_itself_goes_first(monkeypatch):
    monkeypatch.setattr(module, 'get_device', lambda: 'cpu')
    own = dict(type='Own', broadcast_buffers=True)
    cfg = config(
        model_wrapper_cfg=own, env_cfg=dict(dist_cfg=dict(backend='mpi'))
    )
    with cpu_processes(cfg):
        pass
    assert cfg.model_wrapper_cfg.type == 'Own'
    assert cfg.model_wrapper_cfg.broadcast_buffers
    assert cfg.env_cfg.dist_cfg.backend == 'mpi'


def test_without_a_launcher_nothing_changes(monkeypatch):
    monkeypatch.setattr(module, 'get_device', lambda: 'cpu')
    cfg, set_device = Config(dict(launcher='none')), torch.cuda.set_device
    with cpu_processes(cfg):
        assert torch.cuda.set_device is set_device
    assert cfg.to_dict() == dict(launcher='none')


def test_the_device_function_is_back_after_an_error(monkeypatch):
    monkeypatch.setattr(module, 'get_device', lambda: 'cpu')
    set_device = torch.cuda.set_device
    with pytest.raises(RuntimeError):
        with cpu_processes(config()):
            raise RuntimeError
    assert torch.cuda.set_device is set_device
