# COCO's test server: predictions on test-dev2017, as json, without scores.
# Add this file to `_base_` beside a config, and take from it
#
#     _base_ = [
#         '../mask_rcnn/CONFIG.py', '../_base_/evaluation/coco_test-dev.py'
#     ]
#     test_dataloader = _base_.test_dev_dataloader
#     test_evaluator = _base_.test_dev_evaluator
#
# Metrics stay as the config has them: bbox, or bbox and segm.
test_dev_dataloader = dict(
    dataset=dict(
        ann_file='annotations/image_info_test-dev2017.json',
        data_prefix=dict(img='test2017/')))
test_dev_evaluator = dict(
    ann_file='data/coco/annotations/image_info_test-dev2017.json',
    format_only=True,
    outfile_prefix='work_dirs/coco_test-dev/detections')
