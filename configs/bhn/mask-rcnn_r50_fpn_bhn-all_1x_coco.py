# BHN in backbone, neck, box and mask head: an LSTM for each stage, and for
# each list of convolutions.
_base_ = 'mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py'

custom_imports = dict(
    imports=['sn_mm', 'sn_mm.models.bhn'], allow_failed_imports=False)
norm_cfg = dict(type='BHN', requires_grad=True)
model = dict(
    type='ShareLSTM',
    of='MaskRCNN',
    backbone=dict(
        type='BHNResNet',
        # as the base's norm_eval=True does with its BN
        hyper_cfg=dict(type='BHN', bn_eval=True),
        init_cfg=dict(
            checkpoint='{{$SN_MM_CHECKPOINTS:checkpoints}}/'
            'resnet50_bhn_8xb32_in1k.pth',
            prefix='backbone.')),
    neck=dict(norm_cfg=norm_cfg),
    roi_head=dict(
        bbox_head=dict(
            type='Shared4Conv1FCBBoxHead',
            conv_out_channels=256,
            norm_cfg=norm_cfg),
        mask_head=dict(norm_cfg=norm_cfg)))
optim_wrapper = dict(paramwise_cfg=dict(norm_decay_mult=0.))
# each process has running statistics of its own: one average for all
custom_hooks = [dict(type='SyncBuffersHook')]
