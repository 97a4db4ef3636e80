"""Losses on vectors of pairs: loops in float64 from the formulas, values of another implementation, and what they do not see."""

import json
import math
from pathlib import Path

import pytest
import torch
from closeness import near
from safetensors import safe_open

from arch.kernels import products
from arch.kernels.contrastive import matching, nce, nearest, same_texts, spread_out, unit

B, E, T = 7, 5, 0.1
FIXTURE = Path(__file__).parent.parent / "fixtures" / "st_losses.safetensors"
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5}
each_dtype = pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
NONE_SAME = torch.eye(B, dtype=torch.bool)


def drawn(*shape, dtype=torch.float64, seed=0):
    """Vectors of different lengths."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (x * torch.linspace(0.5, 3, shape[0])[:, None]).to(dtype).requires_grad_()


def three(dtype=torch.float64):
    return drawn(B, E, dtype=dtype), drawn(B, E, dtype=dtype, seed=1), drawn(B, E, dtype=dtype, seed=2)


def cosine(x_E, y_E):
    return float((x_E @ y_E).detach() / (x_E.norm() * y_E.norm()).detach())


def by_loops(q, p, n, same, temperature, hardness):
    """[nats of each row], sum by sum, in Python's floats."""
    q, p, n = (x if x is None else x.detach().double() for x in (q, p, n))
    found = []
    for i in range(len(q)):
        own = math.exp(cosine(q[i], p[i]) / temperature)
        total = own + sum(math.exp(cosine(q[i], p[j]) / temperature) for j in range(len(q)) if j != i and not same[i][j])
        if n is not None:
            s = cosine(q[i], n[i])
            total += math.exp(hardness * s) * math.exp(s / temperature)
        found.append(-math.log(own / total))
    return torch.tensor(found, dtype=torch.float64)


@pytest.fixture(scope="module")
def theirs():
    """(query, positive, negative, {loss: [value, norms of its gradients]}) of sentence-transformers, 6 rows of 24 numbers."""
    with safe_open(FIXTURE, "pt") as file:
        tensors = [file.get_tensor(name).requires_grad_() for name in ("query", "positive", "negative")]
        return *tensors, json.loads(file.metadata()["expected_loss_and_grad_norms"])


@each_dtype
@pytest.mark.parametrize("negatives", [True, False])
@pytest.mark.parametrize("hardness", [0.0, 5.0])
def test_nce_equals_loops(dtype, negatives, hardness):
    q, p, n = three(dtype)
    n = n if negatives else None
    same = same_texts(torch.tensor([1, 2, 3, 1, 5, 6, 7]), torch.tensor([1, 2, 3, 4, 5, 5, 7]))
    near(nce(q, p, n, same, T, hardness).detach().double(), by_loops(q, p, n, same, T, hardness), TOLERANCE[dtype], 1.0, "nce")


def test_gradients_are_those_of_differences():
    """Of all three functions, with duplicates and a map; the hardness weight has none, so it is held fixed beside its loss."""
    q, p, n = three()
    same = same_texts(torch.tensor([1, 2, 3, 1, 5, 6, 7]), torch.arange(B))
    assert torch.autograd.gradcheck(lambda *x: nce(*x, same, T), (q, p, n))
    assert torch.autograd.gradcheck(spread_out, (q,))
    teacher, wider = drawn(B, 8, seed=3).detach(), drawn(E, 8, seed=4).detach()
    assert torch.autograd.gradcheck(lambda x: matching(x, teacher, "l2", wider), (q,))


