# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""What environment reports print about the operators."""


def get_compiler_version() -> str:
    """The compiler of mmcv's operators."""
    return 'none (operators of sn_mm)'


def get_compiling_cuda_version() -> str:
    """The CUDA toolkit that mmcv's operators were compiled with."""
    return 'not available'
