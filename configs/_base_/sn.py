# SN for any config of mmdet or mmseg: add this file to its `_base_` and hand
# `_base_.sn_norm_cfg` to every part that takes a norm_cfg. Configs in
# swap_in/ show it; for SyncSN name syncsn.py in place of this file. Imports
# are the config's own affair, since a base may have some that must not be
# lost:
#
#     custom_imports = dict(imports=['sn_mm'])
#     custom_imports = dict(imports=[*_base_.custom_imports.imports, 'sn_mm'])
#
# the latter without the star where the base's imports is one name, no list.
sn_norm_cfg = dict(type='SN', requires_grad=True)
# On several GPUs each process has running statistics of its own. With
# `custom_hooks = _base_.sn_hooks` they are averaged before validation and
# checkpoints.
sn_hooks = [dict(type='SyncBuffersHook')]
# A start from BN weights has equal ratios. At the rate of the weights they
# would hardly move in a short finetuning; docs/ratios.md has the measurements.
sn_paramwise_cfg = dict(norm_decay_mult=0., ratio_lr_mult=20.)
