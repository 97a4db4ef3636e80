"""The spec of a benchmark, as plain data that the record contains; and the targets for its results."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

from pydantic import Field, field_validator, model_validator

from arch.spec import Count, List, Positive, Spec
from experiments.bench.against import Name
from experiments.bench.record import PEERS, BenchRecord, Ratio, spread

# Measured for each named model that is no encoder, of these only for one that reads images, for each that is an encoder, and once,
# without a named model.
OfModels = Literal["train", "decode", "memory", "profile", "quantise", "answers"]
OfReaders = Literal["images"]
OfEncoders = Literal["encode", "stream", "contrastive"]
OfKernels = Literal["scan", "loss", "reach", "distill", "lightning", "start"]
MODELS, READERS, ENCODERS, KERNELS = map(get_args, (OfModels, OfReaders, OfEncoders, OfKernels))
Precision = Literal["products", "bf16-mixed"]


class BenchSpec(Spec):
    """One run of `archbench bench`; `experiments/bench/specs/` has some.

    specs: model specs, by shipped name or by path from the working folder. measure: some of MODELS, READERS, ENCODERS and KERNELS.
    contexts: tokens per row in training, its memory and its profile, and the most of a text; each must divide `tokens`.
    tokens: tokens per training step.
    decode_contexts: tokens in the cache when decoding is timed, and of a prompt that is answered. batches: numbers of streams
    decoded at once; the largest is the rows of a batch of texts.
    decode_tokens: tokens decoded per round, and of an answer.
    against: peers, by name (`experiments/bench/against.py`). Those in torch are measured in this process and so with its
    allocator settings. stock: also measure `hf` in its own untouched process, as its users run it; the two processes take
    turns.
    decode_types: further types of weights in which models are decoded and texts encoded, beside `dtype`.
    precisions: how else our models train, and what memory that takes, beside plain `dtype`: `bf16-mixed` is
    `train.precision: bf16-mixed` of a run, `products` its `train.products: bf16`; both on a CPU with float32 weights.
    compile: also train with each block compiled.
    repeats: rounds per measurement. seconds: after this time a measurement ends, but not before its third round.
    vocabulary: of the loss that is measured alone. dtype: of weights and activations.
    """

    version: Literal[1] = Field(default=1, alias="schema")
    specs: List[str] = ()
    contexts: List[Count] = (512, 4096)
    decode_contexts: List[Count] = (2000,)
    batches: List[Count] = (1, 16)
    decode_tokens: Count = 32
    decode_types: List[Literal["float32", "bfloat16"]] = ()
    precisions: List[Precision] = ()
    measure: List[Literal[OfModels, OfReaders, OfEncoders, OfKernels]] = ("train", "decode", "memory")
    against: List[Name] = ()
    stock: bool = False
    compile: bool = False
    threads: Count = 2
    tokens: Count = 4096
    repeats: Count = 7
    seconds: Positive = 90.0
    vocabulary: Count = 262_144
    device: Literal["cpu", "cuda"] = "cpu"
    dtype: Literal["float32", "bfloat16"] = "float32"

    @field_validator("against", mode="before")
    @classmethod
    def _one_or_several(cls, given):
        return () if given is None else (given,) if isinstance(given, str) else given

    @model_validator(mode="after")
    def _makes_sense(self):
        for context in self.contexts:
            if self.tokens % context:
                raise ValueError(f"contexts: {context} does not divide tokens = {self.tokens}")
        if self.stock and "hf" not in self.against:
            raise ValueError("stock: needs a peer; expected `against: hf` too")
        if self.precisions and (self.device, self.dtype) != ("cpu", "float32"):
            raise ValueError("precisions: these are of a CPU with float32 weights; expected `device: cpu` and `dtype: float32`")
        if not self.specs and set(self.measure) & {*MODELS, *READERS, *ENCODERS}:
            raise ValueError(f"specs: name a model spec, or measure only some of {', '.join(KERNELS)}")
        return self


@dataclass(frozen=True)
class Target:
    """A target for a measured number: at least `least`, at most `most`, or `exactly`.

    measured: a function from a BenchRecord to a Ratio, or None if the record has no such measurement.
    hardware: the device that the target is for.
    """

    what: str
    measured: Callable[[BenchRecord], Ratio | None]
    unit: str = "x"
    least: float | None = None
    most: float | None = None
    exactly: float | None = None
    hardware: str = "cpu"

    @property
    def held_to(self):
        """The bound as text, like `≥ 1.5 x`."""
        sign, bound = next((s, b) for s, b in (("≥", self.least), ("≤", self.most), ("=", self.exactly)) if b is not None)
        return f"{sign} {bound:g} {self.unit}".rstrip()

    def met(self, ratio):
        """Whether a Ratio meets the target: its median, or for `exactly` both quartiles."""
        if self.exactly is not None:
            return ratio.low == ratio.high == self.exactly
        return ratio.median >= self.least if self.least is not None else ratio.median <= self.most

    def missing(self, ratio):
        """How far a Ratio misses the target, in words; empty if the target is met."""
        if self.met(ratio):
            return ""
        if self.exactly is not None:
            return f"from {ratio.low:g} to {ratio.high:g}"
        factor = self.least / ratio.median if self.least is not None else ratio.median / self.most
        return f"short by {factor:.2f}x" if factor >= 1.005 else "short by under 1 %"


def _speedup(what, fast, slow, **case):
    return lambda record: record.speedup(what, fast, slow, **case)


def _in_type(kind, peer, **case):
    """Our decoding over the peer's, both with weights of this type."""

    def measured(record):
        ours, theirs = (side if record.asked["dtype"] == kind else f"{side} {kind}" for side in ("ours", peer))
        return record.speedup("decode", ours, theirs, **case)

    return measured


