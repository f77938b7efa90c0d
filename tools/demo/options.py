# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""What a demo data set is made from."""

from __future__ import annotations

from dataclasses import asdict, dataclass

FORMATS = ('coco', 'cityscapes')

_SIDE_LIMITS = (64, 2048)
_MAX_ASPECT = 4
_MAX_IMAGES = 100_000


@dataclass(frozen=True)
class DemoOptions:
    """Options that decide every byte of a demo data set.

    Attributes:
        train (int): Number of training images.
        val (int): Number of validation images.
        size (tuple[int, int]): Height and width of the images in pixels.
        seed (int): Seed; another one gives other images.
        formats (tuple[str]): Any of 'coco' and 'cityscapes'.

    Raises:
        ValueError: If a value is out of its range.
    """

    train: int = 400
    val: int = 50
    size: tuple = (160, 192)
    seed: int = 0
    formats: tuple = FORMATS

    def __post_init__(self) -> None:
        for name in ('train', 'val'):
            count = getattr(self, name)
            if not 1 <= count <= _MAX_IMAGES:
                raise ValueError(
                    f'{name} must be 1 to {_MAX_IMAGES} images, got {count}'
                )
        if self.seed < 0:
            raise ValueError(f'seed must not be negative, got {self.seed}')
        low, high = _SIDE_LIMITS
        sides = tuple(self.size)
        if len(sides) != 2 or min(sides) < low or max(sides) > high:
            raise ValueError(
                f'size must be a height and a width of {low} to {high} '
                f'pixels, got {sides}'
            )
        if max(sides) > _MAX_ASPECT * min(sides):
            raise ValueError(
                f'the longer side of size must be at most {_MAX_ASPECT} '
                f'times the shorter one, got {sides}'
            )
        if not self.formats or not set(self.formats) <= set(FORMATS):
            raise ValueError(
                f'formats must be some of {FORMATS}, got {self.formats}'
            )

    @property
    def counts(self) -> dict:
        """Number of images by split."""
        return dict(train=self.train, val=self.val)

    def to_json(self) -> dict:
        """The options as JSON has them: lists for tuples."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in asdict(self).items()
        }
