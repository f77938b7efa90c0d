# As for ADE20K, but 700 epochs of Cityscapes' 2975 images, 16 at a time.
_base_ = 'poly_100k.py'

_base_.param_scheduler[0].end = 130000
train_cfg = dict(max_iters=130000)