def test_the_weight_of_a_hard_negative_has_no_gradient():
    """The same as a plain weight of that size: e^(5 s) for s as it is."""
    q, p, n = three()
    weight = 5.0 * torch.nn.functional.cosine_similarity(q, n).detach()
    logits = torch.cat([unit(q) @ unit(p).T, (unit(q) * unit(n)).sum(1, keepdim=True)], 1) / T
    plain = torch.nn.functional.cross_entropy(
        logits + torch.cat([torch.zeros(B, B), weight[:, None]], 1), torch.arange(B), reduction="none"
    )
    ours = nce(q, p, n, NONE_SAME, T, 5.0)
    near(ours.detach(), plain.detach(), 1e-12, 1.0, "nce")
    for one, other in zip(*(torch.autograd.grad(loss.sum(), (q, p, n)) for loss in (ours, plain)), strict=True):
        near(one, other, 1e-10, 1.0, "gradient")


def test_values_and_gradients_of_sentence_transformers_where_the_formulas_agree(theirs):
    """Without hard negatives at temperature 0.05; the second moment without its offset of 1/d per side (its ReLU is open)."""
    q, p, _, expected = theirs
    alone = torch.eye(6, dtype=torch.bool)
    second = (spread_out(q) + spread_out(p)).mean()
    for ours, name, offset in ((nce(q, p, None, alone, 0.05).mean(), "mnrl_scale20", 0), (second, "gor_sm_only_sum", 2 / 24)):
        value, norms = expected[name]
        assert float(ours.detach()) - offset == pytest.approx(value, rel=2e-4)
        for gradient, norm in zip(torch.autograd.grad(ours, (q, p)), norms, strict=True):
            assert float(gradient.norm()) == pytest.approx(norm, rel=2e-4)
    assert float(second.detach()) == pytest.approx(0.183805, abs=1e-6)


def test_hard_negatives_of_other_rows_are_in_no_denominator(theirs):
    """sentence-transformers has all of them there, so its value is another; from our parts it comes out."""
    q, p, n, expected = theirs
    alone = torch.eye(6, dtype=torch.bool)
    assert float(nce(q, p, n, alone, 0.05, 5.0).mean().detach()) == pytest.approx(8.65618e-4, rel=1e-5)
    cosine_BB = unit(q) @ unit(n).T
    logits = torch.cat([unit(q) @ unit(p).T / 0.05, cosine_BB / 0.05 + 5 * cosine_BB * alone], 1)
    all_of_them = torch.nn.functional.cross_entropy(logits, torch.arange(6))
    assert float(all_of_them.detach()) == pytest.approx(expected["mnrl_scale20_hn_hard5"][0], rel=2e-4)
    moved = n.detach().clone()
    moved[1:] = moved[:-1].clone()
    one, other = (nce(q, p, each, alone, 0.05, 5.0).detach() for each in (n, moved))
    assert one[0] == other[0] and one[1] != other[1]


def test_rows_of_the_same_text_are_no_negatives_but_a_row_is_its_own_positive():
    """Rows of one text each, all the same: nothing to tell apart, and no number that is not finite."""
    q, p, n = three()
    everything = torch.ones(B, B, dtype=torch.bool)
    assert torch.equal(nce(q, p, None, everything, T), torch.zeros(B, dtype=torch.float64))
    assert nearest(q, p, everything).all()
    assert (nce(q, p, n, everything, T) > 0).all()
    # A second row with the same positive takes nothing from the first, a second row with another one does.
    twice = torch.cat([q, q[:1]]), torch.cat([p, p[:1]])
    texts = torch.arange(B + 1)
    double = torch.cat([texts[:-1], texts[:1]])
    alone = nce(q, p, None, NONE_SAME, T)
    near(nce(*twice, None, same_texts(texts, double), T)[0], alone[0], 1e-12, 1.0, "same positive")
    near(nce(*twice, None, same_texts(double, texts), T)[0], alone[0], 1e-12, 1.0, "same query")
    assert nce(*twice, None, same_texts(texts, texts), T)[0] > alone[0] + 0.05


