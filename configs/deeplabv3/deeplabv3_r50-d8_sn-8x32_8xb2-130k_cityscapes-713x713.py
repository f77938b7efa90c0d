# Table VII: SN, from (8, 32).
_base_ = [
    'deeplabv3_r50-d8_syncbn_8xb2-130k_cityscapes-713x713.py',
    '../_base_/paper_sn.py'
]

norm_cfg = _base_.sn_norm_cfg
model = dict(
    backbone=dict(
        norm_cfg=norm_cfg,
        init_cfg=dict(
            checkpoint='{{$SN_MM_CHECKPOINTS:checkpoints}}/'
            'resnet50_sn_8xb32_in1k.pth',
            prefix='backbone.')),
    decode_head=dict(norm_cfg=norm_cfg),
    auxiliary_head=dict(norm_cfg=norm_cfg))
