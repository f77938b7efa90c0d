# ADE20K's test server: label maps 1 to 150 for the pictures of
# release_test.zip, unpacked in data/ade. Add this file to `_base_` beside a
# config, and take from it:
#
#     _base_ = ['../pspnet/CONFIG.py',
#               '../_base_/evaluation/ade20k_test-server.py']
#     test_dataloader = _base_.test_server_dataloader
#     test_evaluator = _base_.test_server_evaluator
test_server_evaluator = [
    dict(
        type='IoUMetric',
        output_dir='work_dirs/ade20k_test-server',
        format_only=True)
]
test_server_dataloader = dict(
    dataset=dict(
        data_root='data/ade/release_test',
        data_prefix=dict(_delete_=True, img_path='testing'),
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='Resize', scale=(2048, 450), keep_ratio=True),
            dict(type='PackSegInputs')
        ]))
