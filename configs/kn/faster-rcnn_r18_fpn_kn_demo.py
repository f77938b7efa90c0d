# The demo's Faster R-CNN with BN, and KN in the backbone.
_base_ = '../demo/faster-rcnn_r18_fpn_bn-all_demo.py'

custom_imports = dict(
    imports=['sn_mm', 'sn_mm.models.kn_resnet'], allow_failed_imports=False)
model = dict(
    backbone=dict(
        type='KNResNet', norm_cfg=dict(type='KN', requires_grad=True)))
