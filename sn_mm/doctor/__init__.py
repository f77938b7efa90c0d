# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""``python -m sn_mm.doctor``: whether an environment fits together.

Its page is printed also where torch, mmengine or sn_mm itself does not
import: nothing here imports any of them. What has to be imported to be known
is imported by child processes (:mod:`.probes`), which may fail, hang or crash.
"""
