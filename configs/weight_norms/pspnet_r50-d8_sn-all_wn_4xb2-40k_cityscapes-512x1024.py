# PSPNet with SN throughout and its convolutions weight normalized.
_base_ = [
    'mmseg::pspnet/pspnet_r50-d8_4xb2-40k_cityscapes-512x1024.py',
    '../_base_/sn.py'
]

custom_imports = dict(imports=['sn_mm'], allow_failed_imports=False)
norm_cfg = _base_.sn_norm_cfg
model = dict(
    type='NormalizeWeights',
    of='EncoderDecoder',
    method='weight_norm',
    pretrained='bn2sn://open-mmlab://resnet50_v1c',
    backbone=dict(norm_cfg=norm_cfg),
    decode_head=dict(norm_cfg=norm_cfg),
    auxiliary_head=dict(norm_cfg=norm_cfg))
optim_wrapper = dict(paramwise_cfg=dict(norm_decay_mult=0.))
# each process has running statistics of its own: one average for all
custom_hooks = [dict(type='SyncBuffersHook')]
