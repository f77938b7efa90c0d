# Table IV: BN frozen in backbone (to conv4) and RoI head (conv5).
_base_ = [
    '../_base_/models/faster-rcnn_r50_c4.py',
    '../_base_/datasets/coco_detection_600.py',
    '../_base_/schedules/c4_120k.py', '../_base_/runtimes/det_iterations.py'
]
custom_imports = dict(imports=['sn_mm'], allow_failed_imports=False)

pretrained = dict(type='Pretrained', checkpoint='torchvision://resnet50')
model = dict(
    backbone=dict(init_cfg=pretrained),
    roi_head=dict(shared_head=dict(init_cfg=pretrained)))
