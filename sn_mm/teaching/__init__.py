# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Transplants: what a BN network knows, taught to one with other norms.

The teacher is a trained network with BN, the student the same network with
other norms, and what is taught are the teacher's outputs on pictures without
labels. docs/from_bn.md says what it is good for.
"""

from .measures import Agreement
from .outputs import PARTS, check_parts
from .transplant import Transplant, TransplantError, transplant

__all__ = [
    'PARTS',
    'Agreement',
    'Transplant',
    'TransplantError',
    'check_parts',
    'transplant',
]
