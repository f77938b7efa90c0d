# Mask R-CNN on IBN-Net-50-a, frozen where the base freezes BN.
_base_ = 'mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py'

custom_imports = dict(
    imports=['sn_mm', 'sn_mm.models.ibn_resnet'], allow_failed_imports=False)
model = dict(
    backbone=dict(
        type='IBNResNet',
        variant='a',
        init_cfg=dict(checkpoint='ibn://resnet50_ibn_a')))
optim_wrapper = dict(paramwise_cfg=dict(norm_decay_mult=0.))
