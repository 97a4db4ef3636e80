"""Measurements of an encoder: texts to vectors, a stream of many texts, and what GradCache costs.

Shapes: B rows, T tokens, N texts, E numbers of a vector.
"""

import contextlib
import tempfile
from functools import partial
from itertools import islice
from pathlib import Path

import torch
from rich.console import Console

from arch import checkpoint, document, hf, prompts, registry, tensors
from arch.cost import DTYPES
from arch.encoding import load_encoder
from arch.errors import SpecError
from arch.model import new_model
from arch.model_spec import ModelSpec
from experiments import device as devices
from experiments.bench import products
from experiments.bench.child import Lodger, in_child
from experiments.bench.models import asked
from experiments.bench.peers.sentence_transformers import SentenceTransformers
from experiments.bench.record import Measurement
from experiments.bench.sides import Ours, contrastive_objective
from experiments.data.learned import learn
from experiments.data.sources.docstrings import Docstrings
from experiments.memory import forget_peak, held_bytes, peak_bytes

# Texts that the tokenizer learns from, and those that are encoded in their own lengths.
LEARNED, FUNCTIONS = 1024, 256
# Texts of a short stream and of a long one: each text has a word of its own, and a tokenizer remembers 10,000 words at most.
STREAMS = (20_000, 100_000)
FIRST = 100_000  # the number in the first text: all have six digits, because a batch of longer texts takes more memory
# GradCache: micro-batches of a step, and how many times as many rows the larger step has, in micro-batches of the same size.
PARTS, MORE = 4, 4


def texts_of(count):
    """The code of the first functions of the standard library that have a docstring."""
    source = Docstrings(Docstrings.Config())
    return [pair.positive for pair in islice(source.pairs(), count)]


def write(spec, folder, texts, context):
    """A checkpoint with the weights of `new_model(spec, seed=0)`, and a tokenizer of its vocabulary that has read these texts."""
    folder.mkdir()
    checkpoint.write(spec, tensors.of_mapping(dict(new_model(spec, seed=0).named_parameters())), folder)
    options = document.node({"type": "bpe", "vocab_size": spec.vocab_size})
    resolved = registry.resolve_component("tokenizer", options, ())
    tokenizer, ends, *_ = learn(resolved, texts, spec.vocab_size, Console(quiet=True))
    tokenizer.save(str(folder / checkpoint.TOKENIZER))
    prompts.keep({}, context, folder, ends)


def encoding(journal, spec, name, context, bench_spec, device):
    """Time, in turns, each side on the same texts: `full`, one batch of rows of `context` tokens, and `functions`, code as it is.

    Our sides are one per type of weights, and so are those of sentence-transformers, each in a process of its own. `products`
    are the matrix products of ours alone.
    """
    rows = max(bench_spec.batches)
    with tempfile.TemporaryDirectory(prefix="archbench-") as place, contextlib.ExitStack() as lodging:
        folder, exported = Path(place) / "ours", Path(place) / "exported"
        code = texts_of(LEARNED)
        write(spec, folder, code, context)
        kinds = {kind: "" if kind == bench_spec.dtype else f" {kind}" for kind in (bench_spec.dtype, *bench_spec.decode_types)}
        ours = {f"ours{end}": load_encoder(folder, DTYPES[kind], device) for kind, end in kinds.items()}
        theirs = {}
        if "sentence-transformers" in asked(journal, bench_spec, "encode"):
            hf.export(folder, exported)
            for kind, end in kinds.items():
                lodger = Lodger(SentenceTransformers, exported, str(device), kind, threads=bench_spec.threads)
                theirs[f"sentence-transformers{end}"] = lodging.enter_context(lodger)
        for texts_name, texts in {"full": full(code, rows, context), "functions": code[:FUNCTIONS]}.items():
            sides = {side: partial(each.encode, texts, batch_rows=rows) for side, each in ours.items()}
            parts = list(ours["ours"].stream(texts, batch_rows=rows))
            tokens, padding = sum(part.tokens for part in parts), sum(part.padding for part in parts)
            floor = products.noted(sides["ours"])
            sides["products"] = products.alone(floor.products, device)
            sides |= {side: partial(each.call, "encode", texts, rows) for side, each in theirs.items()}
            apart = {side: _apart(sides["ours"](), each()) for side, each in sides.items() if side in theirs}
            facts = {side: {"largest difference of a number": worst} for side, worst in apart.items()}
            facts["ours"] = {"padding": padding / (tokens + padding), "texts": len(texts), "not in products": dict(floor.opaque)}
            case = {"spec": name, "context": context, "texts": texts_name}
            journal.time("encode", sides, case, tokens, "tokens", facts, lodgers=list(theirs.values()))


