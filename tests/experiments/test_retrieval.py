"""The evaluators of encoders: retrieval, with shorter and quantised vectors and BM25 beside; the probe; what is refused."""

import json
import sys

import numpy as np
import pytest
import torch

from arch import registry
from arch.contracts import Given
from arch.errors import SpecError
from arch.express import resolved
from arch.layout import TokenLayout
from arch.model import new_model
from experiments import collection
from experiments.collection import digest
from experiments.data import bm25
from experiments.data.batch import Rows
from experiments.data.pair import Pair
from experiments.evaluate import NotFinite
from experiments.evaluators import probe, similarity
from experiments.record import EVALUATIONS, EvaluationRecord, points_files
from experiments.text_vectors import vectors

VOCABULARY, DIM = 64, 16
COLOURS = ["red", "green", "blue", "grey", "black", "white"]
THINGS = ["cat", "house", "bird", "hill", "mat", "river", "tree", "lamp"]


def pairs_of(split):
    """48 pairs in groups of 8, with labels; the splits have different ones."""
    return [
        Pair(f"{split}: which {thing} is {colour}?", f"The {colour} {thing} of {split}.", group=colour, label=thing[:1])
        for colour in COLOURS
        for thing in THINGS
    ]


class Texts:
    """A dataset of pairs whose tokens are the letters of a text. asked: the batches of texts that were encoded."""

    vocabulary = VOCABULARY

    def __init__(self, pairs=pairs_of):
        self.pairs, self.asked = pairs, []

    def encoded(self, texts, kind, context, part):
        self.asked.append([kind, part, *texts])
        prompt = {"query": "q: ", "document": "d: "}[kind]
        ids = [[ord(letter) % VOCABULARY for letter in (prompt + text)[:context]] for text in texts]
        length_B = torch.tensor([len(each) for each in ids])
        tokens_BT = torch.zeros(len(ids), int(length_B.max()), dtype=torch.int64)
        for row, each in enumerate(ids):
            tokens_BT[row, : len(each)] = torch.tensor(each)
        return Rows(tokens_BT, TokenLayout.right_padded(length_B, tokens_BT.shape[1]))

    def within(self, texts, kind, context, part):
        return [text[: context - 3] for text in texts]


@pytest.fixture(scope="module")
def model():
    block = {"mixer": {"type": "attention", "heads": 2, "causal": False}, "ffn": {"type": "gated", "hidden": 24}}
    spec = {"dim": DIM, "vocab_size": VOCABULARY, "layers": 2, "pattern": ["all"], "blocks": {"all": block}}
    return new_model(resolved({**spec, "pool": {"type": "mean"}}), 0).eval()


def given(split="report", rows=4, context=48, folder=None):
    return Given(None, None, split, context, rows, torch.device("cpu"), 0, folder)


@torch.no_grad()
def found(model, dataset, about=None, name="retrieval", **options):
    """The Findings of an evaluator, after it has checked the dataset and the model."""
    about = about or given()
    evaluator = registry.build("evaluator", {"type": name, **options})
    evaluator.check(dataset, about.split)
    if hasattr(evaluator, "check_model"):
        evaluator.check_model(model.spec)
    findings = evaluator(model, dataset, about)
    assert findings.values.keys() == evaluator.metrics.keys(), "everything that is declared, and nothing else"
    json.dumps(findings.table, allow_nan=False)
    return findings


def slow_ranks(model, dataset, pairs):
    """{query: rank of each of its documents}, one text at a time, with a sort in double precision."""
    documents = list(dict.fromkeys(pair.positive for pair in pairs))
    one = lambda text, kind: encoded(model, dataset, text, kind)  # noqa: E731
    document_NE = torch.stack([one(text, "document") for text in documents])
    ranks = {}
    for query in dict.fromkeys(pair.query for pair in pairs):
        answers = {documents.index(pair.positive) for pair in pairs if pair.query == query}
        order = (document_NE @ one(query, "query")).argsort(descending=True).tolist()
        ranks[query] = sorted(order.index(answer) + 1 for answer in answers)
    return ranks


