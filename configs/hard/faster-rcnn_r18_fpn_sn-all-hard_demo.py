# The demo's Faster R-CNN with hard ratios: finetuned for two epochs at a
# tenth of the learning rate.
_base_ = '../demo/faster-rcnn_r18_fpn_sn-all_demo.py'

norm_cfg = dict(hard_ratios=True)
model = dict(
    backbone=dict(norm_cfg=norm_cfg),
    neck=dict(norm_cfg=norm_cfg),
    roi_head=dict(bbox_head=dict(norm_cfg=norm_cfg)))
load_from = 'work_dirs/faster-rcnn_r18_fpn_sn-all_demo/hard.pth'

optim_wrapper = dict(optimizer=dict(lr=2e-4))
max_epochs = 2
_base_.param_scheduler[1].end = max_epochs
train_cfg = dict(max_epochs=max_epochs, val_interval=1)
