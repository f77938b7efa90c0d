# As the published number was measured: in the public code with FREEZE_AT: 2,
# the norms of res2 never leave training mode, and take BN's statistics from
# the test image. Test with one image per batch.
_base_ = 'faster-rcnn_r50_fpn_sn_2x_coco.py'

model = dict(backbone=dict(type='DetectronResNet', batch_stats_stages=(1, )))
