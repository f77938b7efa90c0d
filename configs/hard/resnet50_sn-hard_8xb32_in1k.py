# Table III, right: ResNet50 with SN, (8, 32), hardened and finetuned on
# ImageNet. The paper does not give the schedule; this one has 30 epochs,
# from a hundredth of the learning rate to zero.
_base_ = '../released/resnet50_sn_8xb32_in1k.py'

model = dict(backbone=dict(norm_cfg=dict(hard_ratios=True)))
load_from = 'work_dirs/resnet50_sn_8xb32_in1k/hard.pth'

optim_wrapper = dict(optimizer=dict(lr=0.001))
param_scheduler = dict(
    _delete_=True,
    type='CosineAnnealingLR',
    by_epoch=True,
    begin=0,
    end=30,
    convert_to_iter_based=True)
train_cfg = dict(max_epochs=30)
