# A single image has no batch statistics: SN of IN and LN alone.
norm_cfg = dict(type='SN', requires_grad=True, statistics=('in', 'ln'))
