# mmseg's model on a plain ResNet50 (7 x 7 stem), whose last two stages have
# dilations 2 and 4. Norms are set by the configs that inherit this.
_base_ = 'mmseg::_base_/models/deeplabv3_r50-d8.py'

model = dict(pretrained=None, backbone=dict(type='ResNet'))
