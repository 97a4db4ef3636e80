"""How fast a model samples, and what its state takes, against the number of tokens sampled (Griffin, figures 1b and 4)."""

import statistics
from dataclasses import dataclass, field
from typing import Annotated, Any

import torch
from pydantic import Field

from arch import cost, units
from arch.contracts import Chart, Dataset, Findings, Given, Metric
from arch.errors import DataError
from arch.generate import prefill
from arch.model import Model
from arch.model_spec import ModelSpec
from arch.registry import evaluator
from arch.spec import Count, List, Spec, later
from arch.words import times
from experiments import beside, state_size, turns

# Tokens that each number of streams decodes, untimed, before the first round: programs are compiled, caches are filled.
WARM_UP = 2
LATENCY, THROUGHPUT = "decode_latency_over_beside", "decode_throughput_over_beside"
# A decoded token reads all weights for few operations, so an estimate takes it to be slower than as many in training.
SLOWER = 2
TIME = Metric(compare="ratio", any_tokenizer=True, varies="machine")
RATE = TIME.model_copy(update={"better": "higher"})


@evaluator
class DecodeSpeed:
    """Latency and throughput of decoding after an empty and a long prompt, and the bytes of the state, measured.

    Every case (streams, prompt, tokens) is decoded greedily from a state of its own, with room for exactly its tokens. The
    cases take turns, every other round in the opposite order; a case's time is the median over rounds. The prompts are
    drawn tokens: what is decoded does not matter. Reading the prompt is timed apart. Another model beside this one (`beside`)
    does its own cases in the same turns; ratios to it are taken within a round.

    Unlike the metrics of other evaluators, the times differ from run to run and depend on the machine, its load and the
    number of threads (in `text`): a seed does not repeat them. They say something of another model only where both were
    measured on the same idle machine. The bytes are exact.

    | column | what it is |
    |---|---|
    | `seconds_per_token` | seconds from one token to the next, for all streams of the batch together: the latency |
    | `tokens_per_second` | tokens of all streams per second: the throughput |
    | `prefill_tokens_per_second` | prompt tokens read per second |
    | `state_bytes` | the tensors of the state after the last token, per stream; `foreseen_bytes`: what `archbench show` says |
    | `held_bytes` | the memory behind these tensors, per stream; `allocated_bytes`: on CUDA, what the allocator counts for it |
    | `over_beside` | the latency over that of the model beside, with as many streams, where that fits too |
    """

    class Config(Spec):
        """batches: numbers of streams. tokens: numbers of tokens sampled. prefills: lengths of the prompt; 0 is an empty one.

        repeats: rounds. memory: bytes that weights and states of all streams may take (by `arch.cost`); numbers of streams
        that do not fit at the longest case are left out, so that `decode_tokens_per_second` is of the best that fits. beside:
        dotted overrides of the model's spec, under which a model with initial weights decodes in turns: `{pattern: [global]}`.
        """

        batches: Annotated[List[Count], Field(min_length=1)] = (1, 16)
        tokens: Annotated[List[Count], Field(min_length=1)] = (16, 32, 64)
        prefills: Annotated[List[Annotated[int, Field(ge=0)]], Field(min_length=1)] = (0, 512)
        repeats: Count = 3
        memory: Count | None = later(None)
        beside: dict[str, Any] = later({})

    needs = frozenset({"decodes"})
    reads_images = True  # it reads no rows of the data
    metrics = {
        "decode_seconds_per_token": TIME.model_copy(update={"unit": "s per token"}),
        "decode_tokens_per_second": RATE.model_copy(update={"unit": "tokens/s"}),
        "decode_prefill_tokens_per_second": RATE.model_copy(update={"unit": "tokens/s"}),
        "decode_slowdown": TIME,
        "decode_state_bytes": Metric(unit="B", compare="ratio", any_tokenizer=True, varies="never"),
    }
    charts: tuple[Chart, ...] = (
        Chart(
            kind="curve",
            x="tokens",
            y="seconds_per_token",
            by="case",
            title="Latency of decoding",
            labels={"tokens": "tokens sampled", "seconds_per_token": "seconds per token"},
            log=("tokens",),
        ),
        Chart(
            kind="curve",
            x="tokens",
            y="tokens_per_second",
            by="case",
            title="Throughput of decoding",
            labels={"tokens": "tokens sampled", "tokens_per_second": "tokens per second, all streams"},
            log=("tokens", "tokens_per_second"),
        ),
        Chart(
            kind="curve",
            x="length",
            y="state_bytes",
            title="State of one stream",
            labels={"length": "tokens, prompt included", "state_bytes": "bytes"},
            log=("length", "state_bytes"),
        ),
    )

    def __init__(self, config: Config):
        self.config = config
        self.prompts, self.tokens = sorted(set(config.prefills)), sorted(set(config.tokens))
        if config.beside:
            ratios = {LATENCY: TIME, THROUGHPUT: RATE} | ({"decode_prefill_over_beside": RATE} if self.prompts[-1] else {})
            ratios |= {f"{LATENCY}@{prompt}": TIME for prompt in self.prompts}
            self.metrics = self.metrics | ratios | {f"{THROUGHPUT}@{tokens}": RATE for tokens in self.tokens}
            labels = {"tokens": "tokens sampled", "over_beside": "latency over that of the model beside"}
            title = "Latency over that of the model beside"
            self.charts += (
                Chart(kind="curve", x="tokens", y="over_beside", by="case", title=title, labels=labels, log=("tokens",)),
            )

    def check_model(self, model: ModelSpec) -> None:
        """Raises SpecError at the key of `beside` that the model cannot have."""
        beside.check(model, self.config.beside)

    def flops(self, model: ModelSpec, rows: int, context: int) -> float:
        """Those of every case, of the model beside too, as if as fast as a training step (see SLOWER)."""
        specs = beside.specs(model, self.config.beside)
        total = 0.0
        for prompt, tokens in ((prompt, tokens) for prompt in self.prompts for tokens in self.tokens):
            for each in specs:
                ideal = cost.outline(each, prompt + tokens)["flops_per_token"]["ideal"]
                total += prompt * ideal["prefill"] + SLOWER * tokens * ideal["decode"]
        return self.config.repeats * sum(set(self.config.batches)) * total

    def __call__(self, model: Model, dataset: Dataset, given: Given) -> Findings:
        """The metrics are of the longest prompt and the most tokens.

        `decode_seconds_per_token`: with the fewest streams. `decode_tokens_per_second`: with the number of streams that
        gives most. `decode_slowdown`: the latency after the longest prompt over that after the shortest, with the most
        streams; about 1 where the state does not grow. With a model beside, ratios to it: `decode_latency_over_beside` with the
        most streams that fit both, and after every prompt, `@PROMPT`; `decode_throughput_over_beside` with each model's own best
        number of streams, and for every number of tokens, `@TOKENS`; `decode_prefill_over_beside` of the prompt tokens read per
        second, with the most streams that fit both. Raises DataError where not even one number of streams fits `memory`.
        """
        vocabulary, device = dataset.vocabulary, model.embedding.device
        cases = self._cases(model)
        others = self._cases(beside.model_of(model, self.config.beside, given.seed)) if self.config.beside else []
        order = sorted([*cases, *others], key=_Case.key)  # a case and that of the model beside follow each other
        drawn = {batch: _prompts(batch, self.prompts[-1], vocabulary, given.seed) for batch in {case.batch for case in order}}
        prompts = {batch: prompt_BT.to(device) for batch, prompt_BT in drawn.items()}
        for each in {(id(case.model), case.batch): case for case in order}.values():
            _Case(each.model, each.batch, 0, WARM_UP, None).run(prompts[each.batch])
        for turn in range(self.config.repeats):
            for case in order if turn % 2 == 0 else reversed(order):
                case.run(prompts[case.batch])
        partners = {case.key(): case for case in others}
        values = self._values(cases) | (self._over(cases, partners) if partners else {})
        text = turns.conditions(device, model.embedding.dtype, self.config.repeats)
        return Findings(values, [case.row(partners.get(case.key())) for case in cases], text)

    def _cases(self, model: Model) -> list["_Case"]:
        """The cases of a model, with each number of streams that fits."""
        return [
            _Case(model, batch, prompt, tokens, state_size.foreseen(model, prompt + tokens))
            for batch in self._fitting(model)
            for prompt in self.prompts
            for tokens in self.tokens
        ]

    def _over(self, cases: list["_Case"], partners: dict[tuple[int, int, int], "_Case"]) -> dict[str, float]:
        """The ratios to the model beside."""
        values, most, longest = {}, self.tokens[-1], self.prompts[-1]
        shared = [case for case in cases if case.key() in partners]
        for prompt in self.prompts:
            for case in [case for case in shared if (case.prompt, case.tokens) == (prompt, most)][-1:]:
                other = partners[case.key()]
                values[f"{LATENCY}@{prompt}"] = values[LATENCY] = turns.ratio(case.seconds, other.seconds)
                if prompt and prompt == longest:
                    values["decode_prefill_over_beside"] = turns.ratio(other.prefill_seconds, case.prefill_seconds)
        for tokens in self.tokens:
            of = lambda each, at=(longest, tokens): [case for case in each if (case.prompt, case.tokens) == at]  # noqa: E731
            own, other = (max(of(each), key=lambda case: case.throughput) for each in (cases, partners.values()))
            faster = own.batch / other.batch * turns.ratio(other.seconds, own.seconds)
            values[f"{THROUGHPUT}@{tokens}"] = values[THROUGHPUT] = faster
        return values

    def _fitting(self, model: Model) -> list[int]:
        """The numbers of streams, ascending, that fit the given memory."""
        batches = sorted(set(self.config.batches))
        if self.config.memory is None:
            return batches
        weights = sum(weight.nbytes for weight in model.parameters())
        length = max(self.config.prefills) + max(self.config.tokens)
        stream = state_size.foreseen(model, length)
        assert stream is not None
        fitting = [batch for batch in batches if weights + batch * stream <= self.config.memory]
        if not fitting:
            raise DataError(
                f"weights ({units.size(weights)}) and a state of {length:,} tokens ({units.size(stream)}) for each of {batches[0]} "
                f"do not fit into memory = {units.size(self.config.memory)}",
                key=None,
            )
        return fitting

    def _values(self, cases):
        tokens, longest, shortest = self.tokens[-1], self.prompts[-1], self.prompts[0]
        most = [case for case in cases if case.tokens == tokens and case.prompt == longest]
        values = {
            "decode_seconds_per_token": most[0].latency,
            "decode_tokens_per_second": max(case.throughput for case in most),
            "decode_state_bytes": state_size.each(most[0].state, most[0].batch),
        }
        if longest:
            values["decode_prefill_tokens_per_second"] = max(case.reading for case in most)
        if longest > shortest:
            before = next(c for c in cases if (c.batch, c.tokens, c.prompt) == (most[-1].batch, tokens, shortest))
            values["decode_slowdown"] = most[-1].latency / before.latency
        return values


