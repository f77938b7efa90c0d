# Cityscapes' own evaluation (cityscapesscripts) beside mmseg's mIoU, and the
# export of its test pictures for the server. Add this file to `_base_` beside
# a config, and take from it
#
#     _base_ = ['../pspnet/CONFIG.py',
#               '../_base_/evaluation/cityscapes_official.py']
#     test_evaluator = _base_.official_evaluator
#
# or, for the server,
#
#     test_dataloader = _base_.test_server_dataloader
#     test_evaluator = _base_.test_server_evaluator
#
# keep_results: without it mmseg removes output_dir, with all that is in it.
official_evaluator = [
    dict(type='IoUMetric', iou_metrics=['mIoU']),
    dict(
        type='CityscapesMetric',
        output_dir='work_dirs/cityscapes_official',
        keep_results=True)
]

# label ids, in files named as the pictures
test_server_evaluator = [
    dict(
        type='CityscapesMetric',
        output_dir='work_dirs/cityscapes_test-server',
        format_only=True,
        keep_results=True)
]
test_server_dataloader = dict(
    dataset=dict(
        data_prefix=dict(_delete_=True, img_path='leftImg8bit/test'),
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='Resize', scale=(2048, 1024), keep_ratio=True),
            dict(type='PackSegInputs')
        ]))
