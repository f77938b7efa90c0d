# BHN in neck and box head, too, where each list of convolutions has an LSTM.
_base_ = 'faster-rcnn_r50_fpn_bhn_1x_coco.py'

norm_cfg = dict(type='BHN', requires_grad=True)
model = dict(
    type='ShareLSTM',
    of='FasterRCNN',
    neck=dict(norm_cfg=norm_cfg),
    roi_head=dict(
        bbox_head=dict(
            type='Shared4Conv1FCBBoxHead',
            conv_out_channels=256,
            norm_cfg=norm_cfg)))
# each process has running statistics of its own: one average for all
custom_hooks = [dict(type='SyncBuffersHook')]
