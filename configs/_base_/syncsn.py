# SyncSN, whose batch statistics are over all GPUs: see sn.py.
custom_imports = dict(imports=['sn_mm'], allow_failed_imports=False)

sn_norm_cfg = dict(type='SyncSN', requires_grad=True)
