"""Losses against a teacher, by chunks: values and gradients against their references, closed forms, memory."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from closeness import near
from kernel_paths import compiled_or_skip
from safetensors import safe_open

from arch.kernels import cross_entropy, native
from arch.kernels.distillation import full, reference_full, reference_sparse, sparse

V, D, E, K, CHUNK = 37, 8, 5, 6, 4
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5, torch.bfloat16: 2e-2}
FIXTURE = Path(__file__).parent.parent / "fixtures" / "gkd_jsd.safetensors"
each_dtype = pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
each_length = pytest.mark.parametrize("positions", [1, CHUNK, 2 * CHUNK + 3])
each_option = pytest.mark.parametrize(
    "softcap, teacher_softcap, temperature, mix",
    [(None, None, 1.0, 0.0), (3.0, None, 2.0, 0.0), (None, 2.0, 0.5, 0.3), (4.0, 2.0, 1.0, 0.25), (None, None, 1.0, 1.0)],
)
each_path = pytest.mark.parametrize("compiled", [True, False], ids=["compiled", "torch"])


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    """Chunks of a few positions, so that most cases need several and the last one is short."""
    monkeypatch.setattr(cross_entropy, "BUFFER_BYTES", 2 * CHUNK * 4 * V)


@pytest.fixture
def path(compiled):
    """The compiled kernel, or torch's path."""
    if compiled:
        compiled_or_skip("distillation")
        yield
    else:
        with native.disabled():
            yield


