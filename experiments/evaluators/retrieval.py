"""Whether a query's vector finds its document: MRR, nDCG@k and recall@k; with shorter and quantised vectors; beside BM25.

Shapes: Q queries, N documents, E numbers of a vector, M texts of the matrix.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import torch
from pydantic import AfterValidator, Field
from torch import Tensor

from arch.contracts import Chart, Findings, Given, Metric, Points
from arch.errors import DataError, SpecError, nearest
from arch.model import Model
from arch.model_spec import ModelSpec
from arch.registry import evaluator
from arch.spec import Count, List, Spec, later
from experiments import collection
from experiments.collection import Collection
from experiments.data import bm25
from experiments.ranking import Scores, in_turn, ranked
from experiments.text_vectors import truncated, vectors
from experiments.vector_index import FLOAT, Form, index

QUALITY = Metric(better="higher", compare="difference", any_tokenizer=True)
BYTES = Metric(unit="B", better="lower", compare="ratio", any_tokenizer=True, varies="never")
# Of words alone: nothing that a seed changes.
LEXICAL = QUALITY.model_copy(update={"varies": "never"})
BM25 = "BM25"
CUT = "BM25 of what the model reads"
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

CHARTS = (BY_WIDTH, BY_BYTES, BY_LABEL, MATRIX)


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
    | `retrieval_ndcg@K_of_PART` | of the queries of one part of a mixture |
    | `retrieval_ndcg@K_FORM` | with documents that are kept in another form; `retrieval_bytes_FORM`: bytes of each |
    | `bm25_ndcg@K`, `bm25_mrr` | of BM25, which knows nothing but words; `retrieval_over_bm25`: nDCG minus that of BM25 |
    | `bm25_ndcg@K_cut`, `retrieval_over_bm25_cut` | of BM25 on as much of each text as the model reads; nDCG minus that |

    Equal texts are one document. Equal scores are in the order in which documents stand in the split. Of a mixture, a query
    ranks the documents of its own part, and metrics are means over parts of these means. On the report split also group by group
    (or document by document, if there is one group), so that a report can say what it is for other queries.
    """

    class Config(Spec):
        """rows: how many queries (of each part of a mixture), chosen by the digest of their text; by default all. The documents
        are always all.

        context: the most tokens of a text, by default `data.context`. k: of nDCG and recall. dims: widths to which vectors are
        cut. quantise: forms in which documents are kept (`int8` and `int4` with a range per dimension, that of the documents;
        `binary`, signs compared with signs; `binary_rescored`, whose first documents are ordered anew by the float query), at the
        full width in a metric each, and at every width in the table. shortlist: how many documents `binary_rescored` orders anew.
        by: whether the table has a row per label, group or part of the pairs. bm25: also rank by BM25 (extra `bm25`). matrix: of
        so many queries, chosen in the same way, and their documents, the cosines in a picture. keep: of so many documents, vector
        and text in files beside the record of a finished run, which TensorBoard's projector shows. parts: of a mixture, those
        whose own nDCG is a metric too, `retrieval_ndcg@K_of_PART`.
        """

        rows: Count | None = None
        context: Annotated[int, Field(ge=2)] | None = None
        k: Count = 10
        dims: Annotated[List[Count], AfterValidator(_different)] = ()
        quantise: Annotated[List[Form], AfterValidator(_different)] = ()
        shortlist: Count = 100
        by: Literal["label", "group", "part"] | None = None
        bm25: bool = False
        matrix: Annotated[int, Field(ge=0, le=64)] = 16
        keep: Annotated[int, Field(ge=0, le=MOST_POINTS)] = 0
        parts: Annotated[List[str], AfterValidator(_different)] = later(())

        @classmethod
        def examples(cls):
            return [cls(), cls(dims=(32, 16), quantise=("int8", "binary"), by="label")]

    needs = frozenset({"encodes", "pairs"})

    def __init__(self, config: Config):
        self.config = config
        self.metrics = self._metrics()
        shown = config.dims or config.bm25, config.quantise, config.by, config.matrix
        self.charts = tuple(chart for chart, is_shown in zip(CHARTS, shown, strict=True) if is_shown)

    def _metrics(self) -> dict[str, Metric]:
        options, ndcg = self.config, self._ndcg
        names = ["retrieval_mrr", f"retrieval_{ndcg}", *(f"retrieval_recall@{k}" for k in dict.fromkeys((1, options.k)))]
        names += [f"retrieval_{ndcg}_dim{width}" for width in options.dims]
        names += [f"retrieval_{ndcg}_{form}" for form in options.quantise]
        names += [f"retrieval_{ndcg}_of_{part}" for part in options.parts]
        metrics = dict.fromkeys(names, QUALITY)
        metrics |= {f"retrieval_bytes{form}": BYTES for form in ("", *(f"_{form}" for form in options.quantise))}
        if options.bm25:
            metrics |= {"bm25_mrr": LEXICAL, f"bm25_{ndcg}": LEXICAL, "retrieval_over_bm25": QUALITY}
            metrics |= {f"bm25_{ndcg}_cut": LEXICAL, "retrieval_over_bm25_cut": QUALITY}
        return metrics

    @property
    def _ndcg(self) -> str:
        return f"ndcg@{self.config.k}"

    def check_model(self, model: ModelSpec) -> None:
        """Raises SpecError for a width that the model's vectors do not have."""
        if self.config.dims and (widest := max(self.config.dims)) > model.vector_dim:
            reason = f"{widest:,} is more than the {model.vector_dim:,} numbers of the model's vectors"
            raise SpecError(reason, ("dims", self.config.dims.index(widest)))

    def check(self, dataset: Any, split: str) -> None:
        """Raises SpecError for more queries, or a larger k, than the split gives, for labels that it lacks, and without bm25s."""
        if self.config.bm25:
            try:
                bm25.version(("bm25",))
            except DataError as error:
                raise SpecError(str(error), ("bm25",)) from None
        pairs = dataset.pairs(split)
        for i, part in enumerate(self.config.parts):
            if part not in (known := {pair.part for pair in pairs if pair.part}):
                raise SpecError(f"the data has no part {part!r}{nearest(part, known)}", ("parts", i))
        for part, whole in collection.by_part(pairs).items():
            where = f"the {split} split{f' of the part {part}' if part else ''}"
            documents, queries = len(whole.documents), len(whole.queries)
            if documents < 2:
                raise SpecError(f"{where} has one document, so there is nothing to rank")
            if self.config.k > documents:
                raise SpecError(f"{where} has {documents:,} different documents, fewer than k = {self.config.k:,}", ("k",))
            if self.config.rows and self.config.rows > queries:
                said = "one query" if queries == 1 else f"{queries:,} different queries"
                raise SpecError(f"{where} has {said}, fewer than {self.config.rows:,}", ("rows",))
        if self.config.by and not any(getattr(pair, self.config.by) for pair in pairs):
            raise SpecError(f"no pair of the {split} split has a {self.config.by}", ("by",))

    def __call__(self, model: Model, dataset: Any, given: Given) -> Findings:
        """The metrics; a table by width and form, by label, and of the matrix."""
        options, parts = self.config, collection.by_part(dataset.pairs(given.split), self.config.rows)
        found = [self._of_part(model, dataset, given, part, asked) for part, asked in parts.items()]
        about_Q = [pair for asked in parts.values() for pair in asked.about_Q]
        weight_Q = torch.cat([torch.full_like(each.query_QE[:, 0], 1 / len(each.query_QE)).double() for each in found])
        quality = {
            key: {name: torch.cat([each.quality[key][name] for each in found]) for name in found[0].quality[key]}
            for key in found[0].quality
        }
        mean = lambda values_Q: float(values_Q @ weight_Q) / len(found)  # noqa: E731
        values = self._by_query(quality)
        table: list[dict[str, Any]] = [
            {"width": width, "form": form, "bytes": found[0].bytes.get((width, form))}
            | {name.partition("@")[0] if name == self._ndcg else name: mean(values_Q) for name, values_Q in each.items()}
            for (width, form), each in quality.items()
        ]
        if options.by:
            labels = [getattr(pair, options.by) for pair in about_Q]
            table += [
                {"label": label, "width": width, "queries": queries, "label_ndcg": ndcg}
                for (width, form), each in quality.items()
                if form == FLOAT
                for label, queries, ndcg in collection.by_label(labels, each[self._ndcg])
            ]
        first = next(iter(parts.values()))
        table += _matrix(first, found[0].query_QE, found[0].document_NE, options.matrix)
        whole = found[0].query_QE.shape[1]
        named = dict(zip(parts, found, strict=True))
        own = {
            f"retrieval_{self._ndcg}_of_{part}": float(named[part].quality[whole, FLOAT][self._ndcg].mean())
            for part in options.parts
        }
        sizes = {f"retrieval_bytes_{form}": float(found[0].bytes[whole, form]) for form in options.quantise}
        return Findings(
            {name: mean(values_Q) for name, values_Q in values.items()}
            | {"retrieval_bytes": float(found[0].bytes[whole, FLOAT])}
            | sizes
            | own,
            table,
            text=self._who_wins(values, mean) if options.bm25 else "",
            documents=collection.by_unit(about_Q, weight_Q, values) if given.split == "report" else None,
            points=_points(parts, found, options.keep) if given.folder is not None and options.keep else None,
        )

    def _of_part(self, model: Model, dataset: Any, given: Given, part: str, asked: Collection) -> "_Part":
        """Everything that is measured of one part of the data."""
        options = self.config
        query_QE = vectors(model, dataset, asked.queries, "query", part, given, options.context)
        document_NE = vectors(model, dataset, asked.documents, "document", part, given, options.context)
        widths = sorted({*options.dims, query_QE.shape[1]})
        found = _Part(query_QE, document_NE)
        for width in widths:
            short_QE, short_NE = truncated(query_QE, width), truncated(document_NE, width)
            for form in (FLOAT, *options.quantise):
                made = index(form, short_QE, short_NE, options.shortlist)
                found.quality[width, form], found.bytes[width, form] = self._quality(asked, made.scores, query_QE), made.bytes
        if options.bm25:
            tokens = options.context or given.context
            whole = asked.queries, asked.documents
            read = (dataset.within(asked.queries, "query", tokens, part), dataset.within(asked.documents, "document", tokens, part))
            by_words = lambda texts: self._quality(asked, in_turn(bm25.scores(*texts), query_QE.device), query_QE)  # noqa: E731
            words = by_words(whole)
            lines = {BM25: words, CUT: words if read == whole else by_words(read)}
            found.quality |= {(width, name): line for name, line in lines.items() for width in widths}  # at one height over all
        return found

    def _quality(self, asked: Collection, scores: Scores, query_QE: Tensor) -> dict[str, Tensor]:
        """{what: (Q,)} of a ranking, query by query."""
        of = ranked(scores, asked.pair_P2.to(query_QE.device), len(asked.queries), len(asked.documents))
        k = self.config.k
        return {self._ndcg: of.ndcg(k), "mrr": of.reciprocal(), "recall@1": of.recall(1), f"recall@{k}": of.recall(k)}

    def _by_query(self, quality: Mapping[tuple[int, str], dict[str, Tensor]]) -> dict[str, Tensor]:
        """{metric: (Q,)}, all but the bytes."""
        options, ndcg, width = self.config, self._ndcg, max(width for width, _ in quality)
        values = {f"retrieval_{name}": values_Q for name, values_Q in quality[width, FLOAT].items()}
        values |= {f"retrieval_{ndcg}_dim{each}": quality[each, FLOAT][ndcg] for each in options.dims}
        values |= {f"retrieval_{ndcg}_{form}": quality[width, form][ndcg] for form in options.quantise}
        if options.bm25:
            words = quality[width, BM25]
            values |= {"bm25_mrr": words["mrr"], f"bm25_{ndcg}": words[ndcg]}
            values["retrieval_over_bm25"] = values[f"retrieval_{ndcg}"] - words[ndcg]
            values[f"bm25_{ndcg}_cut"] = quality[width, CUT][ndcg]
            values["retrieval_over_bm25_cut"] = values[f"retrieval_{ndcg}"] - values[f"bm25_{ndcg}_cut"]
        return values

    def _who_wins(self, values: Mapping[str, Tensor], mean: Callable[[Tensor], float]) -> str:
        """A sentence or two on the encoder and BM25, on the same queries and documents."""
        ours_Q, theirs_Q = values[f"retrieval_{self._ndcg}"], values[f"bm25_{self._ndcg}"]
        ours, theirs = mean(ours_Q), mean(theirs_Q)
        first = "The encoder and BM25 are even" if ours == theirs else "The encoder wins" if ours > theirs else "BM25 wins"
        read = mean(values[f"bm25_{self._ndcg}_cut"])
        cut = "" if read == theirs else f", or {read:.3f} where BM25 reads no more of each text than the encoder"
        better, worse, queries = int((ours_Q > theirs_Q).sum()), int((ours_Q < theirs_Q).sum()), len(ours_Q)
        return (
            f"{first}: nDCG@{self.config.k} is {ours:.3f} for the encoder and {theirs:.3f} for BM25{cut}. Of {queries:,} queries, "
            f"the encoder ranks {better:,} better and BM25 {worse:,}; {queries - better - worse:,} are equal"
        )


