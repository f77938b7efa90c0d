# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""The real pictures behind the demo data, all shipped with scikit-learn.

- 1,797 scans of handwritten digits, 8 x 8 pixels (E. Alpaydin and C. Kaynak,
  Optical Recognition of Handwritten Digits, UCI, 1998; CC BY 4.0);
- two photographs, 'china.jpg' and 'flower.jpg' (CC BY 2.0), for backgrounds.
"""

from __future__ import annotations

from functools import cache

import cv2
import numpy as np

SPLITS = ('train', 'val')

# Scans are stored writer by writer, so that a cut in file order gives val
# (nearly) other hands than train. Photographs are cut by column.
_TRAIN_SHARE_OF_SCANS = 0.75
_TRAIN_SHARE_OF_PHOTOS = 0.6

# Side of the enlarged scans. Large enough that warping them further needs
# linear interpolation only.
SCAN_SIZE = 80


def _datasets():
    try:
        from sklearn import datasets
    except ImportError as error:
        raise ImportError(
            'the demo data is made of the pictures that scikit-learn ships, '
            'and scikit-learn is not installed: pip install scikit-learn'
        ) from error
    return datasets


@cache
def digit_scans(split: str) -> tuple:
    """Enlarged scans of handwritten digits, those of one split only.

    Args:
        split (str): 'train' or 'val'. No scan is in both.

    Returns:
        tuple[np.ndarray]: For each digit 0 to 9 a float32 array of shape
        (number of scans, SCAN_SIZE, SCAN_SIZE), paper 0, ink 1. The 8 x 8
        scan has a margin of one pixel around it, so ink never touches the
        edge.

    Raises:
        ImportError: If scikit-learn is not installed.
    """
    scans, digits = _datasets().load_digits(return_X_y=True)
    rows = _part_of_split(len(scans), split, _TRAIN_SHARE_OF_SCANS)
    scans = scans[rows].reshape(-1, 8, 8).astype(np.float32) / 16
    scans = np.pad(scans, ((0, 0), (1, 1), (1, 1)))
    digits = digits[rows]
    return tuple(
        np.stack([_enlarge(scan) for scan in scans[digits == digit]])
        for digit in range(10)
    )


@cache
def photos(split: str) -> tuple:
    """Photographs to cut backgrounds from, the part of one split only.

    Args:
        split (str): 'train' or 'val'. No pixel is in both.

    Returns:
        tuple[np.ndarray]: uint8 RGB pictures of shape (427, W, 3), W being
        384 in train and 256 in val.

    Raises:
        ImportError: If scikit-learn is not installed.
    """
    cut = []
    for photo in _datasets().load_sample_images().images:
        columns = _part_of_split(photo.shape[1], split, _TRAIN_SHARE_OF_PHOTOS)
        cut.append(np.ascontiguousarray(photo[:, columns]))
    return tuple(cut)


def _part_of_split(length: int, split: str, train_share: float) -> slice:
    if split not in SPLITS:
        raise ValueError(f'split must be one of {SPLITS}, got {split!r}')
    end = int(length * train_share)
    return slice(0, end) if split == 'train' else slice(end, length)


def _enlarge(scan: np.ndarray) -> np.ndarray:
    size = (SCAN_SIZE, SCAN_SIZE)
    scan = cv2.resize(scan, size, interpolation=cv2.INTER_CUBIC)
    return np.clip(scan, 0, 1)
