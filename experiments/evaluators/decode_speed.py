"""How fast a model samples, and what its state takes, against the number of tokens sampled (Griffin, figures 1b and 4)."""

import statistics
import time
from dataclasses import dataclass, field
from typing import Annotated, Any

import torch
from pydantic import Field

from arch import cost, units
from arch.contracts import Chart, Dataset, Findings, Given, Metric
from arch.errors import DataError
from arch.generate import prefill
from arch.model import Model
from arch.registry import evaluator
from arch.spec import Count, List, Spec, later
from arch.words import times

# Tokens that each number of streams decodes, untimed, before the first round: programs are compiled, caches are filled.
WARM_UP = 2


@evaluator
class DecodeSpeed:
    """Latency and throughput of decoding after an empty and a long prompt, and the bytes of the state, measured.

    Every case (streams, prompt, tokens) is decoded greedily from a state of its own, with room for exactly its tokens. The
    cases take turns, every other round in the opposite order; a case's time is the median over rounds. The prompts are
    drawn tokens: what is decoded does not matter. Reading the prompt is timed apart.

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
    """

    class Config(Spec):
        """batches: numbers of streams. tokens: numbers of tokens sampled. prefills: lengths of the prompt; 0 is an empty one.

        repeats: rounds. memory: bytes that weights and states of all streams may take (by `arch.cost`); numbers of streams
        that do not fit at the longest case are left out, so that `decode_tokens_per_second` is of the best that fits.
        """

        batches: Annotated[List[Count], Field(min_length=1)] = (1, 16)
        tokens: Annotated[List[Count], Field(min_length=1)] = (16, 32, 64)
        prefills: Annotated[List[Annotated[int, Field(ge=0)]], Field(min_length=1)] = (0, 512)
        repeats: Count = 3
        memory: Count | None = later(None)

    needs = frozenset({"decodes"})
    metrics = {
        "decode_seconds_per_token": Metric(unit="s per token", compare="ratio"),
        "decode_tokens_per_second": Metric(unit="tokens/s", better="higher", compare="ratio"),
        "decode_prefill_tokens_per_second": Metric(unit="tokens/s", better="higher", compare="ratio"),
        "decode_slowdown": Metric(compare="ratio"),
        "decode_state_bytes": Metric(unit="B", compare="ratio"),
    }
    charts = (
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

    def __call__(self, model: Model, dataset: Dataset, given: Given) -> Findings:
        """The metrics are of the longest prompt and the most tokens.

        `decode_seconds_per_token`: with the fewest streams. `decode_tokens_per_second`: with the number of streams that
        gives most. `decode_slowdown`: the latency after the longest prompt over that after the shortest, with the most
        streams; about 1 where the state does not grow. Raises DataError where not even one number of streams fits `memory`.
        """
        vocabulary, device = dataset.vocabulary, model.embedding.device
        cases = [
            _Case(batch, prompt, tokens, _foreseen(model, prompt + tokens))
            for batch in self._fitting(model)
            for prompt in sorted(set(self.config.prefills))
            for tokens in sorted(set(self.config.tokens))
        ]
        prompts = {batch: _prompts(batch, max(self.config.prefills), vocabulary, given.seed) for batch in {c.batch for c in cases}}
        for batch, prompt_BT in prompts.items():
            _Case(batch, 0, WARM_UP, None).run(model, prompt_BT.to(device))
        for turn in range(self.config.repeats):
            for case in cases if turn % 2 == 0 else reversed(cases):
                case.run(model, prompts[case.batch].to(device))
        threads, rounds = times(torch.get_num_threads(), "thread"), times(self.config.repeats, "round")
        text = f"{device.type}, {threads}, {_dtype(model)}, medians of {rounds}"
        return Findings(self._values(cases), [case.row() for case in cases], text)

    def _fitting(self, model: Model) -> list[int]:
        """The numbers of streams, ascending, that fit the given memory."""
        batches = sorted(set(self.config.batches))
        if self.config.memory is None:
            return batches
        weights = sum(weight.nbytes for weight in model.parameters())
        length = max(self.config.prefills) + max(self.config.tokens)
        stream = _foreseen(model, length)
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
        tokens, longest, shortest = max(self.config.tokens), max(self.config.prefills), min(self.config.prefills)
        most = [case for case in cases if case.tokens == tokens and case.prompt == longest]
        values = {
            "decode_seconds_per_token": most[0].latency,
            "decode_tokens_per_second": max(case.throughput for case in most),
            "decode_state_bytes": most[0].each(most[0].state),
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

    batch: int
    prompt: int
    tokens: int
    foreseen: int | None
    seconds: list[float] = field(default_factory=list)
    prefill_seconds: list[float] = field(default_factory=list)
    state: int = 0
    held: int = 0
    allocated: int | None = None

    def run(self, model: Model, prompt_BT: torch.Tensor) -> None:
        """Read the prompt, then decode the tokens; the first token after an empty prompt is given."""
        device = prompt_BT.device
        before = torch.cuda.memory_allocated(device) if device.type == "cuda" else 0
        state = model.init_state(self.batch, self.prompt + self.tokens)
        token_B1 = prompt_BT[:, :1]
        if self.prompt:
            started = _now(device)
            scores_BV, state = prefill(model, prompt_BT[:, : self.prompt], state)
            token_B1 = scores_BV.argmax(-1, keepdim=True)
            self.prefill_seconds.append(_now(device) - started)
            del scores_BV
        started = _now(device)
        for _ in range(self.tokens):
            scores_B1V, state = model.decode(token_B1, state)
            token_B1 = scores_B1V[:, -1].argmax(-1, keepdim=True)
        self.seconds.append(_now(device) - started)
        del scores_B1V
        kept = {id(tensor): tensor for tensor in cost.tensors(state)}.values()
        self.state = sum(tensor.nbytes for tensor in kept)
        behind = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in kept}
        self.held = sum(behind.values())
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

    def each(self, total: int) -> int | float:
        """A number of bytes per stream, whole where it can be."""
        return total // self.batch if total % self.batch == 0 else total / self.batch

    def row(self) -> dict[str, Any]:
        """The case's row of the table."""
        one = self.each(self.state)
        return {
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
            "held_bytes": self.each(self.held),
            "allocated_bytes": None if self.allocated is None else self.each(self.allocated),
        }


def _now(device):
    """Seconds, once the device has done what it was asked to."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _prompts(batch, tokens, vocabulary, seed):
    """(B, T) drawn tokens, at least one per stream."""
    return torch.randint(vocabulary, (batch, max(1, tokens)), generator=torch.Generator().manual_seed(seed))


def _dtype(model):
    return str(model.embedding.dtype).removeprefix("torch.")


def _foreseen(model, length):
    """Bytes of the state of one stream of `length` tokens, by `arch.cost`; None for a type that it does not know."""
    dtype = _dtype(model)
    return cost.cache_bytes(model.spec, length, dtype)["total"] if dtype in cost.DTYPES else None
