# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Small things that several rooms need."""
