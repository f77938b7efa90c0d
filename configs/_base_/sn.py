# SN for any config of mmdet or mmseg: add this file to its `_base_` and hand
# `_base_.sn_norm_cfg` to every part that takes a norm_cfg. Configs in
# swap_in/ show it; for SyncSN name syncsn.py in place of this file.
custom_imports = dict(imports=['sn_mm'], allow_failed_imports=False)

sn_norm_cfg = dict(type='SN', requires_grad=True)
