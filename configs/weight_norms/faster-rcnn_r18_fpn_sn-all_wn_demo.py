# The demo's Faster R-CNN with SN and its convolutions weight normalized.
_base_ = '../demo/faster-rcnn_r18_fpn_sn-all_demo.py'

model = dict(type='NormalizeWeights', of='FasterRCNN', method='weight_norm')
