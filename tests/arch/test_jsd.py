"""The generalised Jensen-Shannon divergence: recorded values, its ends, its gradient in chunks; weighted cross-entropy."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from arch.kernels import cross_entropy, jsd

FIXTURE = Path(__file__).parent.parent / "fixtures" / "gkd_jsd.safetensors"


@pytest.fixture(scope="module")
def recorded():
    with safe_open(FIXTURE, "pt") as file:
        found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return found, json.loads(file.metadata()["expected"])


def made(seed=0, n=9, d=6, e=5, v=17):
    draw = torch.Generator().manual_seed(seed)
    shapes = ((n, d), (v, d), (n, e), (v, e))
    return [2 * torch.randn(shape, generator=draw, dtype=torch.float64) for shape in shapes]


@pytest.mark.parametrize(
    "case", ["beta=0,T=1.0", "beta=0.1,T=2.0", "beta=0.5,T=1.0", "beta=0.9,T=1.0", "beta=1,T=1.0", "beta=1,T=2.0"]
)
def test_values_are_those_recorded_of_trl(case, recorded):
    tensors, expected = recorded
    beta, temperature = (float(part.split("=")[1]) for part in case.split(","))
    live = tensors["labels"] != -100
    student, teacher = (tensors[f"{side}_logits"][live] for side in ("student", "teacher"))
    assert float(jsd.reference(student, teacher, beta, temperature).mean()) == pytest.approx(expected[case], rel=1e-5)
    eye = torch.eye(student.shape[1])
    fast = jsd.generalised_jsd(student, eye, teacher, eye, beta, temperature=temperature)
    assert float(fast.loss) / len(student) == pytest.approx(expected[case], rel=1e-5)


def test_the_ends_are_the_limits_of_what_lies_beside_them():
    draw = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(9, 17, generator=draw, dtype=torch.float64) for _ in range(2))
    at = lambda beta: jsd.reference(student, teacher, beta).sum()  # noqa: E731
    torch.testing.assert_close(at(1e-7) / 1e-7, at(0.0), rtol=1e-4, atol=0)
    torch.testing.assert_close(at(1 - 1e-7) / 1e-7, at(1.0), rtol=1e-4, atol=0)


@pytest.mark.parametrize("beta", [0.0, 0.25, 1.0])
@pytest.mark.parametrize("options", [{}, {"temperature": 2.0, "softcap": 5.0, "teacher_softcap": 3.0}])
def test_chunks_give_the_values_and_gradients_of_the_reference(beta, options, monkeypatch):
    monkeypatch.setattr(cross_entropy, "BUFFER_BYTES", 17 * 8 * 3 * 4)
    monkeypatch.setattr(jsd, "SCRATCH_BYTES", 17 * 8 * 2)
    found = []
    for compute in (jsd.reference_of_hidden, jsd.generalised_jsd):
        hidden, weight, teacher_hidden, teacher_weight = (tensor.clone().requires_grad_() for tensor in made())
        divergence = compute(hidden, weight, teacher_hidden, teacher_weight, beta, **options)
        (3 * divergence.loss).backward()
        assert teacher_hidden.grad is None and teacher_weight.grad is None
        found.append((divergence.loss.detach(), divergence.each_N, hidden.grad, weight.grad))
    for reference, fast in zip(*found, strict=True):
        torch.testing.assert_close(fast, reference, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
def test_a_student_that_is_its_teacher_is_at_no_distance_and_none_is_below_zero(beta):
    hidden, weight, other, other_weight = made(1)
    same = jsd.generalised_jsd(hidden, weight, hidden, weight, beta)
    assert float(same.loss) == pytest.approx(0, abs=1e-12)
    assert (jsd.generalised_jsd(hidden, weight, other, other_weight, beta).each_N >= 0).all()
    turned = jsd.generalised_jsd(other, other_weight, hidden, weight, 1 - beta).loss
    torch.testing.assert_close(jsd.generalised_jsd(hidden, weight, other, other_weight, beta).loss, turned)


def test_what_does_not_fit_is_refused():
    hidden, weight, other, other_weight = made()
    with pytest.raises(ValueError, match="differ"):
        jsd.generalised_jsd(hidden[1:], weight, other, other_weight, 0.5)
    with pytest.raises(ValueError, match="expected 0 <= beta"):
        jsd.generalised_jsd(hidden, weight, other, other_weight, 1.5)
    assert float(jsd.generalised_jsd(hidden[:0], weight, other[:0], other_weight, 0.5).loss) == 0


@pytest.mark.parametrize("softcap", [None, 4.0])
def test_weighted_cross_entropy_in_chunks_is_its_reference(softcap, monkeypatch):
    monkeypatch.setattr(cross_entropy, "BUFFER_BYTES", 17 * 8 * 2 * 4)
    draw = torch.Generator().manual_seed(3)
    targets, factor = torch.randint(17, (9,), generator=draw), torch.randn(9, generator=draw, dtype=torch.float64)
    found = []
    for compute in (cross_entropy.reference_weighted, cross_entropy.weighted_cross_entropy):
        hidden, weight = (tensor.clone().requires_grad_() for tensor in made()[:2])
        loss = compute(hidden, weight, targets, factor, softcap)
        loss.backward()
        found.append((loss.detach(), hidden.grad, weight.grad))
    for reference, fast in zip(*found, strict=True):
        torch.testing.assert_close(fast, reference, rtol=1e-9, atol=1e-10)
