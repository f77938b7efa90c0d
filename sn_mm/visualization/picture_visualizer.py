# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Predictions as pictures to show: detections and segmentations alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from mmengine.dist import master_only
from mmengine.registry import VISUALIZERS
from mmengine.structures import BaseDataElement
from mmengine.visualization import Visualizer

from .canvas import Canvas, colour_of, side_by_side, with_legend


@VISUALIZERS.register_module()
class PictureVisualizer(Visualizer):
    """The truth and the prediction side by side, for mmdet and mmseg.

    The toolboxes' own visualizers write labels into the boxes, which covers
    objects in small pictures. Here pictures are enlarged, labels stand beside
    their boxes, and label maps have a legend. In a config::

        visualizer = dict(type='PictureVisualizer')

    Args:
        name: of the instance; this and the keywords are mmengine's.
        least_size: pixels of the longer side of a panel at least.
        alpha: opacity of masks and label maps, from 0 to 1.
    """

    def __init__(
        self,
        name: str = 'visualizer',
        *,
        least_size: int = 480,
        alpha: float = 0.5,
        **kwargs: Any,
    ) -> None:
        super().__init__(name, **kwargs)
        self.least_size = least_size
        self.alpha = alpha

    def set_dataset_meta(
        self,
        classes: Sequence[str] | None = None,
        palette: Sequence | None = None,
        dataset_name: str | None = None,
    ) -> None:
        """Names and colours, as mmseg's inferencer gives them."""
        if classes is not None:
            self.dataset_meta = dict(classes=classes, palette=palette)

    @master_only
    def add_datasample(
        self,
        name: str,
        image: np.ndarray,
        data_sample: BaseDataElement | None = None,
        draw_gt: bool = True,
        draw_pred: bool = True,
        show: bool = False,
        wait_time: float = 0,
        out_file: str | None = None,
        pred_score_thr: float = 0.3,
        step: int = 0,
        with_labels: bool = True,
    ) -> None:
        """Draw a picture, as the toolboxes' hooks and inferencers ask for it.

        Args:
            name: of the picture for window and backends.
            image: (H, W, 3) of RGB bytes.
            data_sample: with ``gt_instances``, ``pred_instances``,
                ``gt_sem_seg`` and ``pred_sem_seg``, as far as there are.
            draw_gt, draw_pred: which of them.
            show: in a window, for ``wait_time`` seconds.
            out_file: where to write it; without, to the backends.
            pred_score_thr: predictions of lower scores are left out.
            step: for the backends.
            with_labels: write class names.
        """
        sample = data_sample if data_sample is not None else BaseDataElement()
        image = np.clip(image, 0, 255).astype(np.uint8)
        panels, seen = [], set()
        for wanted, prefix, caption in (
            (draw_gt, 'gt', 'truth'),
            (draw_pred, 'pred', 'prediction'),
        ):
            found = f'{prefix}_instances' in sample
            found = found or f'{prefix}_sem_seg' in sample
            if wanted and found:
                threshold = pred_score_thr if prefix == 'pred' else None
                pixels, labels = self._panel(
                    image, sample, prefix, threshold, with_labels
                )
                panels.append((caption, pixels))
                seen |= labels
        if not panels:
            panels = [('', Canvas(image, self.least_size, 0).pixels)]
        drawn = panels[0][1] if len(panels) == 1 else side_by_side(panels)
        if with_labels:
            labels = sorted(seen)
            drawn = with_legend(
                drawn,
                [self._name(i) for i in labels],
                [self._colour(i) for i in labels],
            )
        self._hand_out(name, drawn, show, wait_time, out_file, step)

    def _panel(
        self,
        image: np.ndarray,
        sample: BaseDataElement,
        prefix: str,
        threshold: float | None,
        with_labels: bool,
    ) -> tuple[np.ndarray, set[int]]:
        """The drawn picture, and the classes of its label map."""
        canvas = Canvas(image, self.least_size, self.alpha)
        seen: set[int] = set()
        if f'{prefix}_sem_seg' in sample:
            labels = _array(sample.get(f'{prefix}_sem_seg').data)
            labels = labels.reshape(labels.shape[-2:])
            canvas.draw_map(labels, self._meta('palette'))
            seen = {int(i) for i in np.unique(labels) if 0 <= i < 255}
        instances = sample.get(f'{prefix}_instances', None)
        if instances is not None and len(instances):
            self._draw_instances(canvas, instances, threshold, with_labels)
        return canvas.pixels, seen

    def _draw_instances(
        self,
        canvas: Canvas,
        instances: Any,
        threshold: float | None,
        with_labels: bool,
    ) -> None:
        scores = None
        if threshold is not None and 'scores' in instances:
            instances = instances[instances.scores > threshold]
            scores = _array(instances.scores)
        labels = [int(i) for i in _array(instances.labels)]
        colours = [self._colour(i) for i in labels]
        if 'masks' in instances and len(labels):
            canvas.draw_masks(_masks(instances.masks), colours)
        if 'bboxes' not in instances or not labels:
            return
        texts = [self._name(i) if with_labels else '' for i in labels]
        if scores is not None:
            texts = [f'{t} {s:.2f}'.strip() for t, s in zip(texts, scores)]
        canvas.draw_boxes(_array(instances.bboxes), texts, colours)

    def _hand_out(
        self,
        name: str,
        drawn: np.ndarray,
        show: bool,
        wait_time: float,
        out_file: str | None,
        step: int,
    ) -> None:
        self.set_image(drawn)  # for get_image, which the inferencers call
        if show:
            self.show(drawn, win_name=name, wait_time=wait_time)
        if out_file is None:
            self.add_image(name, drawn, step)
            return
        path = Path(out_file)
        path.parent.mkdir(parents=True, exist_ok=True)
        if not cv2.imwrite(str(path), drawn[..., ::-1]):
            raise OSError(f'{path} cannot be written')

    # -- names and colours ----------------------------------------------------
    def _meta(self, key: str) -> Any:
        meta = self.dataset_meta
        value = meta.get(key) if isinstance(meta, Mapping) else None
        return None if isinstance(value, str) else value  # 'random'

    def _name(self, label: int) -> str:
        classes = self._meta('classes')
        known = classes is not None and label < len(classes)
        return str(classes[label]) if known else f'class {label}'

    def _colour(self, label: int) -> tuple[int, int, int]:
        return colour_of(label, self._meta('palette'))


def _array(values: Any) -> np.ndarray:
    """Tensors, and what boxes and masks are wrapped in, as an array."""
    values = getattr(values, 'tensor', values)
    if isinstance(values, torch.Tensor):
        return values.detach().cpu().numpy()
    return np.asarray(values)


def _masks(masks: Any) -> np.ndarray:
    """(n, H, W) of bools; mmdet keeps the truth in classes of its own."""
    if hasattr(masks, 'to_ndarray'):
        masks = masks.to_ndarray()
    return _array(masks).astype(bool)
