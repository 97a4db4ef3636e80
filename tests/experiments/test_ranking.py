"""Ranks and what is made of them: by hand, by properties, and against `ir_measures`."""

import math
from itertools import pairwise

import pytest
import torch

from experiments import ranking
from experiments.ranking import Ranked, in_turn, products, ranked


def ranked_of(scores_QN, pairs, gains=None):
    """The Ranked of a table of scores."""
    scores_QN = torch.tensor(scores_QN, dtype=torch.float32) if isinstance(scores_QN, list) else scores_QN
    gain_P = None if gains is None else torch.tensor(gains, dtype=torch.float64)
    return ranked(lambda part: scores_QN[part], torch.tensor(pairs), *scores_QN.shape, gain_P)


def drawn(seed, queries=7, documents=30, most=4):
    """(scores (Q, N) without ties, pairs): every query has 1 to `most` relevant documents."""
    generator = torch.Generator().manual_seed(seed)
    scores_QN = torch.rand(queries, documents, generator=generator)
    counts = torch.randint(1, most + 1, (queries,), generator=generator).tolist()
    pairs = [(q, int(d)) for q, n in enumerate(counts) for d in torch.randperm(documents, generator=generator)[:n]]
    return scores_QN, pairs


def test_metrics_by_hand():
    # Query 0: its documents 1 and 3 have the ranks 2 and 4. Query 1: document 0 has rank 3. Query 2: document 2 has rank 1.
    scores_QN = [[0.9, 0.8, 0.7, 0.6], [0.1, 0.5, 0.9, 0.0], [0.0, 0.1, 0.9, 0.2]]
    found = ranked_of(scores_QN, [(0, 1), (0, 3), (1, 0), (2, 2)])
    assert found.rank_P.tolist() == [2, 4, 3, 1]
    assert found.reciprocal().tolist() == pytest.approx([1 / 2, 1 / 3, 1])
    assert found.recall(1).tolist() == [0, 0, 1] and found.recall(3).tolist() == [0.5, 1, 1]
    ideal = 1 + 1 / math.log2(3)
    at_3 = [(1 / math.log2(3)) / ideal, 1 / math.log2(4), 1]
    at_4 = [(1 / math.log2(3) + 1 / math.log2(5)) / ideal, 1 / math.log2(4), 1]
    assert found.ndcg(3).tolist() == pytest.approx(at_3) and found.ndcg(4).tolist() == pytest.approx(at_4)
    assert found.ndcg(1).tolist() == [0, 0, 1], "the ideal sum has as many terms as there are places"


def test_gains_by_hand():
    # Ranks 1, 2, 3 of documents with the gains 1, 3 and 2.
    found = ranked_of([[0.9, 0.8, 0.7]], [(0, 0), (0, 1), (0, 2)], [1, 3, 2])
    dcg = 1 + 3 / math.log2(3) + 2 / 2
    ideal = 3 + 2 / math.log2(3) + 1 / 2
    assert float(found.ndcg(3)) == pytest.approx(dcg / ideal)
    assert float(found.ndcg(2)) == pytest.approx((1 + 3 / math.log2(3)) / (3 + 2 / math.log2(3)))


def test_equal_scores_are_in_the_order_of_the_documents():
    """A model that gives every text the same vector ranks documents as they are numbered."""
    found = ranked_of(torch.zeros(3, 5), [(0, 0), (1, 3), (2, 4)])
    assert found.rank_P.tolist() == [1, 4, 5]
    assert ranked_of([[1.0, 2.0, 2.0, 2.0, 1.0]], [(0, 0), (0, 2), (0, 3), (0, 4)]).rank_P.tolist() == [4, 2, 3, 5]


@pytest.mark.parametrize("seed", range(5))
def test_ranks_are_those_of_a_sort(seed):
    scores_QN, pairs = drawn(seed)
    order_QN = scores_QN.argsort(dim=1, descending=True, stable=True)
    assert ranked_of(scores_QN, pairs).rank_P.tolist() == [order_QN[q].tolist().index(d) + 1 for q, d in pairs]


@pytest.mark.parametrize("seed", range(5))
def test_permuting_documents_changes_nothing(seed):
    scores_QN, pairs = drawn(seed)
    order_N = torch.randperm(scores_QN.shape[1], generator=torch.Generator().manual_seed(seed))
    place_N = order_N.argsort()
    found, other = ranked_of(scores_QN, pairs), ranked_of(scores_QN[:, order_N], [(q, int(place_N[d])) for q, d in pairs])
    assert torch.equal(found.rank_P, other.rank_P) and torch.equal(found.ndcg(10), other.ndcg(10))


