"""What the parts of Archbench promise each other: read this page first.

Every kind of component is a class in a file of its own, marked with its kind (`@mixer`, `@objective`, ...). A nested
`Config(Spec)` holds its options; a spec names it by `type`. These Protocols say what each kind must offer. Nothing
inherits from them: a class that has the attributes and methods satisfies the contract. Torch is not imported here.

| kind | folder | used by |
|---|---|---|
| mixer, ffn | `arch/mixers/`, `arch/ffns/` | the blocks of a model |
| cross | `arch/crosses/` | the blocks of a decoder beside an encoder |
| pool | `arch/pools/` | the vector that a model gives of a text |
| tower | `arch/towers/` | the soft tokens that a model reads in place of an image |
| quantiser | `arch/quantisers/` | the weights that a model computes with |
| optimizer, schedule | `experiments/optimizers/`, `experiments/schedules/` | a training step |
| source, tokenizer | `experiments/data/sources/`, `experiments/data/tokenizers/` | the data of a run |
| objective | `experiments/objectives/` | training, and the evaluator `objective` |
| evaluator | `experiments/evaluators/` | what is measured of a model; no part of a run's identity |
| merge | `experiments/merges/` | how the weights of several runs become one (`init_from`) |
| reward | `experiments/rewards/` | how good an answer to a prompt is |
| claim | `sweeps/claims/` | the verdicts of a study |

Where a null option of a mixer, ffn, cross or pool follows from the model's width D, the optional `Config.at_width(D)` is the same
config with such options written out. So a spec that leaves them out and one that says them are known to be the same model.

A component may *need* something of the model that it meets. `needs` is a set of the words in CAPABILITIES. Planning
refuses a combination that cannot work, at the spec's line that asks for it.

Shapes: B rows, T tokens, D model width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

from arch.spec import List, Spec, later

if TYPE_CHECKING:
    from pathlib import Path

    import tokenizers
    from torch import Tensor, nn
    from torch.optim import Optimizer as TorchOptimizer

    from arch.encoded import Encoded
    from arch.layout import TokenLayout
    from arch.model import Model
    from arch.model_spec import ModelSpec
    from experiments.data.batch import Batch
    from experiments.data.pair import Pair
    from experiments.spec import DataSpec, ExperimentSpec

# What a run can offer, and so what a component may need of it.
CAPABILITIES = {
    "causal": "no token depends on a later one",
    "sees_ahead": "some token depends on a later one",
    "decodes": "it can go on token by token from a state",
    "encodes": "it gives one vector per text (it has a pool)",
    "encoder_decoder": "it has an encoder beside its decoder",
    "text": "its data has a tokenizer",
    "teacher": "its objective learns from a teacher",
    "exact": "the true probability of each target of its data is known",
    "recalls": "each target of its data repeats what came before in its row",
    "attends": "a layer's mixer shows what its attention weights are computed from (`attending`)",
    "decays": "a layer's mixer has a state that decays, and shows how fast (`decaying`)",
    "answers": "its data are prompts with answers",
    "pairs": "its data are pairs of texts",
    "rows": "its data are rows of tokens, of which each predicts the next",
    "images": "its data have images",
}


class Mean(NamedTuple):
    """A quantity that adds up over rows: its value is sum / weight, of all rows together.

    sum: a scalar tensor. weight: what it is averaged over (tokens, bytes, rows), a number or a scalar tensor.
    """

    sum: Tensor
    weight: Tensor | float


class Metric(Spec):
    """What a named number is, so that tables, claims, plots and TensorBoard need not know its name.

    unit: as printed, e.g. `nats per token`; empty for a bare number. better: which way is better; `neither` for a
    number that is only shown. compare: how two values are compared and shown:

    | compare | for | difference of a from b | shown as |
    |---|---|---|---|
    | `log` | a logarithm (a loss in nats) | a - b | e^(a - b) - 1, in % |
    | `ratio` | a positive quantity (perplexity, bytes, seconds) | log a - log b | a / b - 1, in % |
    | `difference` | anything else (accuracy) | a - b | a - b, in its unit |

    exponential: what e^value is called, for `log` (the perplexity of a loss).
    any_tokenizer: whether runs with different tokenizers can be compared (bits per byte; not nats per token).
    varies: with what two measurements of one spec differ: with the `seed`; with the `machine` and what else runs on it (a
    time; a study that claims or seeks such a metric does its runs one at a time); or `never` (a count: one run decides).
    """

    unit: str = ""
    better: Literal["lower", "higher", "neither"] = "lower"
    compare: Literal["log", "ratio", "difference"] = "difference"
    exponential: str = ""
    any_tokenizer: bool = later(False)
    varies: Literal["seed", "machine", "never"] = later("seed")


class Chart(Spec):
    """How a table of `Findings` is drawn, so that reports and TensorBoard need not know the evaluator.

    | kind | a row of the table is |
    |---|---|
    | `curve` | a point: column `y` over column `x`; one line per value of `by` |
    | `grid` | a cell: the colour is column `value`, at `x` (columns) and `y` (rows); one grid per value of `by` |
    | `histogram` | a bar from column `x` to column `to` of the height `y`; one panel per value of `by` |

    Columns hold numbers; `by` may hold text. Rows where a drawn column is None are left out. labels: {column: what stands
    at its axis, with its unit}. log: columns whose axis is logarithmic. bounds: {column: [lowest, highest]} of a quantity
    that has them (an accuracy: [0, 1]). title: what the picture shows, a few words.
    """

    kind: Literal["curve", "grid", "histogram"]
    x: str
    y: str
    value: str = ""
    to: str = ""
    by: str = ""
    title: str = ""
    labels: dict[str, str] = {}
    log: List[str] = ()
    bounds: dict[str, List[float]] = {}


class Attending(NamedTuple):
    """What a layer's attention weights are computed from: query t sees key s with p = softmax over s of cap(scale q_t k_s).

    Only over the keys whose index is in [low_BT[b, t], high_BT[b, t]]. q_BTHC, k_BTKC: as the layer uses them, normalised
    and rotated; each of the K key heads serves H / K query heads in a row. softcap: c in cap(z) = c tanh(z / c), or None.
    """

    q_BTHC: Tensor
    k_BTKC: Tensor
    low_BT: Tensor
    high_BT: Tensor
    scale: float
    softcap: float | None = None


class Decaying(NamedTuple):
    """How fast a layer's state decays: h_t = a_t h_{t-1} + ..., channel by channel, where no document begins.

    log_a_BTR: log a_t of these tokens. log_a_R: the log of the fastest decay, which an open gate gives (at most 0).
    """

    log_a_BTR: Tensor
    log_a_R: Tensor


class Mixer(Protocol):
    """Mixes information over time; an `nn.Module`. `__init__(config, context)`, see `arch.parameters.Context`.

    What it says here is checked before it is trained (`arch.probe`).
    causal: whether no token depends on a later one. reach (optional): (before, after), how many tokens before and after
    itself a token may see in its document; None for all. state_size: how the state grows with the tokens seen: `constant`,
    `window`, `growing`, or None where there is no state because the mixer sees ahead; a causal mixer has one.
    """

    causal: bool
    state_size: Literal["constant", "window", "growing"] | None

    def init_state(self, batch: int, capacity: int, dtype: Any = ..., device: Any = ...) -> Any:
        """The state before the first token, for `batch` streams of up to `capacity` tokens: tensors, rows first."""

    def mixing_flops(self, layout: TokenLayout) -> int:
        """FLOPs of the mixing itself over all visible pairs, a multiply-add counted as 2; maps are counted elsewhere."""

    def attending(self, x_BTD: Tensor, layout: TokenLayout) -> Attending:
        """Optional, of a mixer with attention weights: what they are computed from, for whole packed rows."""

    def decaying(self, x_BTD: Tensor, layout: TokenLayout) -> Decaying:
        """Optional, of a mixer whose state decays: how fast, for whole packed rows."""

    def forward(self, x_BTD: Tensor, layout: TokenLayout, state: Any = None) -> tuple[Tensor, Any]:
        """(y_BTD, new state). Without a state: whole packed rows. With one: T >= 1 further tokens of each row."""


class Cross(Protocol):
    """Reads an encoder; an `nn.Module`. `__init__(config, context)`, where `context.source_dim` is the width of its states.

    A mixer may do that too, as a part of itself: one whose class says `reads_encoder = True` gets the `Encoded` after the state,
    and has `keys_values` and `reading_flops` as well.
    """

    def keys_values(self, encoded: Encoded) -> Any:
        """What it keeps of a source while it decodes: tensors, rows first, computed once (`Encoded.kept`)."""

    def reading_flops(self, tokens: int, source: int) -> int:
        """FLOPs over so many tokens of target and source, beside 2 per weight of a matrix and token of the target."""

    def forward(self, x_BTD: Tensor, layout: TokenLayout, encoded: Encoded) -> Tensor:
        """y_BTD. A token sees the tokens of its own document's source (`Encoded.seen_BTS`); without one, y is finite."""


