"""Measurements other than those of named models: the linear scan, the loss of a large vocabulary, and time per token by context.

The scan is compared with a * b of the same shape, the loss with plain cross-entropy, a long context with a short one.

Shapes: B rows, T tokens, R channels, D model width, V vocabulary.
"""

from types import SimpleNamespace

import torch
import torch.nn.functional as F

from arch import registry, units
from arch.kernels.linear_scan import linear_scan
from arch.layout import TokenLayout
from arch.model import new_model
from arch.model_spec import ModelSpec
from experiments.bench.child import in_child
from experiments.bench.record import Measurement
from experiments.bench.sides import Ours, tokens_of
from experiments.data.batch import Batch, Rows
from experiments.device import free_bytes, release_memory
from experiments.memory import forget_peak, held_bytes, peak_bytes

SCAN_SHAPES = ((8, 512, 256), (1, 4096, 256), (4, 2048, 1024))
# Tensors of B x T x R that must be read or written. SCAN_MOVES: a, b, h forward; g, a, h, da, db backward.
# PRODUCT_MOVES: those of a * b.
SCAN_MOVES, PRODUCT_MOVES = 8, 3
SCAN_SECONDS = 1.0  # if a call takes less than a millisecond, its first rounds are slower than the others
LOSS_TOKENS, LOSS_DIM = 4096, 640
# Tensors of the size of the logits in the plain path: logits, log-probabilities and two gradients.
PLAIN_LOGITS = 4
REACH_CONTEXTS, REACH_TOKENS = (2048, 16_384), 16_384
DECODE_CONTEXTS = (1024, 32_768)


def scan(journal, bench_spec, device):
    """Bytes per second that `linear_scan`, forward and backward, must move, beside those of a * b into fresh memory."""
    for shape in SCAN_SHAPES:
        a_BTR = torch.empty(shape, device=device).uniform_(0.9, 0.999).requires_grad_()
        b_BTR = torch.randn(shape, device=device, requires_grad=True)
        g_BTR, h0_BR = torch.randn(shape, device=device), torch.zeros(shape[0], shape[2], device=device)

        def both_ways(a_BTR=a_BTR, b_BTR=b_BTR, g_BTR=g_BTR, h0_BR=h0_BR):
            torch.autograd.grad(linear_scan(a_BTR, b_BTR, h0_BR), (a_BTR, b_BTR), g_BTR)

        operands = a_BTR.detach(), b_BTR.detach()

        def product(a_BTR=operands[0], b_BTR=operands[1]):
            return a_BTR * b_BTR

        works = {"ours": SCAN_MOVES * a_BTR.nbytes, "fresh a * b": PRODUCT_MOVES * a_BTR.nbytes}
        sides = {"ours": both_ways, "fresh a * b": product}
        journal.time("scan", sides, {"shape": list(shape)}, works, "B", least=SCAN_SECONDS)


def loss(journal, bench_spec, device):
    """Time and extra memory of the loss with a large vocabulary: the objective's path and the plain path."""
    case = {"vocabulary": bench_spec.vocabulary, "tokens": LOSS_TOKENS, "dim": LOSS_DIM}
    sides, needed = ["ours", "plain"], PLAIN_LOGITS * 4 * bench_spec.vocabulary * LOSS_TOKENS
    if device.type == "cpu" and needed > free_bytes():
        sides.remove("plain")
        journal.note(f"loss: the plain path needs {units.size(needed)}, {units.size(free_bytes())} are free; not timed")
    for side in sides:
        facts = in_child(loss_memory, side, bench_spec.vocabulary, bench_spec.device, threads=bench_spec.threads)
        bytes_taken = [float(facts["extra"])]
        journal.add(Measurement(what="loss memory", side=side, case=case, unit="B", values=bytes_taken, facts=facts))
    paths = loss_paths(bench_spec.vocabulary, device)
    journal.time("loss", {side: paths[side] for side in sides}, case, LOSS_TOKENS, "tokens")


def loss_paths(vocabulary, device, tokens=LOSS_TOKENS):
    """{side: function that computes loss and gradients}, with the objective's path (`ours`) and plain cross-entropy.

    The model is a V x D head with almost nothing before it. Its inputs are embeddings instead of tokens. The result
    also has the model (`weights`) and its inputs (`inputs`).
    """
    ffn = {"type": "gated", "hidden": 1}
    data = {"dim": LOSS_DIM, "vocab_size": vocabulary, "layers": 1, "pattern": ["f"], "blocks": {"f": {"ffn": ffn}}}
    spec = registry.resolve(ModelSpec.parse(data), data)
    model = new_model(spec, seed=0).to(device)
    objective = registry.build(
        "objective", {"type": "next_token"}, SimpleNamespace(byte_lengths=torch.ones(vocabulary, dtype=torch.long))
    )
    objective = objective.to(device)
    x_BTD = torch.randn(1, tokens, LOSS_DIM, device=device, requires_grad=True)
    layout = TokenLayout.whole(1, tokens, device)
    targets_BT = tokens_of(spec, 1, tokens, device)
    batch = Batch.text(Rows(x_BTD, layout, targets_BT))

    def once(path):
        def run():
            model.zero_grad()
            x_BTD.grad = None
            path().backward()

        return run

    def plain():
        logits_NV = model(x_BTD, layout).flatten(0, 1)
        return F.cross_entropy(logits_NV.float(), targets_BT.flatten(), reduction="sum")

    return {"ours": once(lambda: objective(model, batch)["loss"].sum), "plain": once(plain), "weights": model, "inputs": x_BTD}


def loss_memory(side, vocabulary, device, tokens=LOSS_TOKENS):
    """{before, gradients, extra}, in bytes: memory held before, all gradients, and the peak beyond these two."""
    device = torch.device(device)
    small = loss_paths(64, device, tokens=64)
    small[side]()  # at first use, libraries allocate memory of their own
    paths = loss_paths(vocabulary, device, tokens)
    release_memory()  # otherwise the loss could reuse freed memory and seem to need less than it does
    forget_peak(device)
    before = held_bytes(device)
    paths[side]()
    weights = [*paths["weights"].parameters(), paths["inputs"]]
    gradients = sum(weight.grad.nbytes for weight in weights)
    return {"before": before, "gradients": gradients, "extra": peak_bytes(device) - before - gradients}


def reach(journal, bench_spec, device):
    """Training tokens per second and time per decoded token, at a long context beside a short one.

    The models have only windowed attention or recurrences, so neither number should depend on the context.
    """
    specs = {"window-only": shipped("small/gemma3", pattern=["local"]), "recurrent": shipped("small/recurrentgemma")}
    for name, spec in specs.items():
        model = Ours(spec, device, bench_spec.dtype)
        steps = {str(context): model.training(REACH_TOKENS // context, context) for context in REACH_CONTEXTS}
        journal.time("reach", steps, {"model": name}, REACH_TOKENS, "tokens")
    spec, sides = specs["recurrent"], {}
    for context in DECODE_CONTEXTS:
        model = Ours(spec, device, bench_spec.dtype)
        model.fill(tokens_of(spec, 1, context, device), bench_spec.decode_tokens * (bench_spec.repeats + 1))
        sides[str(context)] = lambda model=model: model.decode(bench_spec.decode_tokens)
    journal.time("decode reach", sides, {"model": "recurrent + window"}, bench_spec.decode_tokens, "tokens")


def shipped(name, **changes):
    """A shipped model spec, resolved, with some keys changed."""
    from arch import document

    root = document.overridden(document.load(name, "arch"), document.node(changes))
    return registry.resolve(ModelSpec.parse(root), root)
