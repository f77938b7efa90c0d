# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Models on their way out of PyTorch."""

from .onnx import export_onnx

__all__ = ['export_onnx']