class FFN(Protocol):
    """Works on each token alone; an `nn.Module`. `__init__(config, context)`."""

    def forward(self, x_BTD: Tensor) -> Tensor:
        """y_BTD."""


class Pool(Protocol):
    """Makes one vector of the hidden states of a text; an `nn.Module`. `__init__(config, context)`, of the model's first layer."""

    def pooling_flops(self, layout: TokenLayout) -> int:
        """Optional. FLOPs over these rows, a multiply-add counted as 2. Without it: 2 per weight of a matrix and token."""

    def forward(self, hidden_BTD: Tensor, layout: TokenLayout) -> Tensor:
        """A vector per row (B, D), in the type of the hidden states; each row is one text, padded on the right.

        It depends on no padding (`layout.seen_BT`), whatever is there. A row that is all padding gives finite numbers.
        """


class Tower(Protocol):
    """Makes soft tokens of images; an `nn.Module`. `__init__(config, context)`, of the model's first layer.

    Its Config has at least image_size (the side of the square that it takes, in pixels), tokens (of an image), frozen, spans,
    placeholder, start and end, as `arch.towers.siglip` explains them. encoder: the part that `frozen` leaves as it is.
    """

    encoder: nn.Module

    def image_flops(self) -> dict[str, int]:
        """FLOPs of the forward pass of one image, a multiply-add counted as 2: {encoder, projection}."""

    def forward(self, pixels_N3SS: Tensor) -> Tensor:
        """Soft tokens (N, tokens, D) of N images with values in [-1, 1], at the scale of scaled embeddings."""