@pytest.mark.parametrize("held", [1, 45, 2**22])
def test_chunks_of_any_size_rank_alike(held, monkeypatch):
    scores_QN, pairs = drawn(1)
    pairs = [pairs[i] for i in torch.randperm(len(pairs), generator=torch.Generator().manual_seed(3)).tolist()]
    expected, seen = ranked_of(scores_QN, pairs), []
    monkeypatch.setattr(ranking, "HELD", held)

    def scores(part):
        seen.append(scores_QN[part].numel())
        return scores_QN[part]

    found = ranked(scores, torch.tensor(pairs), *scores_QN.shape)
    assert torch.equal(found.rank_P, expected.rank_P)
    assert max(seen) <= max(held, scores_QN.shape[1]) and sum(seen) == scores_QN.numel(), "no score is computed twice"


def test_scores_that_come_query_after_query(monkeypatch):
    scores_QN, pairs = drawn(2)
    monkeypatch.setattr(ranking, "HELD", 65)  # two queries at once, and one in the end
    found = ranked(in_turn(iter(scores_QN.numpy()), "cpu"), torch.tensor(pairs), *scores_QN.shape)
    assert torch.equal(found.rank_P, ranked_of(scores_QN, pairs).rank_P)


@pytest.mark.parametrize("seed", range(5))
def test_bounds_and_a_perfect_ranking(seed):
    scores_QN, pairs = drawn(seed)
    gains = torch.rand(len(pairs), generator=torch.Generator().manual_seed(seed)) + 0.1
    found = ranked_of(scores_QN, pairs, gains.tolist())
    for values_Q in (found.reciprocal(), *(each for k in (1, 5, 30) for each in (found.ndcg(k), found.recall(k)))):
        assert values_Q.shape == (7,) and bool(((values_Q >= 0) & (values_Q <= 1 + 1e-12)).all())
    perfect_QN = torch.zeros_like(scores_QN)
    for (query, document), gain in zip(pairs, gains.tolist(), strict=True):
        perfect_QN[query, document] = gain
    best = ranked_of(perfect_QN, pairs, gains.tolist())
    assert best.reciprocal().tolist() == [1] * 7 and best.ndcg(3).tolist() == pytest.approx([1] * 7)
    assert best.recall(4).tolist() == [1] * 7


def test_a_better_rank_is_never_worth_less():
    each = [Ranked(torch.tensor([0, 0]), torch.tensor([rank, 12]), 1) for rank in range(1, 12)]
    for values in zip(*[(float(one.reciprocal()), float(one.ndcg(10)), float(one.recall(5))) for one in each], strict=True):
        assert all(a >= b for a, b in pairwise(values)) and values[0] > values[-1]


def test_what_has_no_rank_is_refused():
    with pytest.raises(ValueError, match="scores are not finite"):
        ranked_of([[0.5, math.nan]], [(0, 0)])
    with pytest.raises(ValueError, match="a query has no relevant document"):
        ranked_of([[0.5, 0.2], [0.1, 0.2]], [(0, 0)])
    with pytest.raises(ValueError, match="a gain is above 0"):
        ranked_of([[0.5, 0.2]], [(0, 0), (0, 1)], [1, 0])


def test_products_are_in_float32_whatever_autocast_says():
    query_QE, document_NE = torch.randn(3, 8), torch.randn(5, 8)
    with torch.autocast("cpu", torch.bfloat16):
        scores_QN = products(query_QE, document_NE)(slice(0, 3))
    assert scores_QN.dtype == torch.float32 and torch.equal(scores_QN, query_QE @ document_NE.T)
    assert products(query_QE.bfloat16(), document_NE.bfloat16())(slice(1, 2)).dtype == torch.float32


@pytest.mark.parametrize("seed", range(3))
def test_ir_measures_says_the_same(seed):
    """Ranks are handed over, not scores: with unique scores all libraries agree, with ties they have different answers."""
    ir_measures = pytest.importorskip("ir_measures")
    scores_QN, pairs = drawn(seed, queries=20, documents=60)
    scores_QN = (scores_QN * 10).round()  # many ties
    gains = [1 + (q + d) % 3 for q, d in pairs]
    everything = ranked_of(scores_QN, [(q, d) for q in range(20) for d in range(60)]).rank_P.view(20, 60)
    run = [ir_measures.ScoredDoc(f"q{q}", f"d{d}", -float(everything[q, d])) for q in range(20) for d in range(60)]
    for binary in (True, False):
        qrels = [ir_measures.Qrel(f"q{q}", f"d{d}", 1 if binary else gain) for (q, d), gain in zip(pairs, gains, strict=True)]
        found = ranked_of(scores_QN, pairs, None if binary else gains)
        ours = {"nDCG@10": found.ndcg(10), "nDCG@3": found.ndcg(3), "RR": found.reciprocal()}
        ours |= {f"R@{k}": found.recall(k) for k in (1, 10)}
        measures = {ir_measures.parse_measure(name): each for name, each in ours.items()}
        for metric in ir_measures.iter_calc(list(measures), qrels, run):
            assert metric.value == pytest.approx(float(measures[metric.measure][int(metric.query_id[1:])]), abs=1e-6)
