# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""From an image to boxes, as the notes on the public code say, in numpy."""

from __future__ import annotations

import math

import cv2
import numpy as np
import torch
from mmcv.ops import RoIAlign

MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
RATIOS, SIZE = (0.5, 1, 2), 8
MAX_LOG = math.log(1000 / 16)


def blob(bgr: np.ndarray, short: int, long: int):
    """(image (1, 3, H, W) padded to multiples of 32, scale)."""
    scale = short / min(bgr.shape[:2])
    if round(scale * max(bgr.shape[:2])) > long:
        scale = long / max(bgr.shape[:2])
    image = ((bgr[..., ::-1] / 255 - MEAN) / STD).astype(np.float32)
    image = cv2.resize(
        image, None, None, scale, scale, interpolation=cv2.INTER_LINEAR
    )
    height, width = (-(-s // 32) * 32 for s in image.shape[:2])
    padded = np.zeros((height, width, 3), np.float32)
    padded[: image.shape[0], : image.shape[1]] = image
    return torch.from_numpy(padded).permute(2, 0, 1)[None], scale


def decode(boxes, deltas, weights, shape):
    """Boxes (N, 4) moved by deltas (N, 4), clipped to shape."""
    dx, dy, dw, dh = (deltas / weights).T
    w = boxes[:, 2] - boxes[:, 0] + 1
    h = boxes[:, 3] - boxes[:, 1] + 1
    x = boxes[:, 0] + 0.5 * w + dx * w
    y = boxes[:, 1] + 0.5 * h + dy * h
    w = np.exp(np.minimum(dw, MAX_LOG)) * w
    h = np.exp(np.minimum(dh, MAX_LOG)) * h
    out = np.stack(
        [x - 0.5 * w, y - 0.5 * h, x + 0.5 * w - 1, y + 0.5 * h - 1], 1
    )
    out[:, 0::2] = out[:, 0::2].clip(0, shape[1] - 1)
    out[:, 1::2] = out[:, 1::2].clip(0, shape[0] - 1)
    return out


def nms(boxes, scores, threshold):
    """Indices kept, best first."""
    x1, y1, x2, y2 = boxes.T
    area = (x2 - x1 + 1) * (y2 - y1 + 1)
    order, keep = np.argsort(-scores, kind='stable'), []
    while len(order):
        i, order = order[0], order[1:]
        keep.append(i)
        w = np.minimum(x2[i], x2[order]) - np.maximum(x1[i], x1[order]) + 1
        h = np.minimum(y2[i], y2[order]) - np.maximum(y1[i], y1[order]) + 1
        inter = w.clip(0) * h.clip(0)
        order = order[inter / (area[i] + area[order] - inter) < threshold]
    return np.array(keep, int)


def anchors(stride, height, width):
    """(H * W * 3, 4), position outer."""
    cells = []
    for ratio in RATIOS:
        w = np.round(np.sqrt(stride * stride / ratio))
        h = np.round(w * ratio)
        w, h, c = w * SIZE, h * SIZE, (stride - 1) / 2
        half = (np.array([w, h]) - 1) / 2
        cells.append(np.r_[c - half, c + half])
    y, x = np.mgrid[:height, :width] * stride
    shift = np.stack([x, y, x, y], -1).reshape(-1, 1, 4)
    return (shift + np.array(cells)).reshape(-1, 4)


def proposals(detector, features, shape, count):
    """The best ``count`` boxes of all levels, and as many per level first."""
    boxes, scores = [], []
    for i, x in enumerate(features):
        score, delta = detector.RPN(x)
        score = score.sigmoid().permute(0, 2, 3, 1).reshape(-1).numpy()
        height, width = delta.shape[-2:]
        delta = delta.view(3, 4, height, width).permute(2, 3, 0, 1)
        delta = delta.reshape(-1, 4).numpy().astype(np.float64)
        best = np.argsort(-score, kind='stable')[:count]
        cells = anchors(4 * 2**i, height, width)
        decoded = decode(cells[best], delta[best], np.ones(4), shape)
        keep = nms(decoded, score[best], 0.7)[:count]
        boxes.append(decoded[keep])
        scores.append(score[best][keep])
    boxes, scores = np.concatenate(boxes), np.concatenate(scores)
    return boxes[np.argsort(-scores, kind='stable')[:count]]


def pooled(features, boxes, size):
    """RoI features of P2 to P5."""
    w = boxes[:, 2] - boxes[:, 0] + 1
    h = boxes[:, 3] - boxes[:, 1] + 1
    level = np.floor(4 + np.log2(np.sqrt(w * h) / 224 + 1e-6)).clip(2, 5)
    rois = torch.from_numpy(np.c_[np.zeros(len(boxes)), boxes]).float()
    out = torch.zeros(len(boxes), 256, size, size)
    for k in range(4):
        on = torch.from_numpy(level == k + 2)
        align = RoIAlign(size, 1 / (4 * 2**k), 2, aligned=False)
        out[on] = align(features[k], rois[on])
    return out


@torch.no_grad()
def detect(detector, bgr, short, long, count, threshold):
    """(boxes in original, exclusive coordinates; scores; labels from 0)."""
    image, scale = blob(bgr, short, long)
    features = detector.Conv_Body(image)
    rois = proposals(detector, features, image.shape[-2:], count)
    head = detector.Box_Head(pooled(features, rois, 7))
    score, delta = detector.Box_Outs(head)
    score, delta = score.softmax(1).numpy(), delta.numpy()
    found = []
    for label in range(1, score.shape[1]):
        on = score[:, label] > threshold
        if not on.any():
            continue
        moved = decode(
            rois[on] / scale,
            delta[on, 4 * label : 4 * label + 4].astype(np.float64),
            np.array([10, 10, 5, 5]),
            bgr.shape[:2],
        )
        points = score[on, label]
        keep = nms(moved, points, 0.5)
        found += [(moved[i], points[i], label - 1) for i in keep]
    found.sort(key=lambda item: -item[1])
    boxes, points, labels = zip(*found[:100])
    return np.array(boxes) + [0, 0, 1, 1], np.array(points), np.array(labels)


@torch.no_grad()
def mask_logits(detector, bgr, short, long, boxes, labels):
    """Logits (N, 28, 28) in detected boxes, given in exclusive coordinates."""
    image, scale = blob(bgr, short, long)
    features = detector.Conv_Body(image)
    rois = (boxes - [0, 0, 1, 1]) * scale
    out = detector.Mask_Outs(detector.Mask_Head(pooled(features, rois, 14)))
    return out[torch.arange(len(boxes)), torch.from_numpy(labels) + 1]
