# PSPNet with SN throughout, and normalization of centred weights.
_base_ = './pspnet_r50-d8_sn-all_wn_4xb2-40k_cityscapes-512x1024.py'

model = dict(method='centred_weight_norm')
