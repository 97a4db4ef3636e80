"""Measurements of a model: training, prefill and decoding, memory, and a profile of a training step."""

from collections.abc import Callable

import torch

from arch import cost
from arch.model_spec import ModelSpec
from experiments import compiled
from experiments.bench import products
from experiments.bench.child import Lodger, in_child
from experiments.bench.profile import profiled
from experiments.bench.record import Measurement
from experiments.bench.sides import Ours, Peer, StockPeer, tokens_of
from experiments.memory import forget_peak, held_bytes, peak_bytes


def sides_of(spec, name, bench_spec, device):
    """The sides to compare: {side: Ours or Peer}."""
    ours = Ours(spec, device, bench_spec.dtype)
    sides: dict[str, Ours | Peer] = {"ours": ours}
    if bench_spec.compile:
        sides["compiled"] = Ours(spec, device, bench_spec.dtype, compile=True)
    if bench_spec.against:
        sides[bench_spec.against] = Peer(spec, device, bench_spec.dtype, ours.model, name)
    return sides


def training(journal, spec, name, context, bench_spec, device):
    """Time, in turns, a training step of every side and the matrix products of our step alone.

    With `stock`, then time our step in turns with the peer in its own untouched process.
    """
    rows = bench_spec.tokens // context
    sides = sides_of(spec, name, bench_spec, device)
    steps = {side: each.training(rows, context) for side, each in sides.items()}
    floor = products.noted(steps["ours"])
    steps["products"] = products.alone(floor.products, device)
    facts = {"products": {"flops": floor.flops, "count": len(floor.products), "not in it": dict(floor.opaque)}}
    if "compiled" in steps:
        before = compiled.seconds_so_far()
        steps["compiled"]()
        facts["compiled"] = {"compile seconds": compiled.seconds_so_far() - before}
    case, work = {"spec": name, "context": context}, rows * context
    journal.time("train", steps, case, work, "tokens", facts)
    if bench_spec.stock:
        with Lodger(StockPeer, spec.dump(), bench_spec.device, bench_spec.dtype, threads=bench_spec.threads) as stock:
            stock.call("prepare_training", rows, context)
            beside = {"ours": steps["ours"], bench_spec.against: lambda: stock.call("train")}
            journal.time("train stock", beside, case, work, "tokens", lodger=stock)


def decoding(journal, spec, name, context, batch, bench_spec, device):
    """Time the prefill of `context` tokens and decoding `decode_tokens` per round; measure our cache.

    With `stock`, then do the same in turns with the peer in its own untouched process.
    """
    sides = sides_of(spec, name, bench_spec.model_copy(update={"compile": False}), device)
    case = {"spec": name, "context": context, "batch": batch}
    prompt_BT = tokens_of(spec, batch, context, device)
    further = bench_spec.decode_tokens * (bench_spec.repeats + 1)
    fills: dict[str, Callable] = {side: lambda each=each: each.fill(prompt_BT, further) for side, each in sides.items()}
    decodes: dict[str, Callable] = {side: lambda each=each: each.decode(bench_spec.decode_tokens) for side, each in sides.items()}
    work, decoded = batch * context, batch * bench_spec.decode_tokens
    journal.time("prefill", fills, case, work, "tokens")
    journal.time("decode", decodes, case, decoded, "tokens")
    journal.add(cache_of(sides["ours"], spec, case, context + further, batch, bench_spec.dtype))
    if bench_spec.stock:
        with Lodger(StockPeer, spec.dump(), bench_spec.device, bench_spec.dtype, threads=bench_spec.threads) as stock:
            peer = bench_spec.against
            fills = {"ours": fills["ours"], peer: lambda: stock.call("fill", batch, context, further)}
            decodes = {"ours": decodes["ours"], peer: lambda: stock.call("decode", bench_spec.decode_tokens)}
            journal.time("prefill stock", fills, case, work, "tokens", lodger=stock)
            journal.time("decode stock", decodes, case, decoded, "tokens", lodger=stock)


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
    for side in ["ours"] + ([bench_spec.against] if bench_spec.against else []):
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
    measured_side = {"ours": Ours, "hf": Peer}[side](spec, device, bench_options["dtype"])
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
