# mmdet's runtime for schedules that count iterations.
_base_ = 'mmdet::_base_/default_runtime.py'

default_hooks = dict(
    checkpoint=dict(by_epoch=False, interval=10000, max_keep_ckpts=3))
log_processor = dict(by_epoch=False)
# each process has running statistics of its own: one average for all
custom_hooks = [dict(type='SyncBuffersHook')]