@dataclass
class _Case:
    """One number of streams, length of the prompt and number of tokens, with what each round measured.

    foreseen: bytes of the state of one stream, by `arch.cost`; None where it knows no such type.
    """

    model: Model
    batch: int
    prompt: int
    tokens: int
    foreseen: int | None
    seconds: list[float] = field(default_factory=list)
    prefill_seconds: list[float] = field(default_factory=list)
    state: int = 0
    held: int = 0
    allocated: int | None = None

    def key(self) -> tuple[int, int, int]:
        """Which case it is, of any model."""
        return self.batch, self.prompt, self.tokens

    def run(self, prompt_BT: torch.Tensor) -> None:
        """Read the prompt, then decode the tokens; the first token after an empty prompt is given."""
        model, device = self.model, prompt_BT.device
        before = torch.cuda.memory_allocated(device) if device.type == "cuda" else 0
        state = model.init_state(self.batch, self.prompt + self.tokens)
        token_B1 = prompt_BT[:, :1]
        if self.prompt:
            started = turns.now(device)
            scores_BV, state = prefill(model, prompt_BT[:, : self.prompt], state)
            token_B1 = scores_BV.argmax(-1, keepdim=True)
            self.prefill_seconds.append(turns.now(device) - started)
            del scores_BV
        started = turns.now(device)
        for _ in range(self.tokens):
            scores_B1V, state = model.decode(token_B1, state)
            token_B1 = scores_B1V[:, -1].argmax(-1, keepdim=True)
        self.seconds.append(turns.now(device) - started)
        del scores_B1V
        self.state, self.held = state_size.held(state)
        if device.type == "cuda":
            self.allocated = torch.cuda.memory_allocated(device) - before

    @property
    def latency(self) -> float:
        """Seconds per token."""
        return statistics.median(self.seconds) / self.tokens

    @property
    def throughput(self) -> float:
        """Tokens of all streams per second."""
        return self.batch / self.latency

    @property
    def reading(self) -> float | None:
        """Prompt tokens of all streams per second."""
        return self.batch * self.prompt / statistics.median(self.prefill_seconds) if self.prompt else None

    def row(self, partner: "_Case | None" = None) -> dict[str, Any]:
        """The case's row of the table. partner: the same case of the model beside."""
        one = state_size.each(self.state, self.batch)
        row = {
            "case": f"{times(self.batch, 'stream')}, prompt {self.prompt:,}",
            "streams": self.batch,
            "prefill": self.prompt,
            "tokens": self.tokens,
            "length": self.prompt + self.tokens,
            "seconds_per_token": self.latency,
            "tokens_per_second": self.throughput,
            "prefill_tokens_per_second": self.reading,
            "state_bytes": one,
            "foreseen_bytes": self.foreseen,
            "state_over_foreseen": one / self.foreseen if self.foreseen else None,
            "held_bytes": state_size.each(self.held, self.batch),
            "allocated_bytes": None if self.allocated is None else state_size.each(self.allocated, self.batch),
        }
        return row | ({"over_beside": turns.ratio(self.seconds, partner.seconds)} if partner else {})


def _prompts(batch, tokens, vocabulary, seed):
    """(B, T) drawn tokens, at least one per stream."""
    return torch.randint(vocabulary, (batch, max(1, tokens)), generator=torch.Generator().manual_seed(seed))
