# The head of the public code on a dilated ResNet50 (7 x 7 stem): one 3 x 3
# convolution with a norm and a classifier, and the same on layer3 as deep
# supervision. Norms are set by the configs that inherit this.
_base_ = 'mmseg::_base_/models/fcn_r50-d8.py'

model = dict(
    pretrained=None,
    backbone=dict(type='ResNet'),
    decode_head=dict(num_convs=1, concat_input=False, dropout_ratio=0),
    auxiliary_head=dict(channels=512, dropout_ratio=0))
