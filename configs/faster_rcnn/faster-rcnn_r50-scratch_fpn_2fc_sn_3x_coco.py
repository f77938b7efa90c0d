# The public code's detector from scratch: nothing is frozen, pixels are BGR
# in 0..255, less a mean; three times the 1x schedule.
_base_ = 'faster-rcnn_r50_fpn_2fc_sn_2x_coco.py'

model = dict(
    data_preprocessor=dict(
        mean=[102.9801, 115.9465, 122.7717],
        std=[1.0, 1.0, 1.0],
        bgr_to_rgb=False),
    backbone=dict(frozen_stages=-1, init_cfg=None))
_base_.param_scheduler[1].milestones = [210000, 250000]
_base_.param_scheduler[1].end = 270000
train_cfg = dict(max_iters=270000)