def _seconds(what, side, scale=1.0):
    def measured(record):
        timed = record.find(what, side)
        return timed and spread([scale * value for value in timed.values])

    return measured


def _growth(record):
    """Decode time per token at the long context over that at the short one."""
    return record.speedup("decode reach", "1024", "32768")


def _extra_memory(record):
    memory = record.find("loss memory", "ours", vocabulary=262_144)
    return memory and spread([value / 1e9 for value in memory.values])


def _cache(record):
    """Cache bytes held over the number that `arch.cost` computes, for every measured decoding."""
    held = [each for each in record.measurements if each.what == "cache"]
    return spread([each.values[0] / each.facts["arch.cost"] for each in held]) if held else None


def _overhead(record):
    """Milliseconds per step that Lightning takes beyond the bare loop, by round."""
    with_it, without = record.find("lightning", "lightning"), record.find("lightning", "bare")
    if not (with_it and without):
        return None
    return spread([1000 * (a - b) / with_it.work for a, b in zip(with_it.values, without.values, strict=True)])


def _online(record):
    """The time of an online distillation step over that of a plain step and the teacher's forward pass together, by round."""
    sides = [record.find("distill", side) for side in ("online", "plain", "prefill")]
    if not all(sides):
        return None
    return spread([online / (plain + teacher) for online, plain, teacher in zip(*(side.values for side in sides), strict=True)])


def _padding(record):
    """The share of positions that was padding where functions of all lengths were encoded."""
    ours = record.find("encode", "ours", texts="functions")
    return ours and spread([ours.facts["padding"]])


def _more_memory(what, more, fewer):
    """The bytes of one measurement over those of another, each (side, what its case has)."""

    def measured(record):
        many, few = (record.find(what, side, **case) for side, case in (more, fewer))
        return many and few and spread([many.median / few.median])

    return measured


def _beyond_flops(record):
    """The time of a step with images over that of one without, as a multiple of the same ratio of their FLOPs."""
    images, text = record.find("images", "images"), record.find("images", "text")
    if not (images and text):
        return None
    more = images.facts["flops"] / text.facts["flops"]
    return spread([slow / fast / more for slow, fast in zip(images.values, text.values, strict=True)])


