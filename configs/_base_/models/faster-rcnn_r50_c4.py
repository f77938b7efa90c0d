# Setting 1: layers to conv4 are the backbone, conv5 is the RoI head, and all
# of them learn, the stem too. Norms, and where they start from, are set by
# the configs that inherit this.
_base_ = 'mmdet::_base_/models/faster-rcnn_r50-caffe-c4.py'

model = dict(
    data_preprocessor=dict(
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True),
    backbone=dict(frozen_stages=-1, style='pytorch'),
    roi_head=dict(shared_head=dict(style='pytorch')))
