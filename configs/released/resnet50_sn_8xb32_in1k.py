# The released ImageNet ResNet50 with SN, (8, 32) and other batch sizes.
_base_ = [
    'mmpretrain::_base_/models/resnet50.py',
    'mmpretrain::_base_/datasets/imagenet_bs32.py',
    'mmpretrain::_base_/schedules/imagenet_bs256.py',
    'mmpretrain::_base_/default_runtime.py'
]
custom_imports = dict(imports=['sn_mm'], allow_failed_imports=False)

model = dict(
    backbone=dict(
        norm_cfg=dict(
            type='SN', requires_grad=True, unbiased=True, momentum=0.003)))
# each process has running statistics of its own: one average for all
custom_hooks = [dict(type='SyncBuffersHook')]
