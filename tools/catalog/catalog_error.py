# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""The one exception of this package."""


class CatalogError(ValueError):
    """The configs and the paper's rows do not fit; names which, and the fix.

    Command lines print the message alone, without a traceback.
    """