class Quantiser(Protocol):
    """How a matrix of weights is stored in fewer bits, and what it then is. `__init__(config)`.

    Its rows are output channels, its columns inputs. Every method takes matrices (N, D) of any float type; values are float32.
    multiple: D must be a multiple of it.
    """

    multiple: int

    def bytes(self, rows: int, width: int) -> int:
        """Of a packed matrix, scales included: exactly what `pack` gives."""

    def pack(self, weight: Tensor) -> dict[str, Tensor]:
        """{name: tensor} of what is stored."""

    def unpack(self, packed: dict[str, Tensor], width: int) -> Tensor:
        """The values (N, D) of a packed matrix with rows of this width."""

    def rounded(self, weight: Tensor) -> Tensor:
        """`unpack` of `pack`, bit for bit, without the packing: what a model computes with."""

    def clipped(self, weight: Tensor) -> Tensor | None:
        """Which weights get no gradient through the rounding (N, D), because they are clipped; None for none."""


@dataclass(frozen=True)
class Referred:
    """A run that a component's option names, as it is known when a run is planned.

    name: in words. model, data: its resolved specs; data is None for a checkpoint that is no run. tokenizer: None where
    its data has none, or none is in the checkpoint. folder: where its weights are; empty while they are to be made.
    """

    name: str
    model: ModelSpec
    data: DataSpec | None
    tokenizer: tokenizers.Tokenizer | None
    folder: str = ""


@dataclass(frozen=True)
class Reading:
    """What a run will read while it trains: `steps` steps of `rows` rows of `context` tokens, with its seed.

    device: where to compute. progress: called now and then with (done, total, what is counted).
    """

    dataset: Dataset
    seed: int
    steps: int
    rows: int
    context: int
    device: Any
    progress: Callable[[int, int, str], None]


