# The paper's ImageNet training: 8 GPUs x 32 images, 100 epochs from a learning
# rate of 0.1, a tenth of it after 30, 60 and 90, weight decay 1e-4 on
# everything, SN's ratios, gamma and beta too. All gammas start at 1, those at
# the end of a block as well. Norms are set by the configs that inherit this.
_base_ = [
    'mmpretrain::_base_/models/resnet50.py',
    'mmpretrain::_base_/datasets/imagenet_bs32.py',
    'mmpretrain::_base_/schedules/imagenet_bs256.py',
    'mmpretrain::_base_/default_runtime.py'
]
custom_imports = dict(imports=['sn_mm'], allow_failed_imports=False)
runner_type = 'DataCheckedRunner'

model = dict(backbone=dict(zero_init_residual=False))
default_hooks = dict(checkpoint=dict(max_keep_ckpts=3))
