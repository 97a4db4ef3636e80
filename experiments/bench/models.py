"""Measurements of a model: training, prefill and decoding, memory, and a profile of a training step."""

import torch

from arch import cost
from arch.spec import ModelSpec
from experiments import compiled
from experiments.bench import products
from experiments.bench.child import Lodger, forget_peak, held_bytes, in_child, peak_bytes
from experiments.bench.profile import profiled
from experiments.bench.record import Measurement
from experiments.bench.sides import Ours, Peer, StockPeer, tokens_of


def sides_of(spec, name, asked, device):
    """The sides to compare: {side: Ours or Peer}."""
    ours = Ours(spec, device, asked.dtype)
    sides = {"ours": ours}
    if asked.compile:
        sides["compiled"] = Ours(spec, device, asked.dtype, compile=True)
    if asked.against:
        sides[asked.against] = Peer(spec, device, asked.dtype, ours.model, name)
    return sides


def training(journal, spec, name, context, asked, device):
    """Time, in turns, a training step of every side and the matrix products of our step alone.

    With `stock`, then time our step in turns with the peer in its own untouched process.
    """
    rows = asked.tokens // context
    sides = sides_of(spec, name, asked, device)
    steps = {side: each.training(rows, context) for side, each in sides.items()}
    found = products.noted(steps["ours"])
    steps["products"] = products.alone(found.products, device)
    facts = {"products": {"flops": found.flops, "count": len(found.products), "not in it": dict(found.opaque)}}
    if "compiled" in steps:
        before = compiled.seconds_so_far()
        steps["compiled"]()
        facts["compiled"] = {"compile seconds": compiled.seconds_so_far() - before}
    case, work = {"spec": name, "context": context}, rows * context
    journal.time("train", steps, case, work, "tokens", facts)
    if asked.stock:
        with Lodger(StockPeer, spec.dump(), asked.device, asked.dtype, threads=asked.threads) as stock:
            stock.call("prepare_training", rows, context)
            beside = {"ours": steps["ours"], asked.against: lambda: stock.call("train")}
            journal.time("train stock", beside, case, work, "tokens", lodger=stock)


def decoding(journal, spec, name, context, batch, asked, device):
    """Time the prefill of `context` tokens and decoding `decode_tokens` per round; measure our cache.

    With `stock`, then do the same in turns with the peer in its own untouched process.
    """
    sides = sides_of(spec, name, asked.model_copy(update={"compile": False}), device)
    case = {"spec": name, "context": context, "batch": batch}
    prompt_BT = tokens_of(spec, batch, context, device)
    further = asked.decode_tokens * (asked.repeats + 1)
    fills = {side: lambda each=each: each.fill(prompt_BT, further) for side, each in sides.items()}
    decodes = {side: lambda each=each: each.decode(asked.decode_tokens) for side, each in sides.items()}
    work, decoded = batch * context, batch * asked.decode_tokens
    journal.time("prefill", fills, case, work, "tokens")
    journal.time("decode", decodes, case, decoded, "tokens")
    journal.add(cache_of(sides["ours"], spec, case, context + further, batch, asked.dtype))
    if asked.stock:
        with Lodger(StockPeer, spec.dump(), asked.device, asked.dtype, threads=asked.threads) as stock:
            fills = {"ours": fills["ours"], asked.against: lambda: stock.call("fill", batch, context, further)}
            decodes = {"ours": decodes["ours"], asked.against: lambda: stock.call("decode", asked.decode_tokens)}
            journal.time("prefill stock", fills, case, work, "tokens", lodger=stock)
            journal.time("decode stock", decodes, case, decoded, "tokens", lodger=stock)


def cache_of(ours, spec, case, capacity, batch, dtype):
    """The bytes of our decoding state, beside the number that arch.cost computes."""
    said = batch * cost.cache_bytes(spec, capacity, dtype)["total"]
    return Measurement(
        what="cache",
        side="ours",
        case=case,
        unit="B",
        values=[float(ours.cache_bytes())],
        facts={"arch.cost": said, "capacity": capacity},
    )


def memory(journal, spec, name, context, asked):
    """Measure the peak memory of a training step, each side in its own process."""
    for side in ["ours"] + ([asked.against] if asked.against else []):
        facts = in_child(training_memory, spec.dump(), side, context, asked.dump(), threads=asked.threads)
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


def training_memory(spec, side, context, asked):
    """{before, peak}: the bytes that this process holds before the model is built, and at most in a training step."""
    spec, device = ModelSpec.parse(spec), torch.device(asked["device"])
    if side == "hf":
        import transformers  # noqa: F401  (memory of the package itself is not part of a step)
    before = held_bytes(device)
    made = {"ours": Ours, "hf": Peer}[side](spec, device, asked["dtype"])
    made.start_optimizer()
    forget_peak(device)
    made.training(asked["tokens"] // context, context)()
    return {"before": before, "peak": peak_bytes(device)}


def profile(journal, spec, name, context, asked, device):
    """Profile our training step."""
    ours = Ours(spec, device, asked.dtype)
    step = ours.training(asked.tokens // context, context)
    found = profiled(step, {"spec": name, "context": context}, device)
    journal.change(profiles=[*journal.record.profiles, found])
