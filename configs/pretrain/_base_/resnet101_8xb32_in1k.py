# As ResNet50, with 101 layers.
_base_ = 'resnet50_8xb32_in1k.py'

model = dict(backbone=dict(depth=101))
