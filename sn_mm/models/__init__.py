# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""What the released networks need and the toolboxes lack.

Nothing is imported here, because every part needs one toolbox: a config names
what it uses in ``custom_imports``: ``sn_mm.models.detectron`` (mmdet),
``sn_mm.models.ssn_resnet`` (whichever of mmdet, mmseg, mmpretrain is there).
"""
