# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""What a DN layer chooses, says of itself, and starts from."""

import pytest
import torch
from mmcv.cnn import build_norm_layer
from torch import nn

import sn_mm
from sn_mm.anatomy.ratios import ratios_of_model
from sn_mm.layers import DN, SyncDN
from tests.utils import randomize, relative_error

# signs of the gates of 8 channels and of the batch, and what that is
CHOICES = {
    'in': ((-1, -1, -1), -1),
    'ln': ((1, 1, 1), -1),
    'gn': ((-1, 1, 1), -1),
    'bn': ((-1, -1, -1), 1),
    'bln': ((1, 1, 1), 1),
    'bgn': ((1, -1, 1), 1),
}


def layer(name='bn', channels=8):
    made = randomize(DN(channels))
    with torch.no_grad():
        for gates, sign in zip((made.gates_c, made.gates_n), CHOICES[name]):
            gates.copy_(gates.abs() * torch.tensor(sign).float())
    return made


def one_hot(name):
    return torch.eye(6)[DN.statistics.index(name)]


@pytest.mark.parametrize('name', CHOICES)
def test_ratios_are_what_it_chose(name):
    made = layer(name)
    assert made.choices() == dict(mean=(name,), var=(name,))
    for ratio in made.ratios().values():
        assert ratio.sum() == 1
        assert ratio[made.statistics.index(name)] == 1
    (row,) = ratios_of_model(nn.Sequential(made))
    assert row.choice('mean') == row.choice('var') == (name,)


@pytest.mark.parametrize('name', CHOICES)
def test_what_it_folds_to(name):
    """A map of channels over the batch; else GroupNorm, or itself."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), layer(name)).eval()
    x = torch.randn(2, 3, 40, 40)
    want = model(x)
    folded = sn_mm.fold(model, size=64)
    kind = {'in': nn.GroupNorm, 'ln': nn.GroupNorm, 'gn': nn.GroupNorm}
    assert type(folded[1]) is kind.get(name, nn.Identity)
    assert relative_error(folded(x), want) < 1e-5


def test_strided_groups_stay():
    made = randomize(DN(8))
    with torch.no_grad():
        made.gates_c.copy_(torch.tensor([1.0, 1.0, -1.0]))
        made.gates_n.fill_(-1)
    assert made.groups().tolist() == [0, 1] * 4
    assert made.native_norm() is None
    assert sn_mm.fold(nn.Sequential(nn.Conv2d(8, 8, 1), made))[1] is made


@pytest.mark.parametrize('channels', [1, 3, 24, 96, 1280])
def test_any_number_of_channels(channels):
    made = build_norm_layer(dict(type='DN'), channels)[1]
    y = made(torch.randn(3, channels, 2, 2))
    assert y.isfinite().all()
    assert made.groups().shape == (channels,)


def test_any_batch_size():
    made = layer('bgn')
    for samples in (1, 3, 4, 7):
        x = torch.randn(samples, 8, 4, 4)
        pooled = x.reshape(samples, 2, 2, 2, 4, 4).transpose(0, 2)
        pooled = pooled.reshape(2, -1)  # the middle factor stays apart
        y = made(x).reshape(samples, 2, 2, 2, 4, 4).transpose(0, 2)
        weight = made.weight.view(2, 2, 2).transpose(0, 1)
        bias = made.bias.view(2, 2, 2).transpose(0, 1)
        plain = (y - bias[:, :, None, :, None, None]) / weight[
            :, :, None, :, None, None
        ]
        plain = plain.reshape(2, -1)
        want = (pooled - pooled.mean(1, keepdim=True)) / pooled.var(
            1, unbiased=False, keepdim=True
        ).add(1e-5).sqrt()
        torch.testing.assert_close(plain, want, rtol=1e-3, atol=1e-4)


def test_gates_start_at_random_but_as_the_seed_says():
    torch.manual_seed(3)
    first = DN(1024)
    torch.manual_seed(3)
    again = DN(1024)
    assert torch.equal(first.gates_c, again.gates_c)
    assert torch.equal(first.gates_c.abs(), torch.full((10,), 1e-8))
    signs = {tuple(DN(1024).open_gates()[0]) for _ in range(8)}
    assert len(signs) > 1


def test_gates_learn():
    """The batch's gate closes where samples differ in contrast."""
    torch.manual_seed(0)
    made = layer('bn')
    with torch.no_grad():
        made.gates_n.fill_(0.05)
        made.weight.fill_(1)
        made.bias.fill_(0)
    optimizer = torch.optim.SGD(made.parameters(), 0.1)
    contrast = torch.tensor([0.2, 1.0, 4.0, 9.0]).view(-1, 1, 1, 1)
    for _ in range(60):
        clean = torch.randn(4, 8, 6, 6)
        loss = (made(contrast * clean) - clean).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert made.open_gates()[1] is False


def test_weights_of_batch_norms_are_a_start():
    old = randomize(nn.BatchNorm2d(8)).eval()
    made = DN(8)
    missing = made.load_state_dict(old.state_dict(), strict=False)
    assert missing.missing_keys == ['gates_c', 'gates_n']
    made.set_ratios_(dict(mean=one_hot('bn')))
    x = torch.randn(2, 8, 5, 5)
    assert relative_error(made.eval()(x), old(x)) < 1e-5
    with pytest.raises(ValueError, match='which channels'):
        made.set_ratios_(dict(mean=one_hot('gn')))


def test_surgery_and_a_frozen_batch_norm():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))
    randomize(model[1])
    frozen = nn.Sequential(nn.BatchNorm2d(8))
    randomize(frozen)
    frozen.requires_grad_(False)
    x = torch.randn(2, 8, 5, 5)
    want = frozen.eval()(x)
    made = sn_mm.convert_norm(model, 'SyncDN')[1]
    assert type(made) is SyncDN
    kept = sn_mm.convert_norm(frozen.train(), 'DN')
    assert type(kept[0]) is DN
    assert relative_error(kept(x), want) < 1e-5
    assert not any(p.requires_grad for p in kept.parameters())


def test_batch_average():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), DN(8))
    batches = [torch.randn(2, 3, 8, 8) for _ in range(3)]
    done = sn_mm.update_batch_average(model, batches, progress=False)
    assert done.layers == ['1']
    with torch.no_grad():
        means = [model[0](x).mean((0, 2, 3)) for x in batches]
    torch.testing.assert_close(
        model[1].running_mean, torch.stack(means).mean(0)
    )
