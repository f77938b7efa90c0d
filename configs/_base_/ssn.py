# Sparse SN with the settings of its authors: a tenth of the learning rate and
# no weight decay for the ratios, their gradient clipped at norm 1, a radius
# that grows from 0 to 1. Add this file to the `_base_` of a config and write
#
#     model = dict(backbone=dict(norm_cfg=_base_.ssn_norm_cfg), ...)
#     optim_wrapper = dict(paramwise_cfg=_base_.ssn_paramwise_cfg)
#     custom_hooks = _base_.ssn_hooks
#     custom_imports = dict(imports=['sn_mm'])
#
# configs/demo/faster-rcnn_r18_fpn_ssn-all_demo.py shows it.
ssn_norm_cfg = dict(type='SSN', requires_grad=True)
ssn_paramwise_cfg = dict(
    custom_keys=dict(
        mean_weight=dict(lr_mult=0.1, decay_mult=0.),
        var_weight=dict(lr_mult=0.1, decay_mult=0.)))
ssn_hooks = [dict(type='RadiusHook')]
