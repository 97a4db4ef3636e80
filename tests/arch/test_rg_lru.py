"""Properties of the recurrent block beyond the battery: initial decays, both parts of a reset, the capped gradient."""

from contextlib import nullcontext

import pytest
import torch
from tiny_specs import DIM, context

from arch import registry
from arch.kernels import native
from arch.kernels import rg_lru as kernel
from arch.kernels.rg_lru import CappedSqrt
from arch.layout import TokenLayout
from arch.parameters import constant, initialise, parameter


def rg_lru(**options):
    mixer = registry.build("mixer", {"type": "rg_lru", **options}, context())
    initialise(mixer, seed=0)
    return mixer


def test_a_gates_map_is_a_matrix_and_a_decay_is_a_vector():
    """Both are recurrent, so neither is decayed; a quantiser of matrices takes the one and leaves the other."""
    facts = {name: (weight.kind, weight.recurrent) for name, weight in rg_lru(blocks=2).named_parameters()}
    assert {name for name, (kind, _) in facts.items() if kind == "matrix"} == {
        *(f"{name}.weight" for name in ("x", "y", "o", "recurrence_gate", "input_gate"))
    }
    gates = {f"{gate}.{part}" for gate in ("recurrence_gate", "input_gate") for part in ("weight", "bias")}
    assert {name for name, (_, recurrent) in facts.items() if recurrent} == {*gates, "decay"}


def test_a_parameter_of_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="embedding, matrix, vector"):
        parameter((3,), "recurrence", constant(0.0))


@pytest.mark.parametrize("decay_init, power", [("paper", 8), ("reference", 1)])
def test_decays_begin_in_the_stated_range(decay_init, power):
    """paper: sigmoid(L)^8 uniform in [0.9, 0.999]; reference: sigmoid(L)^2 uniform in [0.9^2, 0.999^2]."""
    mixer = rg_lru(width=4096, decay_init=decay_init)
    a = mixer.decay.detach().double().sigmoid() ** power
    assert 0.9 <= a.min() < 0.901 and 0.998 < a.max() <= 0.9990001
    even = a if decay_init == "paper" else a**2
    low, high = (0.9, 0.999) if decay_init == "paper" else (0.81, 0.998001)
    quantiles = torch.quantile(even, torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64))
    expected = low + (high - low) * torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64)
    torch.testing.assert_close(quantiles, expected, rtol=0, atol=0.006)


def test_a_reset_clears_the_state_and_lets_the_input_in_unscaled(monkeypatch):
    """At the first token of a document h = i * u, without any past state and without the factor sqrt(1 - a^2)."""
    mixer = rg_lru()
    seen = {}

    def spy(a, b, h0):
        seen["a"], seen["b"] = a, b
        return b

    monkeypatch.setattr("arch.kernels.rg_lru.linear_scan", spy)
    u = torch.randn(1, 6, DIM)
    layout = TokenLayout.packed(torch.tensor([[0, 0, 0, 1, 1, -1]]))
    with native.disabled():
        mixer._recurrence(u, layout, torch.randn(1, DIM))
    i = torch.sigmoid(mixer.input_gate(u))
    a, b = seen["a"][0], seen["b"][0]
    for t in (0, 3, 5):
        assert not a[t].any()
        torch.testing.assert_close(b[t], (i * u)[0, t])
    for t in (1, 2, 4):
        assert (a[t] > 0).all() and (a[t] < 1).all()
        torch.testing.assert_close(b[t], ((1 - a[t] ** 2).sqrt() * (i * u)[0, t]), rtol=1e-4, atol=1e-6)


def test_the_square_roots_gradient_is_capped_at_1000():
    x = torch.tensor([0.0, 1e-12, 2.4e-7, 2.6e-7, 0.25, 1.0], requires_grad=True)
    y = CappedSqrt.apply(x)
    y.sum().backward()
    assert torch.equal(y, x.sqrt())
    torch.testing.assert_close(x.grad, torch.tensor([1000.0, 1000.0, 1000.0, 0.5 / 2.6e-7**0.5, 1.0, 0.5]))


def test_decays_next_to_one_train():
    """With sigmoid(L) = 1 in float32, the gain is nearly 0, but values and gradients are finite."""
    mixer = rg_lru()
    torch.nn.init.constant_(mixer.decay, 20.0)
    y, _ = mixer(torch.randn(1, 50, DIM), TokenLayout.whole(1, 50))
    y.sum().backward()
    assert y.isfinite().all()
    assert all(weight.grad.isfinite().all() for weight in mixer.parameters())


def test_state_is_float32_whatever_the_model():
    mixer = rg_lru().bfloat16()
    state = mixer.init_state(1, 10, torch.bfloat16, None)
    assert state.h_BR.dtype == torch.float32 and state.tail_BJR.dtype == torch.bfloat16
    y, after = mixer(torch.randn(1, 3, DIM, dtype=torch.bfloat16), TokenLayout.whole(1, 3), state)
    assert y.dtype == torch.bfloat16 and after.h_BR.dtype == torch.float32
    assert after.tail_BJR.dtype == torch.bfloat16


@pytest.mark.parametrize("disabled", [False, True])
def test_without_tokens_the_gradient_of_the_last_state_is_that_of_the_first(disabled):
    none_BTR, h0_BR = torch.zeros(2, 0, 3), torch.randn(2, 3, requires_grad=True)
    with native.disabled() if disabled else nullcontext():
        _, last_BR = kernel.rg_lru(none_BTR, none_BTR, none_BTR, -torch.ones(3), torch.zeros(2, 0, dtype=torch.bool), h0_BR)
        (grad_BR,) = torch.autograd.grad(last_BR, h0_BR, 2 * torch.ones(2, 3))
    assert torch.equal(last_BR, h0_BR)
    assert torch.equal(grad_BR, 2 * torch.ones(2, 3))