def drawn(*shape, dtype=torch.float32, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def student(positions, dtype=torch.float32):
    return drawn(positions, D, dtype=dtype).requires_grad_(), (2 * drawn(V, D, dtype=dtype, seed=1)).requires_grad_()


def teacher_of(positions, dtype=torch.float32):
    return drawn(positions, E, dtype=dtype, seed=4), drawn(V, E, dtype=dtype, seed=5).requires_grad_()


def targets_of(positions):
    return torch.arange(positions) * 7 % V


def entries_of(positions, dtype=torch.float32, tail=False, k=K):
    """(ids, p, tail or None) of a normalised distribution over k tokens of each position."""
    ids = torch.stack([torch.randperm(V, generator=torch.Generator().manual_seed(n))[:k] for n in range(positions)])
    p = drawn(positions, k + 1, seed=2).double().softmax(1).to(torch.promote_types(dtype, torch.float32))
    return (ids, p[:, :k], p[:, k]) if tail else (ids, p[:, :k] / p[:, :k].sum(1, keepdim=True), None)


def same(got, want, inputs, dtype, factor=0.37):
    """Assert equal Distances, and equal gradients of `factor` times the loss."""
    for name in got._fields:
        near(getattr(got, name).detach(), getattr(want, name).detach(), TOLERANCE[dtype], 1.0, name)
    gradients = zip(*(torch.autograd.grad(factor * each.loss, inputs) for each in (got, want)), strict=True)
    for k, (one, other) in enumerate(gradients):
        near(one, other, TOLERANCE[dtype], factor / V, f"gradient {k}")


@each_path
@each_dtype
@each_length
@each_option
def test_the_whole_distribution_equals_the_reference(positions, softcap, teacher_softcap, temperature, mix, dtype, path):
    inputs, teacher, targets = student(positions, dtype), teacher_of(positions, dtype), targets_of(positions)
    options = {"softcap": softcap, "teacher_softcap": teacher_softcap, "temperature": temperature, "mix": mix}
    want = reference_full(*inputs, targets, *teacher, **options)
    same(full(*inputs, targets, *teacher, **options), want, inputs, dtype)


@each_dtype
@each_length
@each_option
@pytest.mark.parametrize("tail", [False, True])
def test_kept_entries_equal_the_reference(positions, softcap, teacher_softcap, temperature, mix, tail, dtype):
    inputs, targets, entries = student(positions, dtype), targets_of(positions), entries_of(positions, dtype, tail)
    options = {"softcap": softcap, "temperature": temperature, "mix": mix}
    want = reference_sparse(*inputs, targets, *entries, **options)
    same(sparse(*inputs, targets, *entries, **options), want, inputs, dtype)


@pytest.mark.parametrize("tail", [False, True])
@pytest.mark.parametrize("temperature, mix", [(1.0, 0.0), (2.0, 0.3)])
def test_all_tokens_as_entries_equal_the_whole_distribution(temperature, mix, tail):
    inputs, teacher, targets = student(9), teacher_of(9), targets_of(9)
    p_NV, ids_NV = ((teacher[0] @ teacher[1].T / temperature).softmax(-1)).sort(-1, descending=True)
    kept = sparse(*inputs, targets, ids_NV, p_NV, torch.zeros(9) if tail else None, temperature=temperature, mix=mix)
    same(kept, full(*inputs, targets, *teacher, temperature=temperature, mix=mix), inputs, torch.float32)


def test_the_loss_is_the_divergence_and_the_teachers_entropy():
    inputs, teacher, targets = student(9), teacher_of(9), targets_of(9)
    found, p_NV = full(*inputs, targets, *teacher), (teacher[0] @ teacher[1].T).softmax(-1).detach()
    entropy = -(p_NV * p_NV.log()).sum()
    near(found.loss.detach(), found.kl_N.sum() + entropy, 1e-5, 1.0, "loss")
    assert (found.kl_N > 0).all()
    nats_N = cross_entropy.cross_entropies(*inputs, targets)
    near(found.nats_N, nats_N, 1e-5, 1.0, "nats of the hard target")


@each_path
@pytest.mark.parametrize("softcap, temperature", [(None, 1.0), (3.0, 2.0)])
def test_a_student_that_is_its_teacher_has_nothing_to_learn(softcap, temperature, path):
    hidden, weight = student(9)
    found = full(hidden, weight, targets_of(9), hidden, weight, softcap, softcap, temperature)
    assert (found.kl_N <= 1e-6).all() and (found.kl_N >= 0).all() and (found.agree_N == 1).all()
    assert all(gradient.abs().max() < 1e-5 for gradient in torch.autograd.grad(found.loss, (hidden, weight)))


@each_path
def test_chunks_of_any_size_give_the_same_loss_and_gradient(monkeypatch, path):
    inputs, teacher, targets, entries = student(13), teacher_of(13), targets_of(13), entries_of(13, tail=True)
    for losses in (lambda: full(*inputs, targets, *teacher, 3.0, 2.0), lambda: sparse(*inputs, targets, *entries, 3.0)):
        monkeypatch.setattr(cross_entropy, "BUFFER_BYTES", 1 << 20)
        whole = losses()
        for positions in range(1, 14):
            monkeypatch.setattr(cross_entropy, "BUFFER_BYTES", positions * 3 * 4 * V)
            same(losses(), whole, inputs, torch.float32)
            whole = losses()


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_the_divergence_is_that_of_a_public_implementation(temperature):
    """Forward KL (beta 0), the mean over the positions that count, computed there from logits."""
    with safe_open(FIXTURE, "pt") as file:
        expected = json.loads(file.metadata()["expected"])[f"beta=0,T={temperature}"]
        student_NV, teacher_NV, labels_N = (
            file.get_tensor(f"{name}").flatten(0, 1) for name in ("student_logits", "teacher_logits", "labels")
        )
    live, eye = labels_N >= 0, torch.eye(student_NV.shape[1])
    found = full(student_NV[live], eye, labels_N[live], teacher_NV[live], eye, temperature=temperature)
    assert float(found.kl_N.mean()) == pytest.approx(expected, rel=1e-5)


def test_truncated_teachers_are_off_by_what_is_known():
    """P = (.4, .3, .1, .1, .1), Q = (.45, .35, .1, .05, .05), the top 2: numbers that other projects' issues report."""
    p, q = torch.tensor([0.4, 0.3, 0.1, 0.1, 0.1]), torch.tensor([0.45, 0.35, 0.1, 0.05, 0.05])
    logits, ids, targets = q.log()[None], torch.tensor([[0, 1]]), torch.tensor([0])
    whole = full(logits, torch.eye(5), targets, p.log()[None], torch.eye(5))
    bucket = sparse(logits, torch.eye(5), targets, ids, p[None, :2], p[2:].sum()[None])
    renormalised = sparse(logits, torch.eye(5), targets, ids, p[None, :2] / p[:2].sum())
    for found, expected in ((whole, 0.045271), (bucket, 0.028281), (renormalised, 0.223306)):
        assert float(found.kl_N) == pytest.approx(expected, abs=1e-6)


def test_the_gradient_at_a_high_temperature_keeps_its_size():
    """Without T^2 it would fall by about 16 from T = 2 to T = 8 (Hinton et al. 2015)."""
    sizes = []
    for temperature in (2.0, 8.0):
        hidden, weight = student(32)
        loss = full(0.3 * hidden, weight, targets_of(32), *teacher_of(32), temperature=temperature).loss
        sizes.append(float(torch.autograd.grad(loss, hidden)[0].norm()))
    assert 0.5 < sizes[1] / sizes[0] < 2


def test_a_tail_below_what_a_float_can_show_beside_one_keeps_its_logarithm():
    logits = torch.tensor([[60.0, 0.0, 0.0]], requires_grad=True)
    found = sparse(logits, torch.eye(3), torch.tensor([0]), torch.tensor([[0]]), torch.tensor([[0.5]]), torch.tensor([0.5]))
    assert float(found.loss.detach()) == pytest.approx(0.5 * (60 - math.log(2)), rel=1e-6)
    assert torch.allclose(torch.autograd.grad(found.loss, logits)[0], torch.tensor([[0.5, -0.25, -0.25]]))


def test_no_position_costs_nothing():
    hidden, weight = student(3)
    found = full(hidden[:0], weight, targets_of(0), *(each[:0] if i == 0 else each for i, each in enumerate(teacher_of(3))))
    assert float(found.loss.detach()) == 0 and found.kl_N.shape == found.agree_N.shape == found.nats_N.shape == (0,)
    assert (torch.autograd.grad(found.loss, weight)[0] == 0).all()


def test_under_autocast_the_teachers_product_keeps_its_type_and_sums_are_in_float32():
    inputs, teacher = student(9), teacher_of(9)
    with torch.autocast("cpu", torch.bfloat16):
        found = full(*inputs, targets_of(9), *teacher)
    assert all(each.dtype == torch.float32 for each in found)
    exact = full(*(each.detach().bfloat16().float() for each in inputs), targets_of(9), *teacher)
    near(found.kl_N, exact.kl_N, 2e-2, 1.0, "KL")


def test_what_does_not_fit_together_is_refused():
    hidden, weight = student(4)
    with pytest.raises(ValueError, match="vocabulary"):
        full(hidden, weight, targets_of(4), hidden, weight[:-1])
    with pytest.raises(ValueError, match="do not fit"):
        sparse(hidden, weight, targets_of(4), torch.zeros(4, 2, dtype=torch.long), torch.ones(4, 1))
    with pytest.raises(ValueError, match="temperature"):
        full(hidden, weight, targets_of(4), hidden, weight, temperature=0.0)


MEMORY = """
import torch
from experiments.device import setup
from experiments.memory import forget_peak, held_bytes, peak_bytes
from arch.kernels.distillation import full
setup(1)
N, V, D = 4096, 262144, 4
cpu = torch.device("cpu")
hidden, weight = torch.zeros(N, D, requires_grad=True), torch.zeros(V, D, requires_grad=True)
targets = torch.zeros(N, dtype=torch.long)
full(hidden[:4], weight[:64], targets[:4], hidden[:4], weight[:64], 30.0, 20.0).loss.backward()
forget_peak(cpu)
before = held_bytes(cpu)
with torch.no_grad():
    full(hidden[:SCORED], weight, targets[:SCORED], hidden[:SCORED], weight, 30.0, 20.0)
print(peak_bytes(cpu) - before)
"""


@pytest.mark.parametrize("scored", [600, pytest.param(4096, marks=pytest.mark.slow)])
def test_memory_at_a_large_vocabulary_is_that_of_the_buffers(scored):
    """All logits of 4,096 positions would take 8.6 GB. 600 positions need several chunks, so that no more follows."""
    run = subprocess.run([sys.executable, "-c", MEMORY.replace("SCORED", str(scored))], capture_output=True, text=True, check=True)
    assert float(run.stdout) < 1e9
