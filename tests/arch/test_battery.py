"""Tests that every component must pass, for every example of its Config.

To run them only for your own component: `ARCHBENCH_MIXERS=my_package.my_mixer pytest tests/arch/test_battery.py`. For
an FFN use ARCHBENCH_FFNS. Separate several names by commas.
"""

import os

import pytest
import torch
from tiny_specs import DIM, context, examples, label

from arch import registry
from arch.cost import tensors
from arch.layout import TokenLayout
from arch.parameters import initialise

TOKENS = 13


def named(kind, variable):
    names = os.environ.get(variable)
    if "ARCHBENCH_MIXERS" in os.environ or "ARCHBENCH_FFNS" in os.environ:
        return names.split(",") if names else []
    return registry.names(kind)


MIXERS = examples("mixer", named("mixer", "ARCHBENCH_MIXERS"))
FFNS = examples("ffn", named("ffn", "ARCHBENCH_FFNS"))
each_mixer = pytest.mark.parametrize("component", MIXERS, ids=label)
each_ffn = pytest.mark.parametrize("component", FFNS, ids=label)


def built(kind, component):
    """The component with its initial values plus noise, so that no parameter is 0 and without effect."""
    module = registry.build(kind, component, context())
    initialise(module, seed=0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in module.parameters():
            if not weight.recurrent:
                weight.add_(0.1 * torch.randn(weight.shape, generator=generator))
    return module


def inputs(rows=2, tokens=TOKENS, seed=0, dtype=torch.float32):
    return torch.randn(rows, tokens, DIM, generator=torch.Generator().manual_seed(seed)).to(dtype)


def stateful(mixer):
    if mixer.state_size is None:
        pytest.skip("sees ahead: keeps no state")
    return mixer


def reach(mixer):
    before, after = getattr(mixer, "reach", (None, 0 if mixer.causal else None))
    return TOKENS if before is None else before, TOKENS if after is None else after


def close(got, want):
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


@each_mixer
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_keeps_shape_and_dtype(component, dtype):
    mixer, x = built("mixer", component).to(dtype), inputs(dtype=dtype)
    y, _ = mixer(x, TokenLayout.whole(*x.shape[:2]))
    assert y.shape == x.shape and y.dtype == dtype and y.isfinite().all()
    if dtype == torch.bfloat16:
        exact, _ = mixer.float()(x.float(), TokenLayout.whole(*x.shape[:2]))
        assert (y.float() - exact).norm() < 0.05 * exact.norm()


@each_mixer
def test_sees_its_reach_and_nothing_else(component):
    """Checked by gradients: token t depends on exactly the tokens that `causal` and `reach` let it see."""
    mixer = built("mixer", component)
    x = inputs(rows=1).requires_grad_()
    y, _ = mixer(x, TokenLayout.whole(1, TOKENS))
    before, after = reach(mixer)
    assert mixer.causal == (after == 0)
    for t in range(TOKENS):
        (gradient,) = torch.autograd.grad((y[0, t] * torch.arange(1, DIM + 1)).sum(), x, retain_graph=True)
        depends = [bool(row.any()) for row in gradient[0]]
        assert depends == [t - before <= s <= t + after for s in range(TOKENS)], f"token {t}"


@each_mixer
@pytest.mark.parametrize("chunks", [[13], [1] * 13, [5, 1, 1, 6], [1, 12], [2, 9, 2]], ids=str)
def test_any_chunking_equals_the_whole(component, chunks):
    mixer, x = stateful(built("mixer", component)), inputs()
    whole, _ = mixer(x, TokenLayout.whole(2, TOKENS))
    state, parts, seen = mixer.init_state(2, TOKENS, x.dtype, x.device), [], 0
    for size in chunks:
        y, state = mixer(x[:, seen : seen + size], TokenLayout.whole(2, size, first=seen), state)
        parts.append(y)
        seen += size
    close(torch.cat(parts, dim=1), whole)


@each_mixer
def test_prompts_of_different_lengths_decode_together(component):
    """Left-padded rows, decoded together token by token, equal each row alone."""
    mixer, x = stateful(built("mixer", component)), inputs(rows=3)
    lengths = torch.tensor([9, 4, 1])
    prompt = int(lengths.max())
    layout = TokenLayout.left_padded(lengths, prompt)
    y, state = mixer(x[:, :prompt], layout, mixer.init_state(3, TOKENS, x.dtype, x.device))
    outputs = [y]
    for step in range(TOKENS - prompt):
        here = TokenLayout(torch.zeros(3, 1, dtype=torch.long), (lengths + step)[:, None])
        y, state = mixer(x[:, prompt + step : prompt + step + 1], here, state)
        outputs.append(y)
    together = torch.cat(outputs, dim=1)
    for row, length in enumerate(lengths.tolist()):
        own = x[row : row + 1, prompt - length :]
        alone, _ = mixer(own, TokenLayout.whole(1, own.shape[1]))
        close(together[row : row + 1, prompt - length :], alone)


DOCUMENTS = torch.tensor([[0] * 3 + [1] * 6 + [2] + [3] * 2 + [-1], [5] * 2 + [4] * 9 + [-1] * 2])


@each_mixer
def test_a_packed_document_is_untouched_by_its_neighbours(component):
    mixer, x, other = built("mixer", component), inputs(), inputs(seed=9)
    y, _ = mixer(x, TokenLayout.packed(DOCUMENTS))
    for document in (0, 1, 2, 3, 4, 5):
        mine = document == DOCUMENTS
        changed, _ = mixer(torch.where(mine[..., None], x, other), TokenLayout.packed(DOCUMENTS))
        assert torch.equal(changed[mine], y[mine]), f"document {document}"
        alone, _ = mixer(x[mine][None], TokenLayout.whole(1, int(mine.sum())))
        close(y[mine][None], alone)


@each_mixer
def test_left_padding_changes_nothing(component):
    mixer, x = built("mixer", component), inputs(rows=3)
    lengths = torch.tensor([TOKENS, 7, 1])
    y, _ = mixer(x, TokenLayout.left_padded(lengths, TOKENS))
    for row, length in enumerate(lengths.tolist()):
        alone, _ = mixer(x[row : row + 1, TOKENS - length :], TokenLayout.whole(1, length))
        close(y[row : row + 1, TOKENS - length :], alone)


@each_mixer
def test_a_fully_padded_row_stays_finite(component):
    mixer, x = built("mixer", component), inputs().requires_grad_()
    documents = torch.zeros(2, TOKENS, dtype=torch.long)
    documents[1] = -1
    y, _ = mixer(x, TokenLayout.packed(documents))
    y.sum().backward()
    assert y.isfinite().all() and x.grad.isfinite().all()
    assert all(weight.grad.isfinite().all() for weight in mixer.parameters())


@each_mixer
def test_a_single_token(component):
    mixer, x = built("mixer", component), inputs(tokens=1)
    y, _ = mixer(x, TokenLayout.whole(2, 1))
    assert y.shape == x.shape and y.isfinite().all()


@each_mixer
def test_every_mixer_parameter_is_used(component):
    mixer, x = built("mixer", component), inputs()
    y, _ = mixer(x, TokenLayout.whole(*x.shape[:2]))
    uses_every_parameter(mixer, y)


def uses_every_parameter(module, y):
    (y * inputs(seed=5)).sum().backward()
    for name, weight in module.named_parameters():
        assert weight.grad is not None and weight.grad.any(), f"{name} has no effect"
        assert weight.grad.isfinite().all(), name


@each_mixer
def test_state_size_is_as_declared(component):
    mixer = stateful(built("mixer", component))

    def size(capacity):
        return sum(tensor.nbytes for tensor in tensors(mixer.init_state(1, capacity, torch.float32, None)))

    small, large, larger = size(1), size(10_000), size(20_000)
    assert small > 0
    if mixer.state_size == "constant":
        assert small == large == larger
    elif mixer.state_size == "window":
        assert small < large == larger
    else:
        assert mixer.state_size == "growing" and larger == 2 * large
    x = inputs(rows=1)
    _, state = mixer(x, TokenLayout.whole(1, TOKENS), mixer.init_state(1, 10_000, torch.float32, None))
    assert sum(tensor.nbytes for tensor in tensors(state)) == large


@each_mixer
def test_init_state_shares_nothing_between_calls(component):
    """A state is in explicit tensors, not on the module, so two streams do not affect each other."""
    mixer, x = stateful(built("mixer", component)), inputs()
    layout = TokenLayout.whole(2, TOKENS)
    first, _ = mixer(x, layout, mixer.init_state(2, TOKENS, x.dtype, None))
    again, _ = mixer(x, layout, mixer.init_state(2, TOKENS, x.dtype, None))
    assert torch.equal(first, again)
    assert set(mixer.state_dict()) == {name for name, _ in mixer.named_parameters()}


@each_ffn
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_ffn_keeps_shape_and_dtype(component, dtype):
    x = inputs(dtype=dtype)
    y = built("ffn", component).to(dtype)(x)
    assert y.shape == x.shape and y.dtype == dtype and y.isfinite().all()


@each_ffn
def test_ffn_sees_its_own_token_only(component):
    x = inputs(rows=1).requires_grad_()
    y = built("ffn", component)(x)
    for t in range(TOKENS):
        (gradient,) = torch.autograd.grad(y[0, t].sum(), x, retain_graph=True)
        assert [bool(row.any()) for row in gradient[0]] == [s == t for s in range(TOKENS)]


@each_ffn
def test_every_ffn_parameter_is_used(component):
    module = built("ffn", component)
    uses_every_parameter(module, module(inputs()))


def test_the_battery_has_something_to_test():
    assert MIXERS or FFNS
