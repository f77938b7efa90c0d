# The demo's Faster R-CNN with SN and weight standardization before its norms.
_base_ = './faster-rcnn_r18_fpn_sn-all_wn_demo.py'

model = dict(method='weight_standardization')
