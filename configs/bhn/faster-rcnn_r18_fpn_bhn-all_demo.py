# The demo's Faster R-CNN with BHN: an LSTM for each stage of the backbone,
# and for each list of convolutions in neck and box head.
_base_ = '../demo/faster-rcnn_r18_fpn_bn-all_demo.py'

custom_imports = dict(
    imports=['sn_mm', 'sn_mm.models.bhn'], allow_failed_imports=False)
norm_cfg = dict(type='BHN', requires_grad=True)
model = dict(
    type='ShareLSTM',
    of='FasterRCNN',
    backbone=dict(type='BHNResNet'),
    neck=dict(norm_cfg=norm_cfg),
    roi_head=dict(bbox_head=dict(norm_cfg=norm_cfg)))
