"""Whether a query's vector finds its document: MRR, nDCG@k and recall@k; with shorter and quantised vectors; beside BM25.

Shapes: Q queries, N documents, E numbers of a vector, M texts of the matrix.
"""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

import torch
from pydantic import AfterValidator, Field
from torch import Tensor

from arch.contracts import Chart, Findings, Given, Metric, Points
from arch.errors import SpecError, install
from arch.model import Model
from arch.model_spec import ModelSpec
from arch.registry import evaluator
from arch.spec import Count, List, Spec
from arch.words import times
from experiments import collection, lexical
from experiments.collection import Collection
from experiments.ranking import Ranked, Scores, ranked
from experiments.text_vectors import truncated, vectors
from experiments.vector_index import FLOAT, Form, Index, index

QUALITY = Metric(better="higher", compare="difference", any_tokenizer=True)
BYTES = Metric(unit="B", better="lower", compare="ratio", any_tokenizer=True, varies="never")
# Of words alone: nothing that a seed changes.
LEXICAL = QUALITY.model_copy(update={"varies": "never"})
BM25 = "BM25"
# A projector in a browser shows so many points.
MOST_POINTS = 1000

BY_WIDTH = Chart(
    kind="curve",
    x="width",
    y="ndcg",
    by="form",
    title="Quality by the width of vectors",
    labels={"width": "numbers per vector", "ndcg": "nDCG"},
    log=("width",),
)
BY_BYTES = Chart(
    kind="curve",
    x="bytes",
    y="ndcg",
    by="form",
    title="Quality by the bytes of a document's vector",
    labels={"bytes": "bytes per document", "ndcg": "nDCG"},
    log=("bytes",),
)
BY_LABEL = Chart(
    kind="curve",
    x="width",
    y="label_ndcg",
    by="label",
    title="Quality by label",
    labels={"width": "numbers per vector", "label_ndcg": "nDCG"},
    log=("width",),
)
MATRIX = Chart(
    kind="grid",
    x="document",
    y="query",
    value="cosine",
    title="Cosines of queries and documents; on the diagonal, of those that belong together",
    labels={"document": "document of query", "query": "query", "cosine": "cosine"},
)


def _different(values: Any) -> Any:
    """The values, if no two are the same. Raises ValueError."""
    if len({*values}) < len(values):
        raise ValueError(f"expected different ones, got {list(values)}")
    return values


