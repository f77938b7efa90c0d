# ADE20K at 450 x 450, two images to a GPU; `--tta` tests at the paper's four
# scales, unflipped.
_base_ = 'mmseg::_base_/datasets/ade20k.py'

crop_size = (450, 450)
_base_.train_pipeline[2].scale = (2048, 450)
_base_.train_pipeline[3].crop_size = crop_size
_base_.test_pipeline[1].scale = (2048, 450)
train_dataloader = dict(
    batch_size=2, dataset=dict(pipeline=_base_.train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=_base_.test_pipeline))
test_dataloader = val_dataloader

tta_pipeline = [
    dict(type='LoadImageFromFile', backend_args=None),
    dict(
        type='TestTimeAug',
        transforms=[[
            dict(type='Resize', scale=(2048, short), keep_ratio=True)
            for short in (300, 400, 500, 600)
        ], [dict(type='LoadAnnotations', reduce_zero_label=True)],
                    [dict(type='PackSegInputs')]])
]

# says which data are missing, and where they are obtained
runner_type = 'DataCheckedRunner'
