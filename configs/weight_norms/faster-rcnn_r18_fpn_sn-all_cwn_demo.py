# The demo's Faster R-CNN with SN and normalization of centred weights.
_base_ = './faster-rcnn_r18_fpn_sn-all_wn_demo.py'

model = dict(method='centred_weight_norm')
