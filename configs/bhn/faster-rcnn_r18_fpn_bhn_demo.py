# The demo's Faster R-CNN with BN, and BHN in the backbone.
_base_ = '../demo/faster-rcnn_r18_fpn_bn-all_demo.py'

custom_imports = dict(
    imports=['sn_mm', 'sn_mm.models.bhn'], allow_failed_imports=False)
model = dict(backbone=dict(type='BHNResNet'))
