# Mask R-CNN with SN throughout, and normalization of centred weights.
_base_ = './mask-rcnn_r50_fpn_sn-all_wn_1x_coco.py'

model = dict(method='centred_weight_norm')
