# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""The arguments of a layer, whichever of its bases takes them."""

from __future__ import annotations

import inspect


def signature_of(cls: type) -> inspect.Signature:
    """What the constructor takes, those passed on to bases included.

    ``inspect`` stops at the first ``*args, **kwargs``: ``help`` would show no
    argument, and ``torch.nn.utils.skip_init``, which looks for ``device``,
    would refuse the layer.

    Example:
        >>> class Base:
        ...     def __init__(self, size, device=None): ...
        >>> class Layer(Base):
        ...     def __init__(self, *args, eps=0.1, **kwargs): ...
        >>> str(signature_of(Layer))
        '(size, device=None, *, eps=0.1)'
    """
    found: dict[str, inspect.Parameter] = {}
    for base in reversed(cls.__mro__):
        if '__init__' in base.__dict__:
            own = dict(inspect.signature(base.__init__).parameters)
            own.pop('self', None)
            passed_on = any(p.kind is p.VAR_KEYWORD for p in own.values())
            own = {
                name: p
                for name, p in own.items()
                if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
            }
            found = {**found, **own} if passed_on else own
    return inspect.Signature(sorted(found.values(), key=lambda p: p.kind))
