# Mask R-CNN with SN throughout, hardened after its 2x schedule: finetuned for
# a quarter of 1x at a tenth of the learning rate, itself divided by ten for
# the last third.
_base_ = '../mask_rcnn/mask-rcnn_r50_fpn_sn-all_2x_coco.py'

norm_cfg = dict(hard_ratios=True)
model = dict(
    backbone=dict(norm_cfg=norm_cfg, init_cfg=None),
    neck=dict(norm_cfg=norm_cfg),
    roi_head=dict(
        bbox_head=dict(norm_cfg=norm_cfg), mask_head=dict(norm_cfg=norm_cfg)))
load_from = 'work_dirs/mask-rcnn_r50_fpn_sn-all_2x_coco/hard.pth'

optim_wrapper = dict(optimizer=dict(lr=0.002))
train_cfg = dict(max_iters=22500)
_base_.param_scheduler[1].milestones = [15000]
_base_.param_scheduler[1].end = 22500
