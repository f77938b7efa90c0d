# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""What a layer keeps between its forward and its backward."""

from __future__ import annotations

from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten


def kept_for_backward(layer: nn.Module, x: Tensor) -> int:
    """Bytes alive after ``layer(x)`` for the sake of its backward.

    Counts every storage made since, x's own included, that outlives the
    forward once the output is gone: also what a layer hides from autograd.

    Args:
        layer: takes x; parameters and buffers do not count.
        x: an input; its values are copied, so that it is not a leaf, which
            a graph always holds on to.
    """
    layer(x)  # what is made once, at the first call, is not kept for backward
    leaf = x.detach().requires_grad_()
    with _Storages() as made:
        y = layer(leaf.clone())
        anchor = y.sum()  # holds the graph, but not y
    del y
    return made.alive() - anchor.element_size()


class _Storages(TorchDispatchMode):
    """Notes every storage that an operation returns."""

    def __init__(self) -> None:
        super().__init__()
        self.made: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        given = {
            t.untyped_storage()._cdata
            for t in tree_flatten((args, kwargs))[0]
            if isinstance(t, Tensor)
        }
        for t in tree_flatten(out)[0]:
            if isinstance(t, Tensor):
                storage = t.untyped_storage()
                if storage._cdata not in given:
                    self.made[storage._cdata] = (
                        StorageWeakRef(storage),
                        storage.nbytes(),
                    )
        return out

    def alive(self) -> int:
        return sum(n for ref, n in self.made.values() if not ref.expired())
