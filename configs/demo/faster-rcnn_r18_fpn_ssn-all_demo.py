# Sparse SN: in the end every layer uses one statistic for the mean and one
# for the variance.
_base_ = ['faster-rcnn_r18_fpn_sn-all_demo.py', '../_base_/ssn.py']
norm_cfg = _base_.ssn_norm_cfg
model = dict(
    backbone=dict(norm_cfg=norm_cfg),
    neck=dict(norm_cfg=norm_cfg),
    roi_head=dict(bbox_head=dict(norm_cfg=norm_cfg)))
optim_wrapper = dict(paramwise_cfg=_base_.ssn_paramwise_cfg)
custom_hooks = _base_.ssn_hooks
