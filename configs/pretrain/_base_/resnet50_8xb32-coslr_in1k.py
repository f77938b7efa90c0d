# 100 epochs of a cosine after a warm-up, as in the public code's model zoo.
# The zoo does not tell how long its warm-up is: these are the usual 5 epochs.
_base_ = 'resnet50_8xb32_in1k.py'

param_scheduler = [
    dict(
        type='LinearLR',
        start_factor=0.1,
        by_epoch=True,
        begin=0,
        end=5,
        convert_to_iter_based=True),
    dict(
        type='CosineAnnealingLR',
        eta_min=0,
        by_epoch=True,
        begin=5,
        end=100,
        convert_to_iter_based=True)
]