@torch.no_grad()
def encoded(model, dataset, text, kind):
    rows = dataset.encoded([text], kind, 48, "")
    return model.encode(rows.tokens_BT, rows.layout)[0].double()


def with_repeats(split):
    """Pairs of which two share a query, and others a document."""
    pairs = pairs_of(split)
    again = [pairs[0]._replace(positive=pairs[5].positive), pairs[1]._replace(query="another?"), pairs[2]]
    return [*pairs, *again]


def test_it_is_what_slow_code_says(model):
    dataset = Texts(with_repeats)
    findings = found(model, dataset, k=5)
    ranks = slow_ranks(model, dataset, with_repeats("report"))
    assert len(ranks) == 49 and sorted({len(each) for each in ranks.values()}) == [1, 2]
    gain = lambda rank: 1 / np.log2(1 + rank) if rank <= 5 else 0.0  # noqa: E731
    ndcg = [sum(map(gain, each)) / sum(gain(i + 1) for i in range(len(each))) for each in ranks.values()]
    expected = {
        "retrieval_mrr": np.mean([1 / each[0] for each in ranks.values()]),
        "retrieval_ndcg@5": np.mean(ndcg),
        "retrieval_recall@1": np.mean([sum(rank <= 1 for rank in each) / len(each) for each in ranks.values()]),
        "retrieval_recall@5": np.mean([sum(rank <= 5 for rank in each) / len(each) for each in ranks.values()]),
        "retrieval_bytes": 4 * DIM,
    }
    assert findings.values == pytest.approx(expected, abs=1e-6)
    assert expected["retrieval_recall@5"] > 5 / 48, "letters say something of a text, so this is no test of noise"


@torch.no_grad()
def test_vectors_come_in_the_order_of_the_texts_whatever_is_read_together(model):
    dataset, texts = Texts(), [pair.positive * (1 + i % 3) for i, pair in enumerate(pairs_of("train"))]
    one_by_one = torch.stack([encoded(model, dataset, text, "document") for text in texts]).float()
    dataset.asked.clear()
    together = vectors(model, dataset, texts, "document", "", given(rows=7))
    assert torch.allclose(together, one_by_one, atol=1e-5)
    sizes = [len(texts) for _, _, *texts in dataset.asked]
    assert max(sizes) == 7 and sum(sizes) == 48
    spread = [max(map(len, each)) - min(map(len, each)) for _, _, *each in dataset.asked]
    assert max(spread) < max(map(len, texts)) - min(map(len, texts)), "texts of about the same length are read together"


def test_widths_and_forms(model):
    options = {"dims": (4, 8, 16), "quantise": ("int8", "int4", "binary", "binary_rescored"), "k": 5, "shortlist": 48}
    findings = found(model, Texts(), **options)
    values = findings.values
    assert values["retrieval_ndcg@5_dim16"] == values["retrieval_ndcg@5"] != values["retrieval_ndcg@5_dim4"]
    assert values["retrieval_ndcg@5_int8"] == pytest.approx(values["retrieval_ndcg@5"], abs=0.1)
    sizes = {name: values[f"retrieval_bytes{name}"] for name in ("", "_int8", "_int4", "_binary", "_binary_rescored")}
    assert list(sizes.values()) == [64, 16, 8, 2, 2]
    rows = {(row["width"], row["form"]): row for row in findings.table if "form" in row}
    assert len(rows) == 3 * 5 and rows[8, "int4"]["bytes"] == 4
    assert rows[8, "float32"]["ndcg"] == values["retrieval_ndcg@5_dim8"]
    assert rows[16, "binary"]["ndcg"] == values["retrieval_ndcg@5_binary"]
    assert {*rows[16, "int4"]} == {"width", "form", "bytes", "ndcg", "mrr", "recall@1", "recall@5"}


def test_a_cut_vector_is_what_the_model_encodes_at_that_width(model):
    from experiments.text_vectors import truncated

    rows = Texts().encoded(["one text", "another"], "query", 48, "")
    with torch.no_grad():
        whole, short = model.encode(rows.tokens_BT, rows.layout), model.encode(rows.tokens_BT, rows.layout, dim=5)
    assert torch.allclose(truncated(whole, 5), short, atol=1e-6)


