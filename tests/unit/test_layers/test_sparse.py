# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""SSN: SparsestMax ratios, choices that stay."""

import pytest
import torch
import torch.nn.functional as F
from mmcv.cnn import build_norm_layer

from sn_mm import SSN, SyncSSN
from sn_mm.functional import switchable_norm_reference
from sn_mm.functional.sparsestmax import sparsestmax
from tests.utils import randomize, relative_error


def layer(radius=0.5, seed=0, **kwargs):
    made = SSN(6, **kwargs)
    randomize(made, seed)
    with torch.no_grad():
        for name in ('mean_weight', 'var_weight'):
            getattr(made, name).mul_(0.3)
    for name in ('mean_fixed', 'var_fixed'):
        getattr(made, name).zero_()
    made.radius.fill_(radius)
    return made


def x_of(*shape, seed=7):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize('training', [True, False])
@pytest.mark.parametrize('radius', [0.0, 0.45, 0.7])
def test_output_and_gradients(training, radius):
    """Against the reference of SN, its softmax undone by logarithms."""
    module = layer(radius).train(training)
    x, dy = x_of(3, 6, 5, 4), x_of(3, 6, 5, 4, seed=8)
    wide = x.double().requires_grad_()
    params = {
        k: v.detach().double().requires_grad_()
        for k, v in module.named_parameters()
    }
    running = (None, None)
    if not training:
        running = (module.running_mean.double(), module.running_var.double())
    logits = [
        (sparsestmax(params[f'{k}_weight'], radius) + 1e-30).log()
        for k in ('mean', 'var')
    ]
    want = switchable_norm_reference(
        wide, *logits, params['weight'], params['bias'], *running
    )
    names = list(params)
    want_grads = torch.autograd.grad(
        want, [wide, *params.values()], dy.double()
    )
    x.requires_grad_()
    got = module(x)
    got_grads = torch.autograd.grad(
        got, [x, *(module.get_parameter(n) for n in names)], dy
    )
    assert relative_error(got, want) < 2e-4
    for name, g, w in zip(['x', *names], got_grads, want_grads):
        # a ratio held by its face and the sphere has gradient 0 exactly
        assert relative_error(g, w, floor=1.0) < 2e-4, name


@pytest.mark.parametrize(
    'index, native',
    [
        (0, lambda x: F.instance_norm(x)),
        (1, lambda x: F.layer_norm(x, x.shape[1:])),
        (2, lambda x: F.batch_norm(x, None, None, training=True)),
    ],
)
def test_a_choice_is_the_native_norm(index, native):
    module = SSN(6)
    with torch.no_grad():
        module.mean_weight[index] += 1e-2
        module.var_weight[index] += 1e-2
    module.radius.fill_(0.9)
    x = x_of(3, 6, 5, 4)
    assert torch.allclose(module(x), native(x), atol=1e-5)


def test_a_choice_made_in_training_stays():
    module = layer(radius=0.9).train()
    before = {k: v.clone() for k, v in module.ratios().items()}
    y = module(x_of(2, 6, 4, 4))
    grads = torch.autograd.grad(
        y.sum(), [module.mean_weight, module.var_weight], allow_unused=True
    )
    assert all(g is None or not g.any() for g in grads)
    assert module.mean_fixed == 1 and module.var_fixed == 1
    assert torch.equal(module.mean_weight, before['mean'])
    module.radius.zero_()
    assert torch.equal(module.ratios()['var'], before['var'])
    module.reset_parameters()
    assert module.mean_fixed == 0
    assert module.ratios()['mean'].tolist() == pytest.approx([1 / 3] * 3)


def test_fixed_ratios_are_the_weights_themselves():
    module = layer(radius=0.1).eval()
    module.mean_weight.data.copy_(torch.tensor([0.0, 1.0, 0.0]))
    module.mean_fixed.fill_(1)
    assert module.ratios()['mean'].tolist() == [0, 1, 0]


def test_called_twice_in_one_step_while_choosing():
    module = layer(radius=0.45).train()
    x = x_of(2, 6, 4, 4)
    first = module(x)
    module.radius.fill_(0.9)
    (first.sum() + module(x[..., :2]).square().sum()).backward()
    assert module.mean_weight.grad.isfinite().all()


@pytest.mark.parametrize('n', [0, 1, 2])
@pytest.mark.parametrize('training', [True, False])
def test_single_positions_and_empty_batches(n, training):
    module = SSN(6).train(training)
    module.mean_weight.data.copy_(torch.tensor([1.0, 0.0, 0.0]))
    module.radius.fill_(0.9)
    x = x_of(n, 6, 1, 1).requires_grad_()
    y = module(x)
    y.square().sum().backward()
    assert y.isfinite().all() and x.grad.isfinite().all()


