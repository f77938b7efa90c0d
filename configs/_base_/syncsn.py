# SyncSN, whose batch statistics are over all GPUs: see sn.py.
sn_norm_cfg = dict(type='SyncSN', requires_grad=True)
# A start from BN weights has equal ratios. At the rate of the weights they
# would hardly move in a short finetuning; docs/ratios.md has the measurements.
sn_paramwise_cfg = dict(norm_decay_mult=0., ratio_lr_mult=20.)
# Running statistics are the same in every process: none has to be averaged.
sn_hooks = []
