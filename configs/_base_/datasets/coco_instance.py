# mmdet's COCO with masks, drawn without end: the schedules count iterations.
_base_ = 'mmdet::_base_/datasets/coco_instance.py'

train_dataloader = dict(sampler=dict(type='InfiniteSampler'))

# says which data are missing, and where they are obtained
runner_type = 'DataCheckedRunner'
