# Faster R-CNN with BHN in the backbone, and no norm in neck and head.
_base_ = 'mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py'

custom_imports = dict(
    imports=['sn_mm', 'sn_mm.models.bhn'], allow_failed_imports=False)
model = dict(
    backbone=dict(
        type='BHNResNet',
        # as the base's norm_eval=True does with its BN
        hyper_cfg=dict(type='BHN', bn_eval=True),
        init_cfg=dict(
            checkpoint='{{$SN_MM_CHECKPOINTS:checkpoints}}/'
            'resnet50_bhn_8xb32_in1k.pth',
            prefix='backbone.')))
optim_wrapper = dict(paramwise_cfg=dict(norm_decay_mult=0.))
# each process has running statistics of its own: one average for all
custom_hooks = [dict(type='SyncBuffersHook')]