def test_labels_groups_and_pictures(model):
    findings = found(model, Texts(), dims=(8,), by="label", quantise=("int8",), matrix=6)
    rows = [row for row in findings.table if "label" in row and row["width"] == DIM]
    assert [row["label"] for row in rows] == ["b", "c", "h", "l", "m", "r", "t"]
    mean = sum(row["queries"] * row["label_ndcg"] for row in rows) / sum(row["queries"] for row in rows)
    assert mean == pytest.approx(findings.values["retrieval_ndcg@10"]) and sum(row["queries"] for row in rows) == 48
    cells = [row for row in findings.table if "cosine" in row]
    assert len(cells) == 36 and {row["query"] for row in cells} == {*range(1, 7)}
    assert all(-1 - 1e-6 <= row["cosine"] <= 1 + 1e-6 for row in cells)
    evaluator = registry.build("evaluator", {"type": "retrieval", "dims": (8,), "by": "label", "quantise": ("int8",)})
    assert len(evaluator.charts) == 4
    for chart in evaluator.charts:
        columns = {chart.x, chart.y, *filter(None, [chart.value, chart.by])}
        assert any(columns <= row.keys() for row in findings.table)
    assert [row["label"] for row in found(model, Texts(), by="group").table if "label" in row] == sorted(COLOURS)


def test_many_labels_are_counted_together():
    labels = [*"aabbccddeeffgghhiijjkkll", "x", "y", "z"]
    rows = list(collection.by_label(labels, torch.arange(27.0)))
    assert [label for label, _, _ in rows] == [*"abcdefghijkl", "others"] and rows[-1] == ("others", 3, 25.0)


def test_queries_are_a_sample_by_group(model):
    findings = found(model, Texts(), rows=30)
    documents = findings.documents
    assert documents.names == sorted(COLOURS) and documents.called == "groups"
    for name in ("retrieval_mrr", "retrieval_ndcg@10"):
        sums, weights = np.array(documents.sums[name]), np.array(documents.weights[name])
        assert sums.sum() / weights.sum() == pytest.approx(findings.values[name])
        rest = (sums.sum() - sums) / (weights.sum() - weights)
        assert documents.without[name] == pytest.approx(rest.tolist())
    assert found(model, Texts(), given("select")).documents is None
    alone = found(model, Texts(lambda split: [pair._replace(group="one") for pair in pairs_of(split)])).documents
    assert len(alone.names) == 48 and alone.called == "documents", "one group is no sample: then each document is one"


def test_some_of_the_queries_search_all_documents(model):
    dataset = Texts()
    findings = found(model, dataset, rows=5)
    kinds = {kind: sum(len(texts) for of, _, *texts in dataset.asked if of == kind) for kind in ("query", "document")}
    assert kinds == {"query": 5, "document": 48} and findings.values["retrieval_mrr"] > 0
    chosen = collection.of(pairs_of("report"), 5).queries
    assert chosen == collection.of(pairs_of("report")[::-1], 5).queries, "whatever the order of the pairs"


def mixed(split):
    """Two parts of different sizes: 48 pairs, and 12."""
    few = [Pair(f"{i} of {split}", f"the number {i}", part="numbers") for i in range(12)]
    return [pair._replace(part="colours") for pair in pairs_of(split)] + few


def test_of_a_mixture_every_part_counts_the_same(model):
    dataset = Texts(mixed)
    whole = found(model, dataset, by="part", parts=("numbers", "colours"), dims=(8,)).values
    assert {part for _, part, *_ in dataset.asked} == {"colours", "numbers"}, "each with its own prompts"
    parts = [[pair for pair in mixed("report") if pair.part == part] for part in ("colours", "numbers")]
    alone = [found(model, Texts(lambda split, own=own: own), matrix=0).values for own in parts]
    for name in ("retrieval_mrr", "retrieval_ndcg@10", "retrieval_recall@1"):
        assert whole[name] == pytest.approx((alone[0][name] + alone[1][name]) / 2)
    own = [whole[f"retrieval_ndcg@10_of_{part}"] for part in ("colours", "numbers")]
    assert own == pytest.approx([each["retrieval_ndcg@10"] for each in alone]) and own[0] != own[1]
    documents = found(model, dataset).documents
    assert sum(documents.sums["retrieval_mrr"]) / sum(documents.weights["retrieval_mrr"]) == pytest.approx(whole["retrieval_mrr"])


