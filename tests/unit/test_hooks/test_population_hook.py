# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""PopulationHook in a Runner: when it measures, and gamma decay."""

import pytest
import torch
from mmengine.hooks import Hook
from torch import nn

import sn_mm
from sn_mm.hooks import PopulationHook
from sn_mm.layers import PN
from sn_mm.recalibrate.gamma_decay import measured_zeta
from tests.builders import Toy, toy_runner


def runner(tmp_path, *hooks, epochs=2, **kwargs):
    torch.manual_seed(0)
    return toy_runner(
        tmp_path, Toy(PN(4)), epochs, custom_hooks=list(hooks), **kwargs
    )


def hook(**options):
    return dict(type='PopulationHook', **{'num_samples': 4, **options})


class Seen(Hook):
    """The moments after each iteration, behind all other hooks."""

    priority = 'LOWEST'

    def __init__(self):
        self.means = []

    def after_train_iter(self, runner, *args, **kwargs):
        self.means.append(runner.model.norm.running_mean.clone())


def test_moments_change_every_k_iterations(tmp_path):
    seen = Seen()
    made = runner(tmp_path, hook(interval=2), seen, epochs=3)
    start = made.model.norm.running_mean.clone()
    made.train()
    first, *rest = seen.means
    assert not torch.equal(first, start)  # before the first iteration
    changed = [
        not torch.equal(a, b) for a, b in zip([first, *rest[:-1]], rest)
    ]
    # 6 iterations: new after the second, the fourth and the last
    assert changed == [True, False, True, False, True]


def test_they_are_a_batch_average_of_the_weights(tmp_path):
    made = runner(tmp_path, hook(interval=4))
    made.train()
    model = made.model
    want = model.norm.running_mean.clone()
    model.norm.running_mean.zero_()
    sn_mm.update_batch_average(model, made.train_dataloader, 2, progress=False)
    torch.testing.assert_close(model.norm.running_mean, want)


def test_gamma_decay_is_part_of_the_loss(tmp_path):
    """Weights move by its gradient, and the log has it."""
    weights = {}
    for name, decay in (
        ('without', False),
        ('with', dict(activation='softplus', batch_size=2)),
    ):
        made = runner(
            tmp_path / name, hook(interval=9, gamma_decay=decay), epochs=1
        )
        made.train()
        weights[name] = made.model.norm.weight.detach()
        logged = 'train/loss_gamma_decay' in made.message_hub.log_scalars
        assert logged is (name == 'with')
        assert 'parse_losses' not in vars(made.model)
    assert (weights['with'] < weights['without']).all()


def test_the_term_and_its_coefficients():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv1d(2, 3, 1), PN(3))
    model[1].weight.data.copy_(torch.tensor([1.0, -2.0, 3.0]))
    batches = [torch.randn(4, 2, 50) for _ in range(3)]
    with measured_zeta(model, 'relu', 8) as zeta:
        sn_mm.update_batch_average(model, batches, progress=False)
    assert zeta['1'].shape == (3,)
    # about (2 / 8 + 1) / 2 of half of the values, normal ones
    torch.testing.assert_close(
        zeta['1'], torch.full((3,), 0.375 / 8), rtol=0.2, atol=0
    )
    term = sn_mm.gamma_decay(model, zeta)
    want = (zeta['1'] * torch.tensor([1.0, 4.0, 9.0])).sum()
    torch.testing.assert_close(term, want)
    term.backward()
    torch.testing.assert_close(
        model[1].weight.grad, 2 * zeta['1'] * model[1].weight.detach()
    )
    assert sn_mm.gamma_decay(model, 0.5).item() == pytest.approx(7)
    with pytest.raises(ValueError, match='has no PN layer'):
        sn_mm.gamma_decay(nn.Sequential(nn.BatchNorm1d(3)), 0.1)


def test_resume(tmp_path):
    """Coefficients and moments go on where they were."""
    option = hook(interval=2, gamma_decay=True)
    whole = runner(tmp_path / 'whole', option, epochs=2)
    whole.train()
    runner(tmp_path / 'parts', option, epochs=1).train()
    parts = runner(tmp_path / 'parts', option, epochs=2, resume=True)
    parts.train()
    want = whole.model.state_dict()
    for name, value in parts.model.state_dict().items():
        assert torch.equal(value, want[name]), name


def test_a_model_with_losses_of_its_own_is_told(tmp_path):
    made = runner(tmp_path, hook(gamma_decay=True), epochs=1)
    inner = made.model.train_step

    def train_step(data, optim_wrapper):
        made.model.parse_losses, kept = (
            type(made.model).parse_losses.__get__(made.model),
            made.model.parse_losses,
        )
        try:
            return inner(data, optim_wrapper)
        finally:
            made.model.parse_losses = kept

    made.model.train_step = train_step
    with pytest.warns(UserWarning, match='gamma decay was left out'):
        made.train()


@pytest.mark.parametrize(
    'options, error, text',
    [
        (dict(interval=0), ValueError, 'interval'),
        (dict(gamma_decay=dict(zeta=1)), TypeError, 'activation and batch'),
        (dict(gamma_decay=dict(activation='x')), ValueError, 'unknown'),
        (dict(gamma_decay=dict(batch_size=0)), ValueError, 'batch_size'),
    ],
)
def test_bad_arguments(options, error, text):
    with pytest.raises(error, match=text):
        PopulationHook(**options)


def test_a_model_without_pn(tmp_path):
    made = toy_runner(tmp_path, Toy(), 1, custom_hooks=[hook()])
    with pytest.raises(ValueError, match='needs a model with PN'):
        made.train()
