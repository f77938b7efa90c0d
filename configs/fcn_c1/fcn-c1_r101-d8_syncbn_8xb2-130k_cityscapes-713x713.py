_base_ = 'fcn-c1_r50-d8_syncbn_8xb2-130k_cityscapes-713x713.py'

model = dict(
    backbone=dict(
        depth=101,
        init_cfg=dict(checkpoint='torchvision://resnet101')))