@each_dtype
def test_spread_out_and_matching_equal_loops(dtype):
    q, p, _ = three(dtype)
    x, t = q.detach().double(), p.detach().double()
    second = [sum(cosine(x[i], x[j]) ** 2 for j in range(B) if j != i) / (B - 1) for i in range(B)]
    near(spread_out(q).detach().double(), torch.tensor(second, dtype=torch.float64), TOLERANCE[dtype], 1.0, "spread-out")
    apart = torch.tensor([2 - 2 * cosine(x[i], t[i]) for i in range(B)], dtype=torch.float64)
    near(matching(q, p).detach().double(), apart, TOLERANCE[dtype], 1.0, "squared l2")
    near(matching(q, p, "cosine").detach().double(), apart / 2, TOLERANCE[dtype], 1.0, "cosine")


def test_vectors_spread_evenly_have_a_second_moment_of_one_over_their_width():
    axes = torch.cat([torch.eye(E), -torch.eye(E)]).double()  # of 2 E - 1 others, one is opposite and the rest orthogonal
    near(spread_out(axes), torch.full((2 * E,), 1 / (2 * E - 1), dtype=torch.float64), 1e-12, 1.0, "axes")
    many = torch.randn(2000, E, generator=torch.Generator().manual_seed(0))
    assert float(spread_out(many).mean()) == pytest.approx(1 / E, rel=0.02)
    assert torch.equal(spread_out(drawn(1, E)), torch.zeros(1, dtype=torch.float64)), "alone, it is near nobody"


def test_lengths_do_not_matter_and_a_vector_of_zeros_is_finite():
    q, p, n = three()
    for loss in (
        lambda scale: nce(scale * q, p * scale, n / scale, NONE_SAME, T, 5.0),
        lambda scale: spread_out(scale * q),
        lambda scale: matching(scale * q, p / scale),
    ):
        near(loss(3.0).detach(), loss(1.0).detach(), 1e-12, 1.0, "scaled")
    zero = torch.zeros(B, E, requires_grad=True)
    total = nce(zero, zero, zero, NONE_SAME, T, 5.0).sum() + spread_out(zero).sum() + matching(zero, p.float()).sum()
    assert torch.isfinite(total) and torch.isfinite(torch.autograd.grad(total, zero)[0]).all()


def test_nothing_of_the_teacher_has_a_gradient():
    q, p, _ = three()
    assert torch.autograd.grad(matching(q, p).sum(), (q, p), allow_unused=True)[1] is None


def test_the_nearest_is_strictly_nearer():
    q, p, _ = three()
    aligned = nearest(q, q, NONE_SAME)
    assert aligned.all() and aligned.dtype == torch.bool
    rolled = q.roll(1, 0)
    assert not nearest(q, rolled, NONE_SAME).any(), "another row's positive is the query itself"
    assert not nearest(q, q[:1].expand(B, E), NONE_SAME).any(), "all positives are one vector"
    by_hand = [all(cosine(q[i], p[j]) < cosine(q[i], p[i]) for j in range(B) if j != i) for i in range(B)]
    assert nearest(q, p, NONE_SAME).tolist() == by_hand


@pytest.mark.parametrize("scope", [products.rounded, products.casting, lambda: torch.autocast("cpu", torch.bfloat16)])
def test_whatever_is_around_them_they_compute_in_float32(scope):
    """A cosine rounded to bfloat16 would be off by 1e-3, and a logit by 1e-2."""
    q, p, n = three(torch.float32)
    compute = lambda: (nce(q, p, n, NONE_SAME, T, 5.0), spread_out(q), matching(q, p, map_EF=torch.eye(E)))  # noqa: E731
    plain = compute()
    with scope():
        inside = compute()
    for one, other in zip(inside, plain, strict=True):
        assert one.dtype == torch.float32 and torch.equal(one, other)
    coarse = nce(*(x.detach().bfloat16() for x in (q, p, n)), NONE_SAME, T, 5.0)
    assert coarse.dtype == torch.float32 and torch.allclose(coarse, plain[0], atol=0.2)
