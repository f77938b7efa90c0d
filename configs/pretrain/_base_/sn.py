norm_cfg = dict(type='SN', requires_grad=True)
# In evaluation, BN's part uses the batch average over 50 000 training images.
custom_hooks = [dict(type='BatchAverageHook', num_samples=50000)]
