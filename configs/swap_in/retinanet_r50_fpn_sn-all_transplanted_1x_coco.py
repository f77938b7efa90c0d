# From a start that was taught by the network with BN, on unlabelled pictures:
#
#     python tools/transplant.py \
#         configs/swap_in/retinanet_r50_fpn_sn-all_1x_coco.py \
#         --out checkpoints/retinanet_r50_fpn_sn-transplanted.pth
_base_ = 'retinanet_r50_fpn_sn-all_1x_coco.py'

model = dict(
    backbone=dict(
        init_cfg=dict(
            checkpoint='checkpoints/retinanet_r50_fpn_sn-transplanted.pth')))