class Objective(Protocol):
    """What training minimises; an `nn.Module`. `__init__(config, dataset)`.

    Everything that it trains belongs to the model and the model's spec. What it holds without training it (a frozen
    teacher) is held without being registered as a submodule, and so is in no checkpoint.
    needs: capabilities of the model. metrics: every number that `forward` or `derive` returns.
    runs (optional): options that name a run whose weights it uses (type `experiments.spec.Reference`, with the marker
    `place`): such an objective is made by `__init__(config, dataset, runs)`, {option: folder of its checkpoint}; an option
    that is null, or of another type, names none, and where none is named, `runs` is left out. The run is made first if it must
    be, and what it is belongs to the identity of the run that uses it.
    reads_images (optional): whether it gives a model the images of its rows; planning refuses another one for data with images.
    measured_by (optional): the type of the objective whose metrics the evaluator `objective` reports, where training
    minimises something else: a student is measured by `next_token`.
    """

    needs: frozenset[str]
    metrics: Mapping[str, Metric]

    @classmethod
    def check(cls, config: Any, spec: ExperimentSpec, dataset: Dataset, runs: Mapping[str, Referred]) -> None:
        """Optional. Called when a run is planned. Raises SpecError, at a key of the config, for what cannot work.

        Raises DataError, with its key, where another section of the spec is at fault.
        """

    @classmethod
    def costs(cls, config: Any, spec: ExperimentSpec, dataset: Dataset, runs: Mapping[str, Referred]) -> dict[str, float]:
        """Optional. What it costs beside the model's own step: {NAME: number}, summed up where a run's cost is shown.

        flops: of the whole run. disk_bytes: what is kept on disk beside the run's folder, a cache. Others are only shown.
        """

    @classmethod
    def decides(cls, config: Any, dataset: Dataset, runs: Mapping[str, Referred]) -> dict[str, Any]:
        """Optional. What decides the result beside its options and the weights of the runs that it uses, as plain data: part of
        the identity. Such as the contents of files that an option names."""

    def begin(self, reading: Reading) -> None:
        """Optional. Called once before the first step, also of a resumed run: what is best done for all steps at once."""

    def kept(self) -> dict[str, Tensor]:
        """Optional. What a checkpoint keeps of the objective, so that an interrupted run goes on as if nothing had happened."""

    def restore(self, kept: dict[str, Tensor]) -> None:
        """Optional. Takes over what `kept` gave, before the first step of a resumed run."""

    def prepare(self, model: Model, batch: Batch) -> Batch:
        """Optional. Called once per step with all rows of this device, without a gradient. Returns the batch to train on.

        For what depends on other rows, or must not be repeated: sampling, cache look-ups, gathering negatives. `batch.parts`
        says into how many micro-batches the rows are split afterwards.
        """

    def forward(self, model: Model, batch: Batch) -> dict[str, Mean]:
        """{metric: Mean}, additive over rows. `loss` is differentiated; its weights add up to `batch.weight`."""

    def by_position(self, model: Model, batch: Batch) -> dict[str, Mean]:
        """Optional. The means of `forward` before they are summed: each sum and weight is a tensor (B, T), 0 where there is none.

        Of the rows of the kind `text`, without a gradient. From it, reports say what each document contributes.
        """

    def derive(self, values: dict[str, float]) -> dict[str, float]:
        """Optional. The metrics of a whole split from the values of its means (perplexity from loss)."""


class Source(Protocol):
    """Where data comes from. `__init__(config)`. It offers one of the three methods.

    documents: texts, which `data.tokenizer` turns into a corpus. pairs: pairs of texts, each text a row of its own in the tokens of
    `data.tokenizer`. dataset: rows of its own; it takes no tokenizer, unless its class says `tokenizes = True`: then it needs
    `data.tokenizer` and makes its rows from texts, of which `texts` may say the (resolved) source.
    The `Config` of a source of pairs adds its options to those that all have (`experiments.data.pair.PairOptions`): prompts, and
    hard negatives to be mined; `texts` then is the source without these, so that its pairs are read once whatever they are. A
    mixture has `parts()`, {name: `experiments.data.pair.Part`}, and each of its pairs names its part.
    A source of texts may also offer `files()`, every file that it reads (None: it cannot say): texts are then read again only
    if one changed. `planted()`, {repetitions: documents} that its texts hold so often, 0 for those that they do not. One whose
    class says `repeats = True` has the same document several times on purpose; tokenizers learn from each once. And
    `left_out` (`experiments.data.left_out.LeftOut`), what `documents` left out, which a run's record counts.
    A source of rows whose class says `exact = True` knows the true probability of each target: its rows have
    `extra["nats"]` (B, T), -log of it, 0 where there is no target. One whose class says `recalls = True` asks in each target
    for something that came before in the row: `extra["distance"]`, the tokens from there to the question, and
    `extra["pairs"]`, among how many such things the answer is, both (B, T), 0 where there is no target. One whose class says
    `images = True` has pictures: its rows have `extra["images"]` (B, I, 3, S, S) and a layout that says where they are, its
    Config `image_size` and `tokens`, it `image_places(context)`, which image each token of a row is of (1, T), its dataset
    `spelt(tokens)`, an answer as text; `image_tokens`, {placeholder, start, end: the token}, where these are fixed. A dataset
    of which no token of an answer sees an earlier one has `answer_token`, the token that stands at each place of an answer:
    what a trained model reads in place of what it wrote. One whose class says `answers = True` gives prompts with answers: its
    dataset is an `experiments.data.exchanges.Exchanges`.
    """

    def documents(self) -> Iterable[tuple[str, str]]:
        """Yields (name, text). The name is for messages. Raises DataError for what cannot be read."""

    def pairs(self) -> Iterable[Pair]:
        """Yields `experiments.data.pair.Pair`s. Raises DataError for what cannot be read."""

    def dataset(self, data: DataSpec) -> Dataset:
        """The dataset, for the context and rows of the data section. Raises DataError."""


