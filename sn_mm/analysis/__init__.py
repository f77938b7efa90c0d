# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""What the layers of a model chose, and what a config makes of them."""
