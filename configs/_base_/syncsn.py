# SyncSN, whose batch statistics are over all GPUs: see sn.py.
sn_norm_cfg = dict(type='SyncSN', requires_grad=True)