@evaluator
class Retrieval:
    """Each query of the split ranks all documents of the split (the distinct positives of its pairs) by the cosine of vectors.

    | metric | what it is, as a mean over queries |
    |---|---|
    | `retrieval_mrr` | 1 / rank of the first document that answers the query, without a cutoff |
    | `retrieval_ndcg@K` | the sum of 1 / log2(1 + rank) over the answers among the first K, over the largest possible sum |
    | `retrieval_recall@1`, `retrieval_recall@K` | the share of the answers among the first document, the first K |
    | `retrieval_ndcg@K_dimW` | with the first W numbers of each vector, normalised again |
    | `retrieval_ndcg@K_FORM` | with documents that are kept in another form; `retrieval_bytes_FORM`: bytes of each |
    | `bm25_ndcg@K`, `bm25_mrr` | of BM25, which knows nothing but words; `retrieval_over_bm25`: nDCG minus that of BM25 |

    Equal texts are one document. Equal scores are in the order in which documents stand in the split. On the report split
    also group by group (or query by query, if there is one group), so that a report can say what it is for other queries.
    """

    class Config(Spec):
        """rows: how many queries, chosen by the digest of their text; by default all. The documents are always all of the split.

        context: the most tokens of a text, by default `data.context`. k: of nDCG and recall. dims: widths to which vectors are
        cut. quantise: forms in which documents are kept (`int8` and `int4` with a range per dimension, that of the documents;
        `binary`, signs compared with signs; `binary_rescored`, whose first `shortlist` documents are ordered anew by the float
        query), at the full width in a metric each, and at every width in the table. by: whether the table has a row per label
        or group of the pairs. bm25: also rank by BM25 (extra `bm25`). matrix: of so many queries and their documents, the
        cosines in a picture. keep: of so many documents, vector and text in a file beside the record of a finished run,
        which TensorBoard's projector shows.
        """

        rows: Count | None = None
        context: Annotated[int, Field(ge=2)] | None = None
        k: Count = 10
        dims: Annotated[List[Count], AfterValidator(_different)] = ()
        quantise: Annotated[List[Form], AfterValidator(_different)] = ()
        shortlist: Count = 100
        by: Literal["label", "group"] | None = None
        bm25: bool = False
        matrix: Annotated[int, Field(ge=0, le=64)] = 16
        keep: Annotated[int, Field(ge=0, le=MOST_POINTS)] = 0

        @classmethod
        def examples(cls):
            return [cls(), cls(dims=(32, 16), quantise=("int8", "binary"), by="label")]

    needs = frozenset({"encodes", "pairs"})

    def __init__(self, config: Config):
        self.config = config
        self.metrics = self._metrics()
        shown = ((BY_WIDTH, config.dims or config.bm25), (BY_BYTES, config.quantise), (BY_LABEL, config.by), (MATRIX, config.matrix))
        self.charts = tuple(chart for chart, is_shown in shown if is_shown)

    def _metrics(self) -> dict[str, Metric]:
        options, ndcg = self.config, f"ndcg@{self.config.k}"
        names = ["retrieval_mrr", f"retrieval_{ndcg}", *(f"retrieval_recall@{k}" for k in dict.fromkeys((1, options.k)))]
        names += [f"retrieval_{ndcg}_dim{width}" for width in options.dims]
        names += [f"retrieval_{ndcg}_{form}" for form in options.quantise]
        metrics = dict.fromkeys(names, QUALITY)
        metrics |= {f"retrieval_bytes{form}": BYTES for form in ("", *(f"_{form}" for form in options.quantise))}
        if options.bm25:
            metrics |= {"bm25_mrr": LEXICAL, f"bm25_{ndcg}": LEXICAL, "retrieval_over_bm25": QUALITY}
        return metrics

    def check_model(self, model: ModelSpec) -> None:
        """Raises SpecError for a width that the model's vectors do not have."""
        if self.config.dims and (widest := max(self.config.dims)) > model.vector_dim:
            reason = f"{widest:,} is more than the {model.vector_dim:,} numbers of the model's vectors"
            raise SpecError(reason, ("dims", self.config.dims.index(widest)))

    def check(self, dataset: Any, split: str) -> None:
        """Raises SpecError for more queries, or a larger k, than the split gives, for labels that it lacks, and without bm25s."""
        if self.config.bm25 and not lexical.is_installed():
            raise SpecError(f"it needs the package {lexical.PACKAGE}: {install(lexical.EXTRA)}", ("bm25",))
        pairs = dataset.pairs(split)
        whole = collection.of(pairs)
        if len(whole.documents) < 2:
            raise SpecError(f"the {split} split has {times(len(whole.documents), 'document')}, so there is nothing to rank")
        if self.config.k > len(whole.documents):
            raise SpecError(f"the {split} split has {times(len(whole.documents), 'document')}, so each is among {self.config.k}", ("k",))
        if self.config.rows and self.config.rows > len(whole.queries):
            reason = f"the {split} split has {_queries(len(whole.queries))}"
            raise SpecError(f"{reason}; expected at most as many", ("rows",))
        if self.config.by and not any(getattr(pair, self.config.by) for pair in pairs):
            raise SpecError(f"no pair of the {split} split has a {self.config.by}", ("by",))

    def __call__(self, model: Model, dataset: Any, given: Given) -> Findings:
        """The metrics; a table by width and form, by label, and of the matrix."""
        options = self.config
        asked = collection.of(dataset.pairs(given.split), options.rows, options.by or "label")
        query_QE = vectors(model, dataset, asked.queries, "query", given, options.context)
        document_NE = vectors(model, dataset, asked.documents, "document", given, options.context)
        found = _Found(asked, options.k, query_QE.device)
        widths = dict.fromkeys((*options.dims, query_QE.shape[1]))
        for width in sorted(widths):
            short_QE, short_NE = truncated(query_QE, width), truncated(document_NE, width)
            for form in (FLOAT, *options.quantise):
                found.add(width, form, index(form, short_QE, short_NE, options.shortlist))
        if options.bm25:
            found.add_bm25(lexical.scores(asked.queries, asked.documents, query_QE.device), widths)
        values, bytes_of = self._values(found, query_QE.shape[1])
        table = found.table
        if options.by:
            labels = collection.common(asked.label_Q)
            for width in widths:
                ndcg_Q = found.ranked[width, FLOAT].ndcg(options.k)
                table += [
                    {"label": label, "width": width, "queries": queries, "label_ndcg": mean}
                    for label, queries, mean in collection.per_label(labels, ndcg_Q)
                ]
        table += _matrix(asked, query_QE, document_NE, options.matrix)
        return Findings(
            {name: float(values_Q.mean()) for name, values_Q in values.items()} | bytes_of,
            table,
            text=_who_wins(values, options.k) if options.bm25 else "",
            documents=collection.by_unit(asked, values) if given.split == "report" else None,
            points=_points(asked, dataset.pairs(given.split), document_NE, options.keep) if given.folder else None,
        )

    def _values(self, found: "_Found", width: int) -> tuple[dict[str, Tensor], dict[str, float]]:
        """({metric: (Q,) query by query}, {metric: bytes})"""
        options, ndcg, whole = self.config, f"ndcg@{self.config.k}", found.ranked[width, FLOAT]
        values = {"retrieval_mrr": whole.reciprocal(), f"retrieval_{ndcg}": whole.ndcg(options.k)}
        values |= {f"retrieval_recall@{k}": whole.recall(k) for k in (1, options.k)}
        values |= {f"retrieval_{ndcg}_dim{each}": found.ranked[each, FLOAT].ndcg(options.k) for each in options.dims}
        values |= {f"retrieval_{ndcg}_{form}": found.ranked[width, form].ndcg(options.k) for form in options.quantise}
        if found.bm25 is not None:
            values |= {"bm25_mrr": found.bm25.reciprocal(), f"bm25_{ndcg}": found.bm25.ndcg(options.k)}
            values["retrieval_over_bm25"] = values[f"retrieval_{ndcg}"] - values[f"bm25_{ndcg}"]
        bytes_of = {"retrieval_bytes": float(found.bytes[width, FLOAT])}
        return values, bytes_of | {f"retrieval_bytes_{form}": float(found.bytes[width, form]) for form in options.quantise}


