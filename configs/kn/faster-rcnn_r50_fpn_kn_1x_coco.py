_base_ = 'mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py'

custom_imports = dict(
    imports=['sn_mm', 'sn_mm.models.kn_resnet'], allow_failed_imports=False)
model = dict(
    backbone=dict(
        type='KNResNet', norm_cfg=dict(type='KN', requires_grad=True)))
optim_wrapper = dict(paramwise_cfg=dict(norm_decay_mult=0.))
# each process has running statistics of its own: one average for all
custom_hooks = [dict(type='SyncBuffersHook')]
