# PSPNet with SN throughout, and weight standardization before its norms.
_base_ = './pspnet_r50-d8_sn-all_wn_4xb2-40k_cityscapes-512x1024.py'

model = dict(method='weight_standardization')
