# The demo's Faster R-CNN, with ILM-Norm over GN throughout.
_base_ = '../demo/faster-rcnn_r18_fpn_sn-all_demo.py'

# as many key groups as in networks of the usual width
norm_cfg = dict(type='ILM', norm='gn', num_groups=8, key_group_size=4)
model = dict(
    backbone=dict(norm_cfg=norm_cfg),
    neck=dict(norm_cfg=norm_cfg),
    roi_head=dict(bbox_head=dict(norm_cfg=norm_cfg)))
