# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""SparsestMax: ratios that end in a choice.

Shao et al., "SSN: Learning Sparse Switchable Normalization via SparsestMax",
CVPR 2019: Eq. 5 (the constrained projection) and its algorithm, here for any
number of ratios. Sparsemax: Martins and Astudillo, ICML 2016.
"""

from __future__ import annotations

import torch
from torch import Tensor

# A point this near to the centre of its face (squared) has no direction.
_CENTRE = 1e-12


def sparsemax(z: Tensor) -> Tensor:
    """The point of the probability simplex that is nearest to z.

    Args:
        z: (..., K); -inf keeps an entry at 0.

    Returns:
        (..., K), non-negative, adding up to 1; exactly one-hot where one
        entry remains. Differentiable almost everywhere.
    """
    with torch.no_grad():
        ordered = z.sort(dim=-1, descending=True).values
        steps = torch.arange(1, z.shape[-1] + 1, device=z.device)
        inside = 1 + steps * ordered > ordered.cumsum(-1)
        # of NaN, which state dicts may be asked of, every entry remains
        count = inside.sum(-1, keepdim=True).clamp(min=1)
        support = ~(z < ordered.gather(-1, count - 1))
        remaining = support.sum(-1, keepdim=True)
    kept = torch.where(support, z, torch.zeros_like(z))
    tau = (kept.sum(-1, keepdim=True) - 1) / remaining
    p = torch.where(support, z - tau, torch.zeros_like(z)).clamp(min=0)
    # z - (z - 1) may miss 1 by a rounding error
    return torch.where(remaining == 1, support.to(z.dtype), p)


def sparsestmax(z: Tensor, radius: Tensor | float) -> Tensor:
    r"""The point of the simplex nearest to z, but not near its centre.

    argmin \|p - z\| over p >= 0, sum(p) = 1, \|p - 1/K\| >= radius. At radius
    0 this is sparsemax; from sqrt((K - 1) / K) on, the corner that z is
    nearest to. In between, the projection is pushed away from the centre, to
    the sphere around it; where it leaves the simplex there, the same goes on
    in the face that it left through, with the circle that the sphere cuts
    out of that face.

    Args:
        z: (..., K).
        radius: scalar, at least 0.

    Returns:
        (..., K). Where z is as near to two corners as can be, there is no
        direction to push: the point then stays at the centre of its face,
        with sparsemax's gradient (the public code divides 0 by 0).
    """
    count = z.shape[-1]
    radius = torch.as_tensor(radius, dtype=z.dtype, device=z.device)
    p = sparsemax(z)
    face = torch.ones_like(p, dtype=torch.bool)
    for _ in range(count - 1):
        p, face = _push(p, face, radius, count)
    return p


def _push(
    p: Tensor, face: Tensor, radius: Tensor, count: int
) -> tuple[Tensor, Tensor]:
    """Points p of faces (masks) moved out to the sphere; the faces then."""
    corners = face.sum(-1, keepdim=True).to(p.dtype)
    centre = face / corners
    # the sphere cuts a circle of this squared radius out of the face
    circle = radius.square() - (1 / corners - 1 / count)
    way = torch.where(face, p - centre, torch.zeros_like(p))
    distance = way.square().sum(-1, keepdim=True)
    inside = (distance < circle) & (distance > _CENTRE)
    one = torch.ones_like(distance)
    factor = (
        torch.where(inside, circle, one) / torch.where(inside, distance, one)
    ).sqrt()
    pushed = centre + way * factor
    outside = inside & (pushed < 0).any(-1, keepdim=True)
    # the projection's value does not matter where it is not taken
    off = torch.where(face & outside, pushed, -torch.inf * torch.ones_like(p))
    projected = sparsemax(torch.where(outside, off, p))
    p = torch.where(inside, torch.where(outside, projected, pushed), p)
    # not torch.where: onnxruntime has none of booleans
    return p, (outside & (projected > 0)) | (~outside & face)


def without_entry(ratios: Tensor, index: int) -> Tensor:
    """Ratios (..., K) without one of them, the others renormalized.

    Where nothing else is left, the others share equally.
    """
    keep = torch.ones_like(ratios)
    keep[..., index] = 0
    rest = ratios * keep
    total = rest.sum(-1, keepdim=True)
    share = keep / keep.sum(-1, keepdim=True)
    some = total > 0
    safe = torch.where(some, total, torch.ones_like(total))
    return torch.where(some, rest / safe, share)
