# The batch statistics are over all GPUs.
norm_cfg = dict(type='SyncSN', requires_grad=True)
# In evaluation, BN's part uses the batch average over 50 000 training images.
custom_hooks = [dict(type='BatchAverageHook', num_samples=50000)]
