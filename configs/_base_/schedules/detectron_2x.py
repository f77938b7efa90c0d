# The 1x schedule, twice as long.
_base_ = 'detectron_1x.py'

train_cfg = dict(max_iters=180000)
_base_.param_scheduler[1].milestones = [120000, 160000]
_base_.param_scheduler[1].end = 180000