def test_the_report_says_whether_bm25_wins(model):
    pytest.importorskip("bm25s")
    findings = found(model, Texts(), bm25=True, dims=(8,))
    values = findings.values
    assert values["retrieval_over_bm25"] == pytest.approx(values["retrieval_ndcg@10"] - values["bm25_ndcg@10"])
    assert values["bm25_ndcg@10"] > 0.9 and findings.text.startswith("BM25 wins: nDCG@10 is ")
    assert values["bm25_ndcg@10_cut"] == values["bm25_ndcg@10"]  # nothing is cut
    few = found(model, Texts(), bm25=True, context=9).values
    assert few["bm25_ndcg@10"] == values["bm25_ndcg@10"] and few["bm25_ndcg@10_cut"] < 0.5  # `The co`
    assert few["retrieval_over_bm25_cut"] == pytest.approx(few["retrieval_ndcg@10"] - few["bm25_ndcg@10_cut"])
    lines = [row for row in findings.table if row.get("form") == "BM25"]
    assert [row["width"] for row in lines] == [8, DIM] and {row["ndcg"] for row in lines} == {values["bm25_ndcg@10"]}
    assert "retrieval_over_bm25" in findings.documents.without


def test_bm25_is_lucenes():
    pytest.importorskip("bm25s")
    documents = [pair.positive for pair in pairs_of("report")] + ["red red tree", "2 + 3"]
    queries = ["a red tree", "unseen wörds", "Report of cat_houses", "isRed"]
    each = [bm25.words(text) for text in documents]
    mean = np.mean([len(words) for words in each])

    def textbook(query, words):
        total = 0.0
        for word in bm25.words(query):
            n, count = sum(word in other for other in each), words.count(word)
            idf = np.log(1 + (len(each) - n + 0.5) / (n + 0.5))
            total += idf * count / (count + 1.5 * (0.25 + 0.75 * len(words) / mean))
        return total

    scores_QN = np.stack(list(bm25.scores(queries, documents)))
    assert np.allclose(scores_QN, [[textbook(query, words) for words in each] for query in queries], atol=1e-5)
    assert not scores_QN[1].any() and scores_QN[3].argmax() == len(documents) - 2


def test_vectors_are_kept_for_the_projector_of_a_finished_run(model, tmp_path):
    assert found(model, Texts(), keep=10).points is None, "a run that still trains keeps none"
    strange = lambda split: [pair._replace(positive=f"tab\t{pair.positive}\nline") for pair in pairs_of(split)]  # noqa: E731
    points = found(model, Texts(strange), given(folder=tmp_path), keep=10).points
    assert len(points.vectors) == 10 and {*points.columns} == {"text", "query", "label", "group"}
    about = {"split": "report", "name": "r", "evaluator": {}, "identity": "i", "seed": 0, "values": {}}
    record = EvaluationRecord(**about, points=points)
    record.write(tmp_path, "report.r-0123456789ab.json")
    numbers, texts = points_files(tmp_path, "report.r-0123456789ab.json")
    assert numbers.parent == tmp_path / EVALUATIONS
    assert np.allclose(np.loadtxt(numbers, delimiter="\t"), np.array(points.vectors), atol=1e-5)
    lines = [line.split("\t") for line in texts.read_text().splitlines()]
    assert lines[0] == ["text", "query", "label", "group"] and len(lines) == 11 and {len(line) for line in lines} == {4}
    assert lines[1][0].startswith("tab The ")
    stored = (tmp_path / EVALUATIONS / "report.r-0123456789ab.json").read_text()
    assert "points" not in stored
    EvaluationRecord(**about).write(tmp_path, "report.r-0123456789ab.json")
    assert not numbers.exists() and not texts.exists(), "what is measured again without points has none"


