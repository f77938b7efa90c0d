# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Pictures of predictions: importing registers the visualizer."""

from .picture_visualizer import PictureVisualizer

__all__ = ['PictureVisualizer']
