# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Who calls: a person's program, or a compiler that records operations."""

from __future__ import annotations

import torch


def is_traced() -> bool:
    """Whether operations are recorded, and C would go unnoticed."""
    return torch.jit.is_tracing() or _is_compiling()


def leaves_torch() -> bool:
    """Whether what is recorded goes to a file, for other runtimes to read."""
    compiler = getattr(torch, 'compiler', None)
    if hasattr(compiler, 'is_exporting') and compiler.is_exporting():
        return True
    return torch.jit.is_tracing()


def _is_compiling() -> bool:
    compiler = getattr(torch, 'compiler', None)
    if hasattr(compiler, 'is_compiling'):
        return compiler.is_compiling()
    return torch._dynamo.is_compiling()