@pytest.mark.parametrize(
    "options, text",
    [
        ({"dims": (8, 17)}, "dims.1: 17 is more than the 16 numbers of the model's vectors"),
        ({"dims": (8, 8)}, "dims: expected different ones, got \\[8, 8\\]"),
        ({"rows": 49}, "rows: the report split has 48 different queries, fewer than 49"),
        ({"k": 49}, "k: the report split has 48 different documents, fewer than k = 49"),
        ({"quantise": ("int9",)}, "quantise.0: 'int9' is not one of them; did you mean 'int8' or 'int4'"),
        ({"by": "part"}, "by: no pair of the report split has a part"),
        ({"parts": ("colours",)}, "parts.0: the data has no part 'colours'"),
        ({"keep": 5000}, "keep: should be less than or equal to 1000"),
    ],
)
def test_what_cannot_be_measured_is_refused_at_its_key(options, text, model):
    with pytest.raises(SpecError, match=text) as error:
        found(model, Texts(), **options)
    assert "\n" not in str(error.value)


def test_a_split_of_one_document_is_refused(model):
    with pytest.raises(SpecError, match="the report split has one document, so there is nothing to rank"):
        found(model, Texts(lambda split: [Pair("a", "b"), Pair("c", "b")]))


def test_without_bm25s_the_error_says_how_to_install_it(model, monkeypatch):
    monkeypatch.setitem(sys.modules, "bm25s", None)
    with pytest.raises(SpecError, match=r"bm25: BM25 needs the package bm25s: pip install -e '.\[bm25\]'"):
        found(model, Texts(), bm25=True)


def test_vectors_that_are_not_finite_are_no_perfect_ranking(model, monkeypatch):
    monkeypatch.setattr(type(model), "encode", lambda self, tokens_BT, layout: torch.full((len(tokens_BT), DIM), torch.nan))
    with pytest.raises(NotFinite, match="report/query vectors"):
        found(model, Texts())


def labelled(split):
    """Texts whose label is their first word, in every split."""
    return [Pair(f"{word} {i} {split}?", f"{word} number {i} of {split}", label=word) for word in ("aaaa", "zz") for i in range(12)]


def test_a_probe_reads_labels_that_are_in_the_text(model):
    findings = found(model, Texts(labelled), name="probe")
    assert findings.values["probe_accuracy"] > 0.9 and findings.values["probe_nearest_mean"] > 0.9
    assert findings.values["probe_majority"] == 0.5
    assert [(row["label"], row["texts"], row["learned"]) for row in findings.table] == [("aaaa", 12, 12), ("zz", 12, 12)]
    half = found(model, Texts(labelled), name="probe", fit="half", of="query")
    assert sum(row["texts"] for row in half.table) == sum(row["learned"] for row in half.table) == 12
    again = found(model, Texts(labelled), name="probe")
    assert again.values == findings.values


def test_a_probe_without_labels_in_common_is_refused(model):
    disjoint = lambda split: [pair._replace(label=f"{split} {pair.label}") for pair in labelled(split)]  # noqa: E731
    with pytest.raises(SpecError, match=r"fit: 0 of the 2 labels of the report split occur in the train split; .*`half`"):
        found(model, Texts(disjoint), name="probe")
    assert found(model, Texts(disjoint), name="probe", fit="half").values["probe_accuracy"] > 0.5
    with pytest.raises(SpecError, match="fit: 0 of the 0 labels of the report split occur in its other half"):
        found(model, Texts(lambda split: [Pair("a", "b")]), name="probe", fit="half")


def related(split):
    """Texts of two groups with two labels each; those of a label share nearly all letters, those of a group half of them."""
    words = {"g": {"a": "aaaaaaaa", "b": "aaaabbbb"}, "h": {"c": "zzzzzzzz", "d": "zzzzyyyy"}}
    return [
        Pair(f"{i}?", f"{word * 3}{i}", group=group, label=f"{group}.{label}")
        for group, labels in words.items()
        for label, word in labels.items()
        for i in range(6)
    ]


