# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Writing picture files."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np


def write_image(path: Path, image: np.ndarray, *params: int) -> None:
    """Write a picture in the format that the suffix names.

    The same picture gives the same bytes. Unlike ``cv2.imwrite``, which
    returns False, this raises when the disk is full.

    Args:
        path (Path): File to write; its folder is made if need be.
        image (np.ndarray): uint8 RGB (H, W, 3), or uint8 or uint16 (H, W).
        params (int): OpenCV's encoding parameters, as for ``cv2.imencode``.

    Raises:
        OSError: If the file cannot be written.
    """
    if image.ndim == 3:
        image = image[..., ::-1]  # OpenCV wants BGR
    encoded = cv2.imencode(path.suffix, image, params)[1]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded.tobytes())
