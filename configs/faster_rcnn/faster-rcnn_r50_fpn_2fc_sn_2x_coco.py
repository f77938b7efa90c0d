# The public code's detector: SN, from (8, 2), in backbone and neck, the plain
# two-fc box head; biases learn twice as fast and do not decay.
_base_ = [
    'mmdet::_base_/models/faster-rcnn_r50_fpn.py',
    '../_base_/datasets/coco_detection.py',
    '../_base_/schedules/detectron_2x.py',
    '../_base_/runtimes/det_iterations.py', '../_base_/paper_sn.py'
]
custom_imports = dict(imports=['sn_mm'], allow_failed_imports=False)

norm_cfg = _base_.sn_norm_cfg
model = dict(
    backbone=dict(
        norm_cfg=norm_cfg,
        norm_eval=False,
        init_cfg=dict(
            checkpoint='{{$SN_MM_CHECKPOINTS:checkpoints}}/'
            'resnet50_sn_8xb2_in1k.pth',
            prefix='backbone.')),
    neck=dict(norm_cfg=norm_cfg))
optim_wrapper = dict(
    paramwise_cfg=dict(
        custom_keys={'.bias': dict(lr_mult=2., decay_mult=0.)}))