def test_similarity_ranks_texts_of_a_label_before_those_of_a_group_before_others(model):
    findings = found(model, Texts(related), name="similarity")
    assert findings.values["similarity_spearman"] > 0.6 and findings.values["similarity_pearson"] > 0.6
    assert [(row["grade"], row["pairs"]) for row in findings.table] == [(0, 24), (1, 24), (2, 24)]
    cosines = [row["cosine"] for row in findings.table]
    assert cosines[2] > 0.9 > max(cosines[:2])
    mixed = lambda split: [pair._replace(positive=f"{digest(pair.positive)}") for pair in related(split)]  # noqa: E731
    assert abs(found(model, Texts(mixed), name="similarity").values["similarity_spearman"]) < 0.4
    assert found(model, Texts(related), name="similarity", rows=8).table[0]["pairs"] <= 8


def test_texts_without_vectors_of_their_own_have_no_similarity(model, monkeypatch):
    same = torch.nn.functional.normalize(torch.randn(DIM, generator=torch.Generator().manual_seed(1)), dim=0)
    monkeypatch.setattr(type(model), "encode", lambda self, tokens_BT, layout: same.repeat(len(tokens_BT), 1))
    assert set(found(model, Texts(related), name="similarity").values.values()) == {0.0}


def test_similarity_needs_two_grades(model):
    alone = lambda split: [Pair(f"{i}?", f"text {i}", group=str(i)) for i in range(4)]  # noqa: E731
    with pytest.raises(SpecError, match="two grades are compared, but the report split has another group; expected"):
        found(model, Texts(alone), name="similarity")


def test_correlations_are_those_of_scipy():
    stats = pytest.importorskip("scipy.stats")
    generator = torch.Generator().manual_seed(0)
    x_M, y_M = (torch.randint(0, high, (200,), generator=generator).double() for high in (5, 40))
    y_M = y_M + 3 * x_M
    assert similarity.correlation(x_M, y_M) == pytest.approx(stats.pearsonr(x_M, y_M).statistic, abs=1e-12)
    ranked = [similarity.ranks(each) for each in (x_M, y_M)]
    assert similarity.correlation(*ranked) == pytest.approx(stats.spearmanr(x_M, y_M).statistic, abs=1e-12)
    assert ranked[0].tolist() == stats.rankdata(x_M).tolist()


def test_the_probe_is_ridge_regression_in_closed_form():
    generator = torch.Generator().manual_seed(0)
    fit_NE, label_N = torch.randn(30, 5, generator=generator).double(), torch.randint(3, (30,), generator=generator)
    scores = probe.ridge(fit_NE, label_N, 0.3)
    mean_E = fit_NE.mean(0)
    penalty = 0.3 * float((fit_NE - mean_E).square().sum()) / 5
    weight_EC = torch.zeros(5, 3, dtype=torch.float64, requires_grad=True)
    mean_C = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    target_NC = torch.nn.functional.one_hot(label_N).double()
    solver = torch.optim.LBFGS([weight_EC, mean_C], max_iter=500, tolerance_grad=1e-12, tolerance_change=1e-15)

    def loss():
        solver.zero_grad()
        error = ((fit_NE - mean_E) @ weight_EC + mean_C - target_NC).square().sum() + penalty * weight_EC.square().sum()
        error.backward()
        return error

    solver.step(loss)
    expected_NC = (fit_NE - mean_E) @ weight_EC + mean_C
    assert torch.allclose(scores(fit_NE), expected_NC, atol=1e-5)


def test_the_nearest_mean_is_the_nearest():
    generator = torch.Generator().manual_seed(0)
    fit_NE, label_N = torch.randn(40, 6, generator=generator), torch.arange(40) % 4
    other_NE = torch.randn(20, 6, generator=generator)
    means = torch.stack([fit_NE[label_N == label].mean(0) for label in range(4)])
    assert torch.equal(probe.nearest_mean(fit_NE, label_N)(other_NE).argmax(1), torch.cdist(other_NE, means).argmin(1))


def test_equal_vectors_tell_no_label_and_fail_nothing(model):
    fit_NE, label_N = torch.ones(6, 4, dtype=torch.float64), torch.tensor([0, 0, 0, 0, 1, 1])
    assert probe.ridge(fit_NE, label_N, 0.1)(fit_NE).argmax(1).tolist() == [0] * 6