def test_groups_choose_on_their_own():
    module = SSN(6, ratio_groups=2).train()
    with torch.no_grad():
        module.mean_weight[0, 0] = 3.0
    module(x_of(2, 6, 4, 4))
    assert module.mean_fixed.tolist() == [1, 0]
    assert module.mean_weight[0].tolist() == [1, 0, 0]


def test_registration_names_and_state():
    name, module = build_norm_layer(dict(type='SSN'), 8, postfix=1)
    assert name == 'sn1' and isinstance(module, SSN)
    sync = build_norm_layer(dict(type='SyncSSN'), 8)[1]
    assert isinstance(sync, SyncSSN)
    sync.load_state_dict(module.state_dict())
    state = module.state_dict()
    for key in ('mean_fixed', 'var_fixed', 'radius'):
        assert state[key].shape == (1,)
    x = x_of(2, 8, 3, 3)
    assert torch.equal(sync(x), module(x))


OPTIMIZERS = {
    'SGD': lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, weight_decay=0.01),
    'AdamW': lambda p: torch.optim.AdamW(p, 1e-2),
    'RMSprop': lambda p: torch.optim.RMSprop(p, 0.3),
    'Rprop': torch.optim.Rprop,
    'Adadelta': torch.optim.Adadelta,
    'LBFGS': lambda p: torch.optim.LBFGS(p, line_search_fn='strong_wolfe'),
}


@pytest.mark.parametrize('name', OPTIMIZERS)
def test_no_optimizer_moves_a_choice(name):
    """Not by momentum from before the choice, nor by decay."""
    module = layer(radius=0.1).train()
    optimizer = OPTIMIZERS[name](module.parameters())

    def steps(count):
        for i in range(count):

            def loss(seed=i):
                optimizer.zero_grad()
                value = module(x_of(4, 6, 5, 4, seed=seed)).pow(4).mean()
                value.backward()
                return value

            optimizer.step(loss)

    steps(3)
    module.radius.fill_(0.9)
    module(x_of(4, 6, 5, 4))
    chosen = module.choices()
    assert chosen is not None
    steps(20)
    assert module.choices() == chosen
    for ratio in module.ratios().values():
        assert sorted(ratio.tolist()) == [0, 0, 1]


@pytest.mark.parametrize('use_buffers', [False, True])
def test_an_average_across_a_choice_stays_on_the_simplex(use_buffers):
    """Logits of before and a one-hot weight, averaged."""
    model = torch.nn.Sequential(layer(radius=0.1)).train()
    average = torch.optim.swa_utils.AveragedModel(
        model, use_buffers=use_buffers
    )
    for radius in (0.1, 0.9, 0.9):
        model[0].radius.fill_(radius)
        model(x_of(2, 6, 4, 4))
        average.update_parameters(model)
        for ratio in average.module[0].ratios().values():
            assert float(ratio.sum()) == pytest.approx(1, abs=1e-5)
            assert ratio.min() >= 0


def test_evaluation_computes_ratios_once(monkeypatch):
    """... until something moves them, by whatever way."""
    calls = []
    monkeypatch.setattr(
        'sn_mm.layers.ratio_forms.sparsestmax',
        lambda *args: calls.append(args) or sparsestmax(*args),
    )
    module, x = layer().eval(), x_of(3, 6, 5, 4)
    with torch.no_grad():
        module(x), module(x)
    assert len(calls) == 1
    changes = (
        lambda: module.mean_weight.data.copy_(torch.tensor([0.1, 0.5, 0.2])),
        lambda: module.var_weight.data[1:].mul_(0.3),
        lambda: module.radius.data.fill_(0.6),
        lambda: module.mean_fixed.data.fill_(1),
        module.double,
    )
    for count, change in enumerate(changes, 2):
        change()
        x = x.to(module.weight.dtype)
        with torch.no_grad():
            got = module(x)
        assert len(calls) == count
        want = layer().to(x.dtype).eval()
        want.load_state_dict(module.state_dict())
        assert torch.equal(got, want(x))
        calls = calls[:count]


def test_evaluation_after_inference_mode():
    module, x = layer().eval(), x_of(3, 6, 5, 4).requires_grad_()
    module.requires_grad_(False)
    with torch.inference_mode():
        want = module(x)
    y = module(x)
    y.sum().backward()
    assert torch.equal(y, want) and x.grad.isfinite().all()
