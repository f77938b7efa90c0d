# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""What a user looks for in README and docs stands there, in one paragraph."""

from __future__ import annotations

import re

import pytest

from tests.paths import ROOT

SAYS = {
    'a type that nothing registered': ('Cannot find None', 'custom_imports'),
    'inferencers that build first': ('DetInferencer', 'import sn_mm'),
    'publish_model.py': (
        'publish_model',
        'TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD=1',
    ),
    "torch's update_bn": ('update_bn', 'update_batch_average'),
    'mean teachers': ('MeanTeacherHook', 'skip_buffer=False'),
    'statistics of each process': ('validation', 'SyncBuffersHook'),
    'fusion by attribute, of torch': ('fuse_conv_bn_eval',),
    'fusion by attribute, of RepVGG': ('switch_to_deploy',),
    'what padding does': ('padded', 'Instance and layer statistics'),
    "the public code's moving average": (
        'using_moving_average',
        'BatchAverageHook',
    ),
    "the public code's momentum": (r'momentum=0\.9', r'0\.997', r'0\.003'),
    'harden, then finetune': ('without finetuning', r'50\.7 to 39\.9'),
}


def paragraphs() -> list[str]:
    """Paragraphs, points of lists and rows of tables, each as one line."""
    texts = [ROOT / 'README.md', *sorted((ROOT / 'docs').glob('*.md'))]
    return [
        ' '.join(part.split())
        for path in texts
        for part in re.split(
            r'\n\s*\n|\n(?=\|)|\n(?=- )', path.read_text(encoding='utf-8')
        )
    ]


@pytest.mark.parametrize('what', SAYS)
def test_it_is_said(what):
    assert any(
        all(re.search(words, text) for words in SAYS[what])
        for text in paragraphs()
    )