class Dataset(Protocol):
    """Gives batches: a tokenized corpus is one, a generated task another.

    fingerprint: digest (hex) of all that decides its rows beside its source's code. vocabulary: number of token ids.
    tokenizer: None where there is no text. One with `long_documents` has `context`, the tokens per row in training. One of
    texts may have `begin`, the id of the token that begins a text (else `<bos>`), and `notes`, sentences for a run's record.
    One of pairs (`experiments.data.pairs.Pairs`) has the kinds `query`, `positive` and, of all rows or none, `negative`; also
    `prompts`, `pairs(split)`, the texts, and `encoded(texts, kind, context)`, any texts as rows.
    """

    fingerprint: str
    vocabulary: int
    tokenizer: tokenizers.Tokenizer | None

    def batch(self, split: str, step: int, seed: int, rows: int, context: int) -> Batch:
        """The rows that step `step` (from 0) reads: a pure function of the arguments. Raises DataError."""

    def evaluation(self, split: str, rows: int, context: int, batch_rows: int) -> Iterator[Batch]:
        """Yields `rows` rows in batches of at most `batch_rows`: the same for every arm and every seed. Raises DataError."""

    def long_documents(self, split: str, rows: int, context: int, batch_rows: int) -> Iterator[Batch]:
        """Optional. Yields rows that are the first `context` tokens of a document each, at most `rows` of them.

        Of documents that have so many tokens, always the same ones. Raises DataError where there is none.
        """

    def rows(self, split: str, context: int) -> int:
        """Optional. The number of rows of `context` tokens, where they have an end; training then reads them again."""

    def numbers(self, split: str, steps: int, seed: int, rows: int, context: int) -> Any:
        """Optional. The numbers (`Rows.key_B`) of all rows that `steps` steps read, ascending, each once: (N,) int64."""

    def numbered(self, split: str, numbers: Any, context: int) -> Batch:
        """Optional. The rows with these numbers. With `numbers`, rows can be computed beforehand and kept."""

    def planted(self) -> Mapping[int, Sequence[Any]]:
        """Optional. {repetitions: (T,) tokens of each document that is planted so often in what is trained on}; 0: held out."""

    def documents(self, split: str) -> Sequence[str]:
        """Optional. The name of each document of a split, equal for equal texts; `Rows.document_BT` of `evaluation` counts them."""

    def summary(self) -> dict[str, Any]:
        """Plain data for a run's record."""


class Tokenizer(Protocol):
    """Text to tokens. `__init__(config)`.

    Optional: `specials`, {bos, eos, unk: the name of the token that stands before and after a document, and of the one for
    unknown text; None for none}; without it they are `<bos>`, `<eos>` and `<unk>`. `content()`, a digest of the file that it
    reads.
    """

    def train(self, texts: list[str]) -> tokenizers.Tokenizer:
        """A tokenizer of the `tokenizers` library, trained on these texts or read from a file."""

    def byte_lengths(self, trained: tokenizers.Tokenizer) -> Any:
        """(V,) int64: the UTF-8 bytes that each token stands for, 0 for specials."""


