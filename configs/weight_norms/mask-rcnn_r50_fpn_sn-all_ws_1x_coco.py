# Mask R-CNN with SN throughout, and weight standardization before its norms.
_base_ = './mask-rcnn_r50_fpn_sn-all_wn_1x_coco.py'

model = dict(method='weight_standardization')
