# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Every Runner looks at its norm layers, once."""

from __future__ import annotations

from collections import Counter

from mmengine.runner import Runner

from sn_mm.hooks.radius_hook import RadiusWatch
from sn_mm.hooks.start_watch import StartWatch
from sn_mm.patches import watch_runners
from tests.builders import toy_runner


def test_hooks_of_a_runner(tmp_path):
    method = Runner.register_hooks
    watch_runners()
    assert Runner.register_hooks is method  # not wrapped twice
    runner = toy_runner(work_dir=str(tmp_path))
    kinds = Counter(type(hook) for hook in runner.hooks)
    assert kinds[StartWatch] == kinds[RadiusWatch] == 1
