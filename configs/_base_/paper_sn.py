# SN as the paper trains it. The long memory of the running statistics stands
# for its batch average over many mini-batches: the public code keeps 0.997 of
# the old value at every step; with BN's usual 0.9 the statistics at test time
# would be those of some ten steps of two images.
sn_norm_cfg = dict(type='SN', requires_grad=True, momentum=0.003)