def _peak_share(spec, context):
    """The step's rate of `ideal` FLOPs over the FLOP rate of the square product."""

    def measured(record):
        step, peak = record.find("train", "ours", spec=spec, context=context), record.find("ceiling", "square product")
        cost = record.costs.get(f"{spec}@{context}")
        if not (step and peak and cost):
            return None
        flops = cost["flops_per_token"]["ideal"]["train"]
        return spread([flops * step.work / seconds / peak.best_rate for seconds in step.values])

    return measured


def _scan_of_copy(shape):
    def measured(record):
        scan, copy = record.find("scan", "ours", shape=shape), record.find("ceiling", "copy")
        return scan and copy and spread([scan.work / seconds / copy.best_rate for seconds in scan.values])

    return measured


def _targets():
    families = {
        "small/gemma3": ("Gemma 3 (5:1)", {512: 1.5, 4096: 3.0}),
        "small/gemma2": ("Gemma 2 (1:1, softcap 50, logit cap 30)", {512: 2.0, 4096: 5.0}),
        "small/recurrentgemma": ("RecurrentGemma (rec, rec, local)", {512: 2.5, 4096: 10.0}),
    }
    for spec, (title, bounds) in families.items():
        for context, least in bounds.items():
            for end, named in PEERS.items():
                compared = _speedup(f"train{end}", "ours", "hf", spec=spec, context=context)
                yield Target(f"{title}, training at {context:,} against {named}", compared, least=least)
    compared = _speedup("train", "ours", "hf-compiled", spec="small/gemma3", context=512)
    yield Target("Gemma 3 (5:1), training at 512 against compiled `transformers`", compared, least=1.25)
    for kind in ("float32", "bfloat16"):
        compared = _in_type(kind, "llama.cpp", spec="small/gemma3", context=2000, batch=1)
        yield Target(f"Gemma 3 (5:1), decoding at 2,000, batch 1, against llama.cpp, {kind} weights", compared, least=1.0)
    for spec, least in (("small/gemma3", 1.1), ("medium/gemma3", 1.4)):
        compared = _speedup("decode", "ours bfloat16", "ours", spec=spec, context=2000, batch=1)
        yield Target(f"{spec}, decoding at 2,000, batch 1, bfloat16 weights over float32", compared, least=least)
    for side, least in (("ours", 0.65), ("compiled", 0.75)):
        for context in (512, 4096):
            share = _speedup("train", side, "products", spec="small/gemma3", context=context)
            how = "eager" if side == "ours" else "compiled"
            yield Target(f"Gemma 3 small, share of the product floor at {context:,}, {how}", share, unit="", least=least)
    slower = _speedup("quantised step", "plain", "q4_0", spec="small/gemma3", context=512)
    yield Target("Gemma 3 small, step with weights rounded to q4_0 at 512, time over that of a plain one", slower, most=1.25)
    yield Target(
        "step with images over one without, as a multiple of the same ratio of their FLOPs", _beyond_flops, unit="", most=1.0
    )
    share = _speedup("images", "images", "products", spec="small/gemma3_vision", context=512)
    yield Target("step with images, share of the product floor at 512", share, unit="", least=0.65)
    compared = _speedup("answers", "answers", "generate", spec="small/gemma3", batch=16)
    yield Target("a policy's own answers at batch 16, tokens per second over those of `generate`", compared, unit="", least=0.9)
    peer, encoder = "sentence-transformers", {"spec": "small/embeddinggemma", "context": 512}
    for kind, least in (("float32", 1.3), ("bfloat16", 2.0)):
        for texts, rows in (("full", "rows of 512 tokens"), ("functions", "functions of all lengths")):
            ours = "ours" if kind == "float32" else "ours bfloat16"
            compared = _speedup("encode", ours, peer if kind == "float32" else f"{peer} {kind}", texts=texts, **encoder)
            yield Target(f"encoding {rows}, batch 32, against sentence-transformers, {kind} weights", compared, least=least)
    share = _speedup("encode", "ours", "products", texts="full", **encoder)
    yield Target("encoding rows of 512 tokens, share of the product floor", share, unit="", least=0.65)
    yield Target("encoding functions of all lengths, share of positions that are padding", _padding, unit="", most=0.05)
    for pairs in (8, 32):  # by default, and with `--set tokens=16384`
        slower = _speedup("contrastive", "plain", "GradCache", rows=pairs, **encoder)
        what = f"contrastive step of {pairs} pairs with GradCache, 4 micro-batches, time over that of a plain one"
        yield Target(what, slower, most=1.35)
    grown = _more_memory("contrastive memory", ("more rows", encoder), ("GradCache", encoder))
    yield Target("contrastive step with GradCache, memory with 4 times the pairs over that without", grown, most=1.1)
    grown = _more_memory("stream memory", ("ours", {"texts": 100_000}), ("ours", {"texts": 20_000}))
    yield Target("memory of a stream of 100,000 texts over that of 20,000", grown, most=1.1)
    for model in ("window-only", "recurrent"):
        longer = _speedup("reach", "16384", "2048", model=model)
        yield Target(f"tokens per second at 16,384 over those at 2,048, {model}", longer, least=0.85)
    for shape in ([8, 512, 256], [1, 4096, 256], [4, 2048, 1024]):
        title = f"linear scan at ({', '.join(map(str, shape))}), bytes per second over those of `a * b` into fresh memory"
        yield Target(title, _speedup("scan", "ours", "fresh a * b", shape=shape), least=0.5)
    yield Target("loss at vocabulary 262,144, extra memory", _extra_memory, unit="GB", most=1.0)
    yield Target("distilling online, time over that of a plain step and the teacher's forward pass", _online, most=1.05)
    yield Target("distilling from the cache, time over that of a plain step", _speedup("distill", "plain", "cached"), most=1.1)
    for mode in ("sampled", "top_k"):
        title = f"writing the teacher's cache, 256 entries ({mode}), tokens per second over those of its prefill"
        yield Target(title, _speedup("distill", f"write {mode}", "prefill"), least=0.9)
    slower = _speedup("loss", "plain", "ours", vocabulary=262_144)
    yield Target("loss at vocabulary 262,144, time over that of the plain path", slower, most=1.15)
    for spec, (title, _) in families.items():
        for batch in (1, 16):
            for end, named in PEERS.items():
                compared = _speedup(f"decode{end}", "ours", "hf", spec=spec, context=2000, batch=batch)
                yield Target(f"{title}, decoding at 2,000, batch {batch}, against {named}", compared, least=3.0)
    yield Target("decode time per token at 32,768 over that at 1,024, recurrent + window", _growth, most=1.1)
    yield Target("cache bytes held while decoding, over those that `arch.cost` computes", _cache, unit="", exactly=1.0)
    yield Target("Lightning's overhead per step over a bare loop", _overhead, unit="ms", most=3.0)
    yield Target("first optimizer step of the next run in a warm worker", _seconds("first step", "next run"), "s", most=1.0)
    yield Target("`python -m arch --help`", _seconds("help", "ours"), "s", most=0.5)
    for context in (4096, 32_768):
        title = f"Gemma 3 (5:1), 154 M, bfloat16, at {context:,}: share of the measured matrix-product peak"
        share = _peak_share("medium/gemma3", context)
        yield Target(title, share, unit="", least=0.45, hardware="cuda")
    title = "linear scan at (4, 2048, 1024), bytes per second over those of a copy"
    yield Target(title, _scan_of_copy([4, 2048, 1024]), least=0.6, hardware="cuda")


TARGETS = tuple(_targets())