@dataclass(eq=False)
class _Part:
    """The vectors of one part, and what was measured with them. quality: {(width, form): {what: (Q,)}}. bytes: of a document."""

    query_QE: Tensor
    document_NE: Tensor
    quality: dict[tuple[int, str], dict[str, Tensor]] = field(default_factory=dict)
    bytes: dict[tuple[int, str], int] = field(default_factory=dict)


def _matrix(asked: Collection, query_QE: Tensor, document_NE: Tensor, most: int) -> Iterator[dict[str, Any]]:
    """Yields a row per cell: the cosine of a query and of the document that answers another; both numbered from 1.

    The queries are chosen by the digest of their text: neighbours in a split are often of one group, and alike.
    """
    chosen = sorted(range(len(asked.queries)), key=lambda number: collection.digest(asked.queries[number]))[:most]
    answer_ME = document_NE[[asked.answers[number] for number in chosen]]
    for query, row in enumerate((query_QE[chosen] @ answer_ME.T).tolist(), 1):
        yield from ({"query": query, "document": document, "cosine": cosine} for document, cosine in enumerate(row, 1))


def _points(parts: Mapping[str, Collection], found: Sequence[_Part], most: int) -> Points:
    """The vectors of so many documents, chosen by the digest of their text, with what is known of each."""
    about = [pair for asked in parts.values() for pair in asked.about_N]
    chosen = sorted(range(len(about)), key=lambda number: collection.digest(about[number].positive))[:most]
    vectors_NE = torch.cat([each.document_NE for each in found])[chosen]
    kept = [about[number] for number in chosen]
    columns = {
        "text": [pair.positive for pair in kept],
        "query": [pair.query for pair in kept],
        **{name: [getattr(pair, name) for pair in kept] for name in ("label", "group", "part")},
    }
    return Points(vectors=vectors_NE.tolist(), columns={name: each for name, each in columns.items() if any(each)})
