"""Measurements of a model: training, prefill and decoding, memory, and a profile of a training step."""

import contextlib
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from arch import cost
from arch.errors import SpecError
from arch.model_spec import ModelSpec
from experiments import compiled
from experiments.bench import products
from experiments.bench.against import KINDS, installed
from experiments.bench.child import Lodger, in_child
from experiments.bench.peers import llama_cpp
from experiments.bench.peers.llama_cpp import LlamaCpp
from experiments.bench.profile import profiled
from experiments.bench.record import Measurement
from experiments.bench.sides import Ours, Peer, StockPeer, XTransformers, tokens_of
from experiments.memory import forget_peak, held_bytes, peak_bytes


def peers_of(journal, spec, name, bench_spec, device, ours, context):
    """{peer: its side} of those that train and are installed. Why another one is not measured is noted."""
    sides: dict[str, Peer | XTransformers] = {}
    for peer in asked(journal, bench_spec, "train"):
        try:
            if peer == "x-transformers":
                sides[peer] = XTransformers(spec, device, bench_spec.dtype, context)
            else:
                how = {"compile": "compiled" in peer, "autocast": "autocast" in peer}
                sides[peer] = Peer(spec, device, bench_spec.dtype, ours.model, name, **how)
        except SpecError as error:
            journal.note(f"{peer}, {name}: not measured: {error.reason}")
    return sides


def asked(journal, bench_spec, what):
    """The peers that are asked for, of which `what` is measured, and that are installed; the others are noted."""
    for peer in bench_spec.against:
        missing = KINDS[peer].missing()
        if missing:
            journal.note(f"{peer}: not measured: it {missing}")
    return [peer for peer in installed(bench_spec.against) if what in KINDS[peer].measures]


def training(journal, spec, name, context, bench_spec, device):
    """Time, in turns, a training step of every side and the matrix products of our step alone.

    With `stock`, then time our step in turns with the peer in its own untouched process.
    """
    rows = bench_spec.tokens // context
    ours = Ours(spec, device, bench_spec.dtype)
    sides: dict[str, Any] = {"ours": ours}
    if bench_spec.compile:
        sides["compiled"] = Ours(spec, device, bench_spec.dtype, compile=True)
    for kind in bench_spec.precisions:
        sides[f"ours {kind}"] = Ours(spec, device, bench_spec.dtype, precision=kind)
    sides |= peers_of(journal, spec, name, bench_spec, device, ours, context)
    steps = {side: each.training(rows, context) for side, each in sides.items()}
    floor = products.noted(steps["ours"])
    steps["products"] = products.alone(floor.products, device)
    facts: dict[str, Any] = {"products": {"flops": floor.flops, "count": len(floor.products), "not in it": dict(floor.opaque)}}
    if "compiled" in steps:
        before = compiled.seconds_so_far()
        steps["compiled"]()
        facts["compiled"] = {"compile seconds": compiled.seconds_so_far() - before}
    for side in [side for side in steps if side in KINDS and side != "hf"]:
        try:
            facts[side] = _first_step(steps[side]) | {"parameters": sum(w.numel() for w in sides[side].model.parameters())}
        except Exception as error:  # whatever a compiler raises; the other sides must still run
            del steps[side]
            journal.note(f"{side}, {name}, {context:,}: not measured: {type(error).__name__}: {str(error).splitlines()[0][:200]}")
    case, work = {"spec": name, "context": context}, rows * context
    journal.time("train", steps, case, work, "tokens", facts)
    if bench_spec.stock:
        with Lodger(StockPeer, spec.dump(), bench_spec.device, bench_spec.dtype, threads=bench_spec.threads) as stock:
            stock.call("prepare_training", rows, context)
            beside = {"ours": steps["ours"], "hf": lambda: stock.call("train")}
            journal.time("train stock", beside, case, work, "tokens", lodgers=[stock])


def _first_step(step):
    """{first step seconds}: with a compiler's time."""
    started = time.perf_counter()
    step()
    return {"first step seconds": time.perf_counter() - started}


