# The public detectors trained from scratch see BGR in 0..255, less a mean,
# and nothing is frozen.
_base_ = 'mask-rcnn_r50_fpn_sn-nobn_2x_coco.py'

model = dict(
    data_preprocessor=dict(
        mean=[102.9801, 115.9465, 122.7717],
        std=[1.0, 1.0, 1.0],
        bgr_to_rgb=False),
    backbone=dict(frozen_stages=-1))
