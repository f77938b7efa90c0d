# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Operators of mmcv without anything to compile: a stand-in for mmcv._ext.

``sn_mm_ops`` loads this package under the name ``mmcv._ext``, where mmcv has
no such module of its own. Functions have the names and the arguments that
mmcv/ops calls; what they compute is torchvision's where torchvision can be
imported, else plain PyTorch, on any device. Every other name is a function
that says, once called, which operator is missing.

Nothing here imports the rest of sn_mm, so that a program that imports
mmcv.ops gets operators and nothing else.
"""

from .deform_conv import (
    deform_conv_backward_input,
    deform_conv_backward_parameters,
    deform_conv_forward,
    modulated_deform_conv_backward,
    modulated_deform_conv_forward,
)
from .focal_loss import (
    sigmoid_focal_loss_backward,
    sigmoid_focal_loss_forward,
)
from .info import get_compiler_version, get_compiling_cuda_version
from .missing import missing_operator
from .ms_deform_attn import ms_deform_attn_backward, ms_deform_attn_forward
from .nms import nms
from .roi_align import roi_align_backward, roi_align_forward
from .soft_nms import softnms

__all__ = [
    'deform_conv_backward_input',
    'deform_conv_backward_parameters',
    'deform_conv_forward',
    'get_compiler_version',
    'get_compiling_cuda_version',
    'modulated_deform_conv_backward',
    'modulated_deform_conv_forward',
    'ms_deform_attn_backward',
    'ms_deform_attn_forward',
    'nms',
    'roi_align_backward',
    'roi_align_forward',
    'sigmoid_focal_loss_backward',
    'sigmoid_focal_loss_forward',
    'softnms',
]


def __getattr__(name: str):
    """mmcv asks for all names at import, of which models need a few."""
    if name.startswith('_') or __name__ != 'mmcv._ext':
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    return missing_operator(name)
