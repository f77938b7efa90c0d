# Table VII: One-convolution head on Cityscapes with SyncBN.
_base_ = [
    '../_base_/models/fcn-c1_r50-d8.py',
    '../_base_/datasets/cityscapes_713x713.py',
    'mmseg::_base_/default_runtime.py',
    '../_base_/schedules/poly_130k.py'
]
custom_imports = dict(imports=['sn_mm'], allow_failed_imports=False)

model = dict(
    data_preprocessor=dict(size=(713, 713)),
    backbone=dict(
        init_cfg=dict(
            type='Pretrained', checkpoint='torchvision://resnet50')))