class _Found:
    """Rankings of a collection: by width and form, and of BM25; and their rows of the table."""

    def __init__(self, asked: Collection, k: int, device: torch.device):
        self.asked, self.k, self.pair_P2 = asked, k, asked.pair_P2.to(device)
        self.ranked: dict[tuple[int, str], Ranked] = {}
        self.bytes: dict[tuple[int, str], int] = {}
        self.bm25: Ranked | None = None
        self.table: list[dict[str, Any]] = []

    def add(self, width: int, form: str, made: Index) -> None:
        key = width, form
        self.ranked[key], self.bytes[key] = self._ranked(made.scores), made.bytes
        self._row(self.ranked[key], width, form, made.bytes)

    def add_bm25(self, scores: Scores, widths: Mapping[int, None]) -> None:
        self.bm25 = self._ranked(scores)
        for width in widths:  # a line at the same height over all widths
            self._row(self.bm25, width, BM25, None)

    def _ranked(self, scores: Scores) -> Ranked:
        return ranked(scores, self.pair_P2, len(self.asked.queries), len(self.asked.documents))

    def _row(self, of: Ranked, width: int, form: str, size: int | None) -> None:
        means = {"ndcg": of.ndcg(self.k), "mrr": of.reciprocal()} | {f"recall@{k}": of.recall(k) for k in (1, self.k)}
        self.table.append({"width": width, "form": form, "bytes": size} | {name: float(each.mean()) for name, each in means.items()})


def _matrix(asked: Collection, query_QE: Tensor, document_NE: Tensor, most: int) -> Iterator[dict[str, Any]]:
    """Yields a row per cell: the cosine of a query and of the document that answers another; both numbered from 1."""
    answers = document_NE[asked.answer_Q[:most]]
    for query, row in enumerate((query_QE[:most] @ answers.T).tolist(), 1):
        yield from ({"query": query, "document": document, "cosine": cosine} for document, cosine in enumerate(row, 1))


def _points(asked: Collection, pairs: Any, document_NE: Tensor, most: int) -> Points | None:
    """The vectors of so many documents, chosen by the digest of their text, with text, label and group."""
    if not most:
        return None
    about = {pair.positive: pair for pair in reversed(pairs)}
    chosen = sorted(range(len(asked.documents)), key=lambda number: collection.digest(asked.documents[number]))[:most]
    texts = [asked.documents[number] for number in chosen]
    columns = {"text": texts, "label": [about[text].label for text in texts], "group": [about[text].group for text in texts]}
    return Points(vectors=document_NE[chosen].tolist(), columns={name: each for name, each in columns.items() if any(each)})


def _who_wins(values: Mapping[str, Tensor], k: int) -> str:
    """A sentence on the encoder and BM25, on the same queries and documents."""
    ours_Q, theirs_Q = values[f"retrieval_ndcg@{k}"], values[f"bm25_ndcg@{k}"]
    ours, theirs = float(ours_Q.mean()), float(theirs_Q.mean())
    first = "The encoder and BM25 are even" if ours == theirs else "The encoder wins" if ours > theirs else "BM25 wins"
    better, worse = int((ours_Q > theirs_Q).sum()), int((ours_Q < theirs_Q).sum())
    return (
        f"{first}: nDCG@{k} is {ours:.3f} for the encoder and {theirs:.3f} for BM25. Of {_queries(len(ours_Q))}, "
        f"the encoder ranks {better:,} better and BM25 {worse:,}; {len(ours_Q) - better - worse:,} are equal"
    )


def _queries(count: int) -> str:
    return "1 query" if count == 1 else f"{count:,} queries"
