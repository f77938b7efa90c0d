# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""What processes of tests need, imported once in the one they fork off.

Each of these takes seconds; DistributedDataParallel imports torch._dynamo.
"""

import contextlib

import pytest  # noqa: F401
import torch._dynamo
import torch.autograd.profiler
import torch.utils.checkpoint  # noqa: F401

import sn_mm  # noqa: F401
import tests.builders
import tests.distributed
import tests.utils  # noqa: F401

# absent, or of another version than mmcv
with contextlib.suppress(ImportError, AssertionError):
    import mmdet.testing  # noqa: F401
