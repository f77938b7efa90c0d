# Setting 1: three images to a GPU, shorter side 600 (longer side 1000 at
# most, as is usual with it).
_base_ = 'coco_detection.py'

scale = (1000, 600)
_base_.train_pipeline[2].scale = scale
_base_.test_pipeline[1].scale = scale
train_dataloader = dict(
    batch_size=3, dataset=dict(pipeline=_base_.train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=_base_.test_pipeline))
test_dataloader = val_dataloader
