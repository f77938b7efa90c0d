# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Configs as a metafile.yml, in the model-index format that mim reads."""

from __future__ import annotations

from collections.abc import Sequence

import yaml

from .config_entries import ConfigEntry
from .paper import Family

_HEADER = """\
# Made by `python tools/list_configs.py --write` from configs/paper.yml. The
# configs have not been trained here: "Paper Results" are the paper's.
"""
_TITLE = (
    'Switchable Normalization for Learning-to-Normalize Deep Representation'
)
_URL = 'https://arxiv.org/abs/1907.10473'


def metafile(family: Family, entries: Sequence[ConfigEntry]) -> str:
    """Text of the metafile of a folder.

    Args:
        family: the folder.
        entries: its configs.
    """
    results = [r for e in entries for row in e.rows for r in row.results]
    data = sorted({result.dataset for result in results})
    collection = {
        'Name': family.name,
        'Metadata': {
            **({'Training Data': data} if data else {}),
            'Training Techniques': ['SGD with Momentum', 'Weight Decay'],
            'Architecture': list(family.architecture),
        },
        'Paper': {'Title': _TITLE, 'URL': _URL},
        'README': f'configs/{family.folder}/README.md',
    }
    content = {
        'Collections': [collection],
        'Models': [_model(family, entry) for entry in entries],
    }
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
    return _HEADER + text


def _model(family: Family, entry: ConfigEntry) -> dict:
    metadata: dict[str, object] = {}
    if entry.batch:
        gpus, images = entry.batch
        metadata['Training Resources'] = f'{gpus}x GPUs'
        metadata['Batch Size'] = gpus * images
    if entry.length:
        number, unit = entry.length
        metadata[unit.capitalize()] = number
    metadata['Initialization'] = entry.start
    model = {
        'Name': entry.name,
        'In Collection': family.name,
        'Config': f'configs/{entry.config}.py',
        'Metadata': metadata,
    }
    for row in entry.rows:
        metadata['Paper Row'] = f'Table {row.table}: {row.label}'
        # not the model's own Results: nobody has trained it
        metadata['Paper Results'] = [
            {
                'Task': result.task,
                'Dataset': result.dataset,
                'Metrics': dict(result.metrics),
            }
            for result in row.results
        ]
    return model