@dataclass(frozen=True)
class Given:
    """What an evaluator gets beside the model and the dataset.

    objective: the run's objective. reported: the one whose metrics are reported: itself, or its `measured_by`. split:
    `select` or `report`. context, rows: tokens per row and rows per batch in training.
    device: where to compute. seed: the run's seed. An evaluator that draws numbers uses generators of its own.
    folder: of the finished run or checkpoint; None where the run still trains.
    """

    objective: Any
    reported: Any
    split: str
    context: int
    rows: int
    device: Any
    seed: int
    folder: Path | None = None


class Documents(Spec):
    """What was measured of each document, one number per document: the texts are a sample too, as the seeds are.

    names: as `Dataset.documents` gives them. sums, weights: of each mean of the objective. without: of each metric, its
    value for all other documents together. called: what they are, in the plural; `groups` of texts, for example.
    """

    names: list[str]
    sums: dict[str, list[float]]
    weights: dict[str, list[float]]
    without: dict[str, list[float]] = {}
    called: str = later("documents")


class Points(Spec):
    """Vectors to be looked at, with what is known of each: TensorBoard's projector shows them.

    vectors: one list of numbers per point. columns: {what: a text per point}, at least one.
    """

    vectors: list[list[float]]
    columns: dict[str, list[str]]


class Picture(Spec):
    """A small picture that a model was shown. png: the file, as base64. text: what it said, and what is right."""

    png: str
    text: str


class Findings(NamedTuple):
    """What an evaluator measured. values: {metric: number}. table: plain rows of a curve or a grid. text: to be read.

    documents, points: are kept in files of their own, beside the record. pictures: few and small, for the report.
    """

    values: dict[str, float]
    table: list[dict[str, Any]] = []
    text: str = ""
    documents: Documents | None = None
    points: Points | None = None
    pictures: Sequence[Picture] = ()


class Evaluator(Protocol):
    """Measures a trained model. `__init__(config)`. Its numbers are named SPLIT/METRIC in a run's record.

    needs: capabilities of the model; planning refuses the evaluator where they are missing. metrics: every number that
    it returns; the evaluator `objective` has those of the objective and declares None. charts (optional): how its table is
    drawn, a picture each. reads_images (optional): whether it gives the model the images of its rows, or reads no rows of the
    data; planning refuses another one for data with images.
    """

    needs: frozenset[str]
    metrics: Mapping[str, Metric] | None
    charts: Sequence[Chart] = ()

    def check(self, dataset: Dataset, split: str) -> None:
        """Optional. Called when a run is planned. Raises SpecError, at a key of the config, for what this split cannot give."""

    def check_model(self, model: ModelSpec) -> None:
        """Optional. Called when a run is planned. Raises SpecError, at a key of the config, for what this model cannot do."""

    def __call__(self, model: Model, dataset: Dataset, given: Given) -> Findings:
        """Called in evaluation mode, without gradients. The process's random state is restored afterwards."""

    def flops(self, model: ModelSpec, rows: int, context: int) -> float:
        """Optional. About how many FLOPs it computes, for the estimate of a study's time; by default those of a pass over as many
        rows as its option `rows` says. rows, context: of a step of training."""

    def lasting(self, table: list[dict[str, Any]]) -> bool:
        """Optional. Whether what a measurement with this table left beside its record is still there; else it is done again."""


class Merge(Protocol):
    """How the weights of several runs become one, parameter by parameter. `__init__(config)`."""

    @classmethod
    def check(cls, config: Any, count: int, has_start: bool) -> None:
        """Called when a run is planned. Raises SpecError, at a key of `init_from`, for a number of runs that it cannot merge.

        has_start: whether the spec names what the runs started from.
        """

    def __call__(self, name: str, several: list[Tensor], start: Tensor | None) -> Tensor:
        """The merged parameter, in float64, from those of the runs in their order. Raises ValueError where there is none."""


class Reward(Protocol):
    """How good an answer is. `__init__(config)`. What it raises ends the run, whose record says so."""

    def __call__(self, prompt: str, answer: str, reference: str) -> float:
        """A finite number; more is better. reference: an answer that is known to be right."""


class Optimizer(Protocol):
    """Makes a torch optimizer. `__init__(config)`; `config.lr` is the peak rate, `config.clip` the largest gradient norm."""

    def build(self, parameters: Iterable[tuple[str, nn.Parameter]]) -> TorchOptimizer:
        """The optimizer of these named parameters. Kind and treatment are facts of a parameter (`arch.parameters`)."""


class Schedule(Protocol):
    """The learning rate over a run. `__init__(config)`."""

    def __call__(self, step: int, steps: int, peak: float) -> float:
        """The rate at optimizer step `step` (from 0) of `steps`: a pure function."""


