# Cityscapes in crops of 713 x 713, two images to a GPU; `--tta` tests at the
# paper's four scales, unflipped.
_base_ = 'mmseg::_base_/datasets/cityscapes.py'

crop_size = (713, 713)
_base_.train_pipeline[3].crop_size = crop_size
train_dataloader = dict(
    batch_size=2, dataset=dict(pipeline=_base_.train_pipeline))

tta_pipeline = [
    dict(type='LoadImageFromFile', backend_args=None),
    dict(
        type='TestTimeAug',
        transforms=[[
            dict(type='Resize', scale_factor=factor, keep_ratio=True)
            for factor in (1.0, 1.25, 1.5, 1.75)
        ], [dict(type='LoadAnnotations')], [dict(type='PackSegInputs')]])
]

# says which data are missing, and where they are obtained
runner_type = 'DataCheckedRunner'
