# The released Faster R-CNN + FPN with SN in backbone and neck, (8, 2).
_base_ = [
    '_base_/faster-rcnn_r50_fpn_detectron.py', '_base_/coco_detectron.py',
    'mmdet::_base_/schedules/schedule_2x.py',
    'mmdet::_base_/default_runtime.py'
]
custom_imports = dict(
    imports=['sn_mm', 'sn_mm.models.detectron'], allow_failed_imports=False)

norm_cfg = dict(type='SN', requires_grad=True, unbiased=True, momentum=0.003)
model = dict(
    backbone=dict(norm_cfg=norm_cfg, norm_eval=False, init_cfg=None),
    neck=dict(norm_cfg=norm_cfg))
# each process has running statistics of its own: one average for all
custom_hooks = [dict(type='SyncBuffersHook')]