class Family(Protocol):
    """How others store a model; a module in `arch/families/`. NAMES: {our name: theirs, or an `As`}.

    A class `Config`, if there is one, reads their config.json as a spec (`spec()`) and writes it (`of(spec)`).
    """

    NAMES: Mapping[str, Any]


# The words that every claim shares. A claim of one's own may use others, which count as decided.
UNDECIDED, UNSTABLE = "undecided", "unstable"


@dataclass(frozen=True)
class SeedsNeeded:
    """How many seeds would decide a question with a probability of 80 %, if the difference stays as observed.

    word: what they would decide. seeds: for the spread as observed; low, high: for the ends of its 80 % interval.
    Infinite: more than can be said.
    """

    word: str
    seeds: float
    low: float
    high: float


@dataclass(frozen=True)
class Verdict:
    """What a claim says of one subject: an arm, or several together.

    word: the verdict, shown as `SUBJECT is WORD`; UNDECIDED: more seeds may decide; every other word is final, and the
    study runs no more seeds for it. against: the arm that it is compared with. difference, interval, inner: on the scale
    of `sweeps.compare`. The word follows from the intervals, which have the level of the look: `interval` for a
    difference, `inner` for lying within a margin. p, p_same: of the tests behind them; each decides if it is at most
    `level`. p of a claim that is contradicted is that of the test which contradicts it. n: the seeds behind it. needed: what
    would decide an undecided subject; None if seeds would not, or if it is unknown. reason: why the subject is undecided, or
    a caveat; a clause without a full stop.
    """

    word: str
    p: float | None = None
    p_same: float | None = None
    needed: SeedsNeeded | None = None
    reason: str = ""
    against: str = ""
    difference: float | None = None
    interval: tuple[float, float] | None = None
    inner: tuple[float, float] | None = None
    n: int = 0
    level: float | None = None

    @property
    def decided(self) -> bool:
        """Whether the word is final."""
        return self.word != UNDECIDED


@dataclass(frozen=True)
class Measured:
    """One metric of several arms: {arm: {seed: value}}. exact: computed and not measured, the same for every seed.

    first_seeds: {arm: the seed from which its seeds count}, where that is not 0. Arms with the same first seed are compared
    within seeds, others as independent samples (`sweeps.paired.difference`).
    """

    metric: Metric
    values: Mapping[str, Mapping[int, float]]
    exact: bool = False
    first_seeds: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Evidence:
    """What a claim judges at a look: the seeds up to this look.

    measured: {metric: Measured} of every metric that the claim names; the arms in the study's order, the baseline first.
    A run that did not finish has no value; an arm that lost runs which others finished has none at all. level: the
    probability of a wrong word that each question may spend at this look. control: the same for a control, which is no
    question but a gate. before: verdicts decided at earlier looks; they stay.
    """

    measured: Mapping[str, Measured]
    level: float
    control: float
    before: Mapping[str, Verdict] = field(default_factory=dict)


class Claim(Protocol):
    """What a study claims, stated before its runs. `__init__(config)`; `config.metric` names the metric it is about.

    A claim asks one or more *questions*. All claims of a study together are wrong with a probability of at most 5 %, so
    each question may spend an equal part of it (docs/statistics.md).
    """

    def metrics(self) -> Collection[str]:
        """Optional. Every metric that it reads; by default `config.metric`."""

    def check(self, arms: Collection[str]) -> None:
        """Optional. Called when the study is planned. Raises SpecError, at a key of the config, for an unknown arm."""

    def questions(self, arms: Sequence[str]) -> Mapping[str, Collection[str]]:
        """Optional. {subject: the arms whose runs it needs}. By default every arm but the first, against the first."""

    def alike(self, arms: Sequence[str]) -> Sequence[Sequence[str]]:
        """Optional. Groups of arms that it compares with each other, so that they must be measured on the same rows.

        By default the arms of a question are one group. A claim on several tasks has a group for each of them.
        """

    def judge(self, evidence: Evidence) -> Mapping[str, Verdict]:
        """{subject: Verdict} of its questions, and of further arms that it has something to say of."""

    def statement(self, subject: str, verdict: Verdict, metric: Metric) -> str:
        """Optional. What is claimed of a subject, as a sentence without a full stop, for a claim that is true or false."""
