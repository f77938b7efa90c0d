# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Whether the weights that a run will read are there."""

from __future__ import annotations

import pytest
import torch
from mmengine.config import Config
from mmengine.model import BaseModule

from sn_mm import cli


def starting_from(name, **more):
    init_cfg = dict(type='Pretrained', checkpoint=name)
    return Config(dict(model=dict(backbone=dict(init_cfg=init_cfg)), **more))


def test_a_missing_start_names_the_config_that_makes_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # wherever the tool is called
    name = 'checkpoints/resnet50_sn_8xb32_in1k.pth'
    with pytest.raises(cli.LaunchError) as error:
        cli.check_starts(starting_from(name))
    assert 'configs/pretrain/resnet50_sn_8xb32_in1k.py' in str(error.value)


def test_starts_that_are_not_looked_at(tmp_path):
    there = tmp_path / 'start.pth'
    there.touch()
    cli.check_starts(starting_from(str(there)))
    cli.check_starts(starting_from('bn2sn://torchvision://resnet50'))
    cli.check_starts(starting_from(f'bn2sn://{there}?ratios=bn'))
    cli.check_starts(starting_from('ibn://resnet50_ibn_a'))
    cli.check_starts(Config(dict(data_root='no model')))


@pytest.mark.parametrize('scheme', ['', 'sn://', 'bn2sn://'])
def test_a_file_that_is_nowhere(scheme):
    with pytest.raises(cli.LaunchError, match=r'missing\.pth') as error:
        cli.check_starts(starting_from(f'{scheme}missing.pth'))
    assert '\n' not in str(error.value)
    with pytest.raises(cli.LaunchError, match=r'missing\.pth'):
        cli.check_checkpoint(f'{scheme}missing.pth')


@pytest.mark.parametrize('more', [dict(load_from='a.pth'), dict(resume=True)])
def test_a_start_that_is_replaced_is_loaded_all_the_same(more):
    cfg = starting_from('missing.pth', **more)
    with pytest.raises(cli.LaunchError, match='init_cfg to None'):
        cli.check_starts(cfg)
    # as the Runner does before it looks at load_from
    init_cfg = cfg.model.backbone.init_cfg
    with pytest.raises(FileNotFoundError):
        BaseModule(init_cfg).init_weights()


def test_checkpoints(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    there = tmp_path / 'a.pth'
    torch.save(dict(state_dict={}), there)
    for passes in (None, 'https://host/a.pth', str(there), f'sn://{there}'):
        cli.check_checkpoint(passes)
    for name in (str(tmp_path / 'none.pth'), 'sn://none.pth'):
        with pytest.raises(cli.LaunchError, match='none.pth not found'):
            cli.check_checkpoint(name)


@pytest.mark.parametrize('zipped', [True, False])
def test_files_that_are_no_checkpoints(tmp_path, zipped):
    there = tmp_path / 'a.pth'
    torch.save(
        dict(a=torch.zeros(99)), there, _use_new_zipfile_serialization=zipped
    )
    cli.check_checkpoint(str(there))
    whole = there.read_bytes()
    broken = [b'', b'\xff\xd8 a picture']
    broken += [whole[: len(whole) // 2]] if zipped else []
    for content in broken:
        there.write_bytes(content)
        with pytest.raises(cli.LaunchError, match='no file of torch.save'):
            cli.check_checkpoint(str(there))
