# Mask R-CNN with SN throughout, and spectral norm of its convolutions.
_base_ = './mask-rcnn_r50_fpn_sn-all_wn_1x_coco.py'

model = dict(method='spectral_norm')