def decoding(journal, spec, name, context, batch, bench_spec, device):
    """Time the prefill of `context` tokens and decoding `decode_tokens` per round; measure our cache.

    Other types of weights than `dtype` are sides of their own. llama.cpp runs in a process of its own, whose threads do not
    compete with torch's. With `stock`, then do the same in turns with the peer in its own untouched process.
    """
    case = {"spec": name, "context": context, "batch": batch}
    prompt_BT = tokens_of(spec, batch, context, device)
    further = bench_spec.decode_tokens * (bench_spec.repeats + 1)
    fills: dict[str, Callable] = {}
    decodes: dict[str, Callable] = {}

    def add(side, fill, decode):
        fills[side], decodes[side] = fill, decode

    peers = asked(journal, bench_spec, "decode")
    with contextlib.ExitStack() as lodging:
        lodgers = []
        all_ours = {dtype: Ours(spec, device, dtype) for dtype in dict.fromkeys((bench_spec.dtype, *bench_spec.decode_types))}
        first = all_ours[bench_spec.dtype]
        for dtype, ours in all_ours.items():
            ending = "" if ours is first else f" {dtype}"
            add(f"ours{ending}", partial(ours.fill, prompt_BT, further), partial(ours.decode, bench_spec.decode_tokens))
            if "llama.cpp" in peers:
                try:
                    llama_cpp.check(spec)
                except SpecError as error:
                    journal.note(f"llama.cpp, {name}: not measured: {error.reason}")
                else:
                    given = spec.dump(), bench_spec.device, dtype, bench_spec.threads
                    lodger = lodging.enter_context(Lodger(LlamaCpp, *given, threads=bench_spec.threads))
                    lodgers.append(lodger)
                    fill = partial(lodger.call, "fill", batch, context, further)
                    add(f"llama.cpp{ending}", fill, partial(lodger.call, "decode", bench_spec.decode_tokens))
        if "hf" in peers:
            theirs = Peer(spec, device, bench_spec.dtype, first.model, name)
            add("hf", partial(theirs.fill, prompt_BT, further), partial(theirs.decode, bench_spec.decode_tokens))
        work, decoded = batch * context, batch * bench_spec.decode_tokens
        journal.time("prefill", fills, case, work, "tokens", lodgers=lodgers)
        journal.time("decode", decodes, case, decoded, "tokens", lodgers=lodgers)
    journal.add(cache_of(first, spec, case, context + further, batch, bench_spec.dtype))
    if bench_spec.stock:
        with Lodger(StockPeer, spec.dump(), bench_spec.device, bench_spec.dtype, threads=bench_spec.threads) as stock:
            fills = {"ours": fills["ours"], "hf": lambda: stock.call("fill", batch, context, further)}
            decodes = {"ours": decodes["ours"], "hf": lambda: stock.call("decode", bench_spec.decode_tokens)}
            journal.time("prefill stock", fills, case, work, "tokens", lodgers=[stock])
            journal.time("decode stock", decodes, case, decoded, "tokens", lodgers=[stock])


def cache_of(ours, spec, case, capacity, batch, dtype):
    """The bytes of our decoding state, beside the number that arch.cost computes."""
    computed_bytes = batch * cost.cache_bytes(spec, capacity, dtype)["total"]
    return Measurement(
        what="cache",
        side="ours",
        case=case,
        unit="B",
        values=[float(ours.cache_bytes())],
        facts={"arch.cost": computed_bytes, "capacity": capacity},
    )


def memory(journal, spec, name, context, bench_spec):
    """Measure the peak memory of a training step, each side in its own process."""
    ours = ["ours", *(f"ours {kind}" for kind in bench_spec.precisions)]
    for side in [*ours, *asked(journal, bench_spec, "memory")]:
        facts = in_child(training_memory, spec.dump(), side, context, bench_spec.dump(), threads=bench_spec.threads)
        journal.add(
            Measurement(
                what="memory",
                side=side,
                case={"spec": name, "context": context},
                unit="B",
                values=[float(facts["peak"] - facts["before"])],
                facts=facts,
            )
        )


def training_memory(spec, side, context, bench_options):
    """{before, peak}: the bytes that this process holds before the model is built, and at most in a training step."""
    spec, device = ModelSpec.parse(spec), torch.device(bench_options["device"])
    if side == "hf":
        import transformers  # noqa: F401  (memory of the package itself is not part of a step)
    before = held_bytes(device)
    if side == "hf":
        measured_side: Ours | Peer = Peer(spec, device, bench_options["dtype"])
    else:
        measured_side = Ours(spec, device, bench_options["dtype"], precision=side.removeprefix("ours").strip() or None)
    measured_side.start_optimizer()
    forget_peak(device)
    measured_side.training(bench_options["tokens"] // context, context)()
    return {"before": before, "peak": peak_bytes(device)}


def profile(journal, spec, name, context, bench_spec, device):
    """Profile our training step."""
    ours = Ours(spec, device, bench_spec.dtype)
    step = ours.training(bench_spec.tokens // context, context)
    step_profile = profiled(step, {"spec": name, "context": context}, device)
    journal.change(profiles=[*journal.record.profiles, step_profile])
