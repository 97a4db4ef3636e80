"""Chunked losses against their references: values, gradients, memory, and the inputs that they refuse."""

import subprocess
import sys

import pytest
import torch
from closeness import near

from arch.kernels import cross_entropy
from arch.kernels.cross_entropy import linear_cross_entropy, reference

V, D, CHUNK = 37, 8, 4
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5, torch.bfloat16: 2e-2}
each_dtype = pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
each_softcap = pytest.mark.parametrize("softcap", [None, 3.0])
each_length = pytest.mark.parametrize("positions", [1, CHUNK, 2 * CHUNK + 3])


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    """Chunks of at most four positions, so that most cases need several and the last one is short."""
    monkeypatch.setattr(cross_entropy, "BUFFER_BYTES", CHUNK * 4 * V)


def drawn(*shape, dtype=torch.float32, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def student(positions, dtype):
    return drawn(positions, D, dtype=dtype).requires_grad_(), (2 * drawn(V, D, dtype=dtype, seed=1)).requires_grad_()


def same(loss, want, inputs, dtype, factor=0.37):
    """Assert equal values, and equal gradients of `factor` times the values."""
    assert loss.dtype == torch.promote_types(dtype, torch.float32)
    pairs = [(loss, want), *zip(*(torch.autograd.grad(factor * each, inputs) for each in (loss, want)), strict=True)]
    for k, (got, expected) in enumerate(pairs):
        near(got, expected, TOLERANCE[dtype], factor / V, f"gradient {k - 1}" if k else "value")


def targets_of(positions):
    targets = torch.arange(positions) * 7 % V
    targets[1::3] = -1
    return targets


@each_dtype
@each_softcap
@each_length
def test_cross_entropy_equals_the_reference(positions, softcap, dtype):
    inputs, targets = student(positions, dtype), targets_of(positions)
    same(linear_cross_entropy(*inputs, targets, softcap), reference(*inputs, targets, softcap), inputs, dtype)


@each_dtype
@each_softcap
@each_length
def test_the_losses_of_positions_equal_the_reference_one_by_one(positions, softcap, dtype):
    hidden_ND, weight_VD = student(positions, dtype)
    targets_N = targets_of(positions)
    each_N = cross_entropy.cross_entropies(hidden_ND, weight_VD, targets_N, softcap)
    assert each_N.shape == targets_N.shape and each_N.dtype == torch.promote_types(dtype, torch.float32)
    assert not each_N.requires_grad and (each_N[targets_N < 0] == 0).all()
    for n in range(positions):
        place = slice(n, n + 1)
        near(each_N[n], reference(hidden_ND[place], weight_VD, targets_N[place], softcap), TOLERANCE[dtype], 1 / V, f"position {n}")


@each_dtype
@each_softcap
@each_length
def test_a_target_is_right_where_no_other_logit_is_as_large(positions, softcap, dtype):
    (hidden_ND, weight_VD), targets_N = student(positions, dtype), targets_of(positions)
    logits_NV = cross_entropy.all_logits(hidden_ND, weight_VD, softcap)
    targets_N[::2] = logits_NV.argmax(1)[::2]
    targets_N[1::3] = -1
    nats_N, right_N = cross_entropy.predictions(hidden_ND, weight_VD, targets_N, softcap)
    assert (right_N[targets_N < 0] == 0).all() and not right_N.requires_grad
    top = logits_NV.topk(2, 1)
    certain_N = (top.values[:, 0] > top.values[:, 1] + 1e-2) & (targets_N >= 0)
    assert (right_N == (top.indices[:, 0] == targets_N))[certain_N].all()
    total, right = cross_entropy.cross_entropy_and_right(hidden_ND, weight_VD, targets_N, softcap)
    assert right == right_N.sum() and torch.equal(total, linear_cross_entropy(hidden_ND, weight_VD, targets_N, softcap))
    assert torch.equal(nats_N, cross_entropy.cross_entropies(hidden_ND, weight_VD, targets_N, softcap))


def test_a_tie_is_not_right_and_no_target_is_none_right():
    hidden_ND, weight_VD = torch.ones(6, D), torch.zeros(V, D)
    nats_N, right_N = cross_entropy.predictions(hidden_ND, weight_VD, torch.arange(6))
    assert not right_N.any(), "a model with constant logits predicts nothing"
    assert torch.allclose(nats_N, torch.tensor(float(V)).log().expand(6))
    total, right = cross_entropy.cross_entropy_and_right(hidden_ND, weight_VD, torch.full((6,), -1))
    assert total == 0 and right == 0


@each_softcap
def test_gradients_are_those_of_finite_differences(softcap):
    inputs = student(2 * CHUNK + 1, torch.float64)
    targets = targets_of(len(inputs[0]))
    loss = lambda: linear_cross_entropy(*inputs, targets, softcap)  # noqa: E731
    for tensor, gradient in zip(inputs, torch.autograd.grad(loss(), inputs), strict=True):
        assert torch.allclose(gradient, differences(loss, tensor), rtol=1e-6, atol=1e-7)


@torch.no_grad()
def differences(loss, tensor, step=1e-5):
    """The gradient by central differences, because gradcheck would need a second backward pass."""
    slopes = []
    for i in range(tensor.numel()):
        ends = []
        for move in (step, -2 * step):
            tensor.view(-1)[i] += move
            ends.append(loss())
        tensor.view(-1)[i] += step
        slopes.append((ends[0] - ends[1]) / (2 * step))
    return torch.stack(slopes).view_as(tensor)


def test_logits_far_apart_stay_exact():
    """Where p underflows, the loss still equals the difference of the logits."""
    hidden, weight = torch.tensor([[1.0], [1.0]], requires_grad=True), torch.tensor([[500.0], [0.0], [-500.0]])
    weight.requires_grad_()
    same(
        linear_cross_entropy(hidden, weight, torch.tensor([2, 0])),
        reference(hidden, weight, torch.tensor([2, 0])),
        (hidden, weight),
        torch.float32,
    )
    assert linear_cross_entropy(hidden, weight, torch.tensor([2, 0])) == 1000.0


def test_without_any_target_loss_and_gradients_are_zero():
    inputs = student(5, torch.float32)
    loss = linear_cross_entropy(*inputs, torch.full((5,), -1))
    assert loss == 0.0
    assert all((gradient == 0).all() for gradient in torch.autograd.grad(loss, inputs))


def test_only_what_needs_a_gradient_gets_one():
    hidden, weight = student(9, torch.float32)
    targets = targets_of(9)
    both = torch.autograd.grad(linear_cross_entropy(hidden, weight, targets), (hidden, weight))
    for i, inputs in enumerate([(hidden, weight.detach()), (hidden.detach(), weight)]):
        assert torch.equal(torch.autograd.grad(linear_cross_entropy(*inputs, targets), inputs[i])[0], both[i])
    with torch.no_grad():
        assert not linear_cross_entropy(hidden, weight, targets).requires_grad


def test_a_weight_used_twice_gets_both_gradients():
    """The weight is a tied embedding: it is both the input and the head."""
    weight, tokens = student(1, torch.float32)[1], torch.arange(6)
    got, want = (
        torch.autograd.grad(loss(weight[tokens].sin(), weight, tokens + 1), weight)[0] for loss in (linear_cross_entropy, reference)
    )
    assert torch.allclose(got, want, atol=1e-5)


@each_softcap
def test_autocast_computes_in_its_type_and_keeps_the_weights_gradient_in_float32(softcap):
    inputs, targets = student(2 * CHUNK + 3, torch.float32), targets_of(2 * CHUNK + 3)
    rounded = [tensor.detach().bfloat16().requires_grad_() for tensor in inputs]
    want = torch.autograd.grad(linear_cross_entropy(*rounded, targets, softcap), rounded)
    with torch.autocast("cpu", torch.bfloat16):
        loss = linear_cross_entropy(*inputs, targets, softcap)
    for got, expected in zip(torch.autograd.grad(loss, inputs), want, strict=True):
        assert got.dtype == torch.float32
        assert (got - expected.float()).norm() <= 1e-2 * expected.float().norm()


def test_gradients_are_given_once():
    hidden, weight = student(5, torch.float32)
    for inputs in ((hidden, weight), (hidden, weight.detach()), (hidden.detach(), weight)):
        loss = linear_cross_entropy(*inputs, targets_of(5))
        loss.backward(retain_graph=True)
        with pytest.raises(RuntimeError, match="once"):
            loss.backward()


MEMORY = """
import resource
import torch
from arch.kernels import cross_entropy
from arch.kernels.distillation import full
cross_entropy.BUFFER_BYTES = 4 << 20
N, V, D = 2048, 16384, 16
hidden, weight = torch.zeros(N, D, requires_grad=True), torch.zeros(V, D, requires_grad=True)
targets = torch.zeros(N, dtype=torch.long)
cross_entropy.linear_cross_entropy(hidden[:4], weight, targets[:4], 30.0).backward()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
cross_entropy.linear_cross_entropy(hidden, weight, targets, 30.0).backward()
full(hidden, weight, targets, hidden, weight, 30.0).loss.backward()
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


@pytest.mark.slow
def test_memory_is_that_of_the_buffers():
    """All logits would take 128 MiB; the buffers take 4 MiB, gradients of weights and hidden states another 3 MiB."""
    run = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True)
    assert float(run.stdout) < 24
