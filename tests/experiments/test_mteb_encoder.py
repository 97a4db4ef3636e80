"""`mteb` runs its tasks on an encoder of ours: prompts by the task's type, and on local tasks the numbers that we compute.

`make test-embedding` installs it.
"""

import hashlib
import os

import numpy as np
import pytest
import torch

from arch.errors import DataError
from experiments.data.pair import Pair
from experiments.mteb_encoder import MTEBEncoder
from experiments.ranking import products, ranked

PROMPTS = {"query": "q: ", "document": "d: ", "STS": "sts: ", "Retrieval-query": "rq: "}


class Words:
    """The vector of a text is the sum of a vector per word, without the prompt's. asked: (prompt, texts) of every call."""

    def __init__(self):
        self.asked = []

    def __call__(self, texts, prompt):
        self.asked.append((prompt, list(texts)))
        return np.stack([sum(map(self.word, text.split()), np.full(64, 1e-3)) for text in texts])

    def word(self, word):
        seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:4], "big")
        return np.random.default_rng(seed).normal(size=64)


def test_the_prompt_of_a_task():
    encoder = MTEBEncoder(Words(), PROMPTS, "local/words")
    assert encoder.prompt("Retrieval", "query") == "rq: " and encoder.prompt("Retrieval", "document") == "d: "
    assert encoder.prompt("STS", None) == "sts: " and encoder.prompt("Clustering", None) == "q: "
    assert MTEBEncoder(Words(), PROMPTS, "local/words", alike="document").prompt("Clustering", None) == "d: "
    with pytest.raises(DataError, match="no prompt for the task type 'Clustering'; did you mean 'query '"):
        MTEBEncoder(Words(), {"querry": "", "query ": ""}, "local/words").prompt("Clustering", None)


def test_similarities_are_cosines():
    encoder, x, y = MTEBEncoder(Words(), PROMPTS, "local/words"), *np.random.default_rng(0).normal(size=(2, 5, 8))
    cosines = torch.nn.functional.cosine_similarity(torch.tensor(x)[:, None], torch.tensor(y)[None], dim=2)
    assert np.allclose(encoder.similarity(x, y), cosines, atol=1e-6)
    assert np.allclose(encoder.similarity_pairwise(x, y), cosines.diagonal(), atol=1e-6)
    assert encoder.similarity(np.zeros(8), y).tolist() == [[0.0] * 5]


# A query names the colour of its document, and things that may be another's.
COLOURS, THINGS = ("red", "green", "blue"), ("cat", "house", "bird", "hill", "tree")
NAMED = [(colour, thing) for colour in COLOURS for thing in THINGS]
PAIRS = [Pair(f"{colour} tree {thing} hill", f"the {thing} number {i} is {colour}") for i, (colour, thing) in enumerate(NAMED)]


@pytest.fixture
def offline(monkeypatch):
    """mteb, which then asks nothing of a network."""
    if not os.environ.get("ARCHBENCH_NEEDS_EMBEDDING"):
        pytest.importorskip("mteb")
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
        monkeypatch.setenv(name, "1")


def about(name, kind, score):
    """The metadata that mteb wants of a task."""
    from mteb.abstasks.task_metadata import TaskMetadata

    unsaid = dict.fromkeys(("license", "annotations_creators", "sample_creation", "bibtex_citation", "reference", "dialect"))
    known = {"name": name, "description": name, "type": kind, "category": "t2t", "modalities": ["text"], "main_score": score}
    where = {"eval_splits": ["test"], "eval_langs": ["eng-Latn"], "date": ("2025-01-01", "2025-01-02"), "domains": ["Programming"]}
    return TaskMetadata(**unsaid, **known, **where, task_subtypes=[], dataset={"path": "local", "revision": "1"})


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # what mteb and its own dependencies warn of is theirs
def test_mteb_measures_retrieval_as_we_do(offline):
    import mteb
    from datasets import Dataset
    from mteb.abstasks.retrieval import AbsTaskRetrieval
    from mteb.abstasks.retrieval_dataset_loaders import RetrievalSplitData

    class Local(AbsTaskRetrieval):
        metadata = about("LocalPairs", "Retrieval", "ndcg_at_10")

        def load_data(self, num_proc=None, **more):
            corpus = Dataset.from_dict(
                {"id": [f"d{i}" for i in range(15)], "title": [""] * 15, "text": [pair.positive for pair in PAIRS]}
            )
            queries = Dataset.from_dict({"id": [f"q{i}" for i in range(15)], "text": [pair.query for pair in PAIRS]})
            relevant = {f"q{i}": {f"d{i}": 1} for i in range(15)}
            data = RetrievalSplitData(corpus=corpus, queries=queries, relevant_docs=relevant, top_ranked=None)
            self.dataset, self.data_loaded = {"default": {"test": data}}, True

    words = Words()
    encoder = MTEBEncoder(words, PROMPTS, "local/words")
    found = mteb.evaluate(
        encoder, [Local()], cache=None, co2_tracker=False, show_progress_bar=False, encode_kwargs={"batch_size": 4}
    )
    (scores,) = found.task_results[0].scores["test"]
    assert {prompt for prompt, _ in words.asked} == {"rq: ", "d: "}
    unit = lambda texts: torch.nn.functional.normalize(torch.tensor(Words()(texts, "")).float(), dim=1)  # noqa: E731
    query_QE, document_NE = unit([pair.query for pair in PAIRS]), unit([pair.positive for pair in PAIRS])
    ours = ranked(products(query_QE, document_NE), torch.arange(15)[:, None].expand(15, 2), 15, 15)
    assert scores["ndcg_at_10"] == pytest.approx(float(ours.ndcg(10).mean()), abs=1e-5)
    assert scores["recall_at_1"] == pytest.approx(float(ours.recall(1).mean()), abs=1e-5)
    assert 0.1 < scores["ndcg_at_10"] < 1


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_mteb_measures_similarity_with_the_prompt_of_its_type(offline):
    import mteb
    from datasets import Dataset, DatasetDict
    from mteb.abstasks.sts import AbsTaskSTS
    from scipy.stats import spearmanr

    first, second = [pair.query for pair in PAIRS], [pair.positive for pair in PAIRS[3:] + PAIRS[:3]]
    graded = [float(len({*a.split()} & {*b.split()})) for a, b in zip(first, second, strict=True)]

    class Local(AbsTaskSTS):
        metadata = about("LocalSTS", "STS", "cosine_spearman")
        min_score, max_score = 0, 2

        def load_data(self, num_proc=None, **more):
            test = Dataset.from_dict({"sentence1": first, "sentence2": second, "score": graded})
            self.dataset, self.data_loaded = DatasetDict(test=test), True

    words = Words()
    encoder = MTEBEncoder(words, PROMPTS, "local/words")
    found = mteb.evaluate(
        encoder, [Local()], cache=None, co2_tracker=False, show_progress_bar=False, encode_kwargs={"batch_size": 4}
    )
    (scores,) = found.task_results[0].scores["test"]
    assert {prompt for prompt, _ in words.asked} == {"sts: "}
    cosines = encoder.similarity_pairwise(words(first, ""), words(second, ""))
    assert scores["cosine_spearman"] == pytest.approx(spearmanr(cosines, graded).statistic, abs=1e-5)
