# The demo's Faster R-CNN with SN and spectral norm of its convolutions.
_base_ = './faster-rcnn_r18_fpn_sn-all_wn_demo.py'

model = dict(method='spectral_norm')
