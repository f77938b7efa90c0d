# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""What folding did to every layer, and what that saved."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from sn_mm.anatomy.components import label
from sn_mm.utils import text_table


@dataclass(frozen=True)
class FoldedLayer:
    """One norm layer.

    Attributes:
        name, component: of the layer.
        mean, var: the statistics that it chose.
        action: what became of it.
        why: the reason where it is not the most that could be.
        numbers: parameters and buffers that the model no longer has.
        elements: of the layer's maps, for one example image, that are no
            longer read for moments, read again and written; 0 where the
            layer still does some of that.
    """

    name: str
    component: str
    mean: str
    var: str
    action: str
    why: str
    numbers: int
    elements: int


@dataclass(frozen=True)
class FoldReport:
    """All layers; ``note`` says why the example run failed, if it did."""

    layers: list[FoldedLayer]
    note: str = ''

    def summary(self) -> str:
        """Counts, in one line."""
        kinds = Counter(
            'into the convolution before'
            if layer.action.startswith('into ')
            else layer.action
            for layer in self.layers
        )
        text = f'{len(self.layers)} norm layers: ' + ', '.join(
            f'{n} {kind}' for kind, n in kinds.most_common()
        )
        numbers = sum(layer.numbers for layer in self.layers)
        elements = sum(layer.elements for layer in self.layers)
        text += (
            f'; {numbers} numbers of parameters and buffers less, '
            f'{elements:,} map elements of the example image no '
            'longer normalized'
        )
        return f'{text}; {self.note}' if self.note else text

    def table(self) -> str:
        """A line for every layer, aligned, and the summary."""
        head = [
            'layer',
            'component',
            'mean/var',
            'became',
            'numbers saved',
            'map saved',
            '',
        ]
        rows = [
            [
                layer.name,
                label(layer.component),
                f'{layer.mean}/{layer.var}',
                layer.action,
                str(layer.numbers),
                str(layer.elements),
                layer.why,
            ]
            for layer in self.layers
        ]
        return f'{text_table(head, rows)}\n\n{self.summary()}'