def full(code, rows, context):
    """`rows` different texts that are each cut at `context` tokens; a token of code has fewer than eight characters on average."""
    whole, longest = "\n".join(code), 8 * context
    return [whole[start : start + longest] for start in range(0, rows * longest, longest)]


def _apart(mine, theirs):
    return float(abs(mine - theirs).max())


def stream(journal, spec, name, bench_spec):
    """The most memory that a stream of short texts adds, for a few and for five times as many."""
    for texts in STREAMS:
        facts = in_child(streamed_memory, spec.dump(), texts, bench_spec.device, threads=bench_spec.threads)
        journal.add(_held("stream memory", "ours", {"spec": name, "texts": texts}, facts))


def streamed_memory(spec, texts, device):
    """{before, peak}: the bytes that this process holds once the encoder is there, and at most while it encodes `texts` texts."""
    devices.return_freed_at_once()
    with tempfile.TemporaryDirectory(prefix="archbench-") as place:
        folder = Path(place) / "ours"
        write(ModelSpec.parse(spec), folder, texts_of(LEARNED), 64)
        encoder = load_encoder(folder, None, device)
    device = torch.device(device)
    encoder.encode(["a warm start"])
    devices.release_memory()  # holes that learning the tokenizer left, which a stream would fill
    before = held_bytes(device)
    forget_peak(device)
    for part in encoder.stream(f"def f{i}(): return {i}" for i in range(FIRST, FIRST + texts)):
        assert len(part.vector_NE) == len(part.texts)
    return {"before": before, "peak": peak_bytes(device)}


def check_rows(tokens, context):
    """Raises SpecError where the rows of a contrastive step are not PARTS micro-batches."""
    if (rows := tokens // context) % PARTS:
        raise SpecError(f"{tokens:,} tokens are {rows} rows of {context:,}; expected a multiple of {PARTS}", ("tokens",))


def contrastive(journal, spec, name, context, bench_spec, device):
    """A contrastive step: the time of a plain one and of one with GradCache, of as many pairs; and the memory of each.

    `more rows` has MORE times as many pairs in micro-batches of the same size.
    """
    rows = bench_spec.tokens // context
    sizes = {"plain": (rows, 1), "GradCache": (rows, PARTS), "more rows": (rows * MORE, PARTS * MORE)}
    steps = {
        side: Ours(spec, device, bench_spec.dtype, objective=contrastive_objective()).training_on_pairs(pairs, context, parts)
        for side, (pairs, parts) in sizes.items()
        if side != "more rows"
    }
    case = {"spec": name, "context": context, "rows": rows}
    journal.time("contrastive", steps, case, 2 * rows * context, "tokens")
    for side, (pairs, parts) in sizes.items():
        facts = in_child(step_memory, spec.dump(), pairs, context, parts, bench_spec.dump(), threads=bench_spec.threads)
        journal.add(_held("contrastive memory", side, case | {"rows": pairs}, facts))


def _held(what, side, case, facts):
    return Measurement(what=what, side=side, case=case, unit="B", values=[float(facts["peak"] - facts["before"])], facts=facts)


def step_memory(spec, rows, context, parts, bench_options):
    """{before, peak}: the bytes that this process holds before the model is built, and at most in a contrastive step."""
    device = torch.device(bench_options["device"])
    before = held_bytes(device)
    side = Ours(ModelSpec.parse(spec), device, bench_options["dtype"], objective=contrastive_objective())
    side.start_optimizer()
    forget_peak(device)
    side.training_on_pairs(rows, context, parts)()
    return {"before": before, "peak": peak_bytes(device)}
