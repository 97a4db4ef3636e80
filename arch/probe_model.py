"""What planning asks of a model before it is trained: that its own components do what they say, and that it is causal.

`check_components` runs the battery of `arch.probe` on each component of a user's own. `check_causal` changes tokens of
whole rows, in a model of the same layers (`arch.shrunk`), and so finds what no component is to blame for alone: a norm
over time, or parts put together wrongly. Either is done once per process for what is the same.

`check_trained` asks it again of a model whose weights are trained, at its size and on rows of its data: what is planned
knows neither.

Shapes: B rows, T tokens, P perturbations (one per row).
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from arch import blame, cost, probe, registry, shrunk
from arch.document import Node
from arch.layout import TokenLayout
from arch.model import Model
from arch.model_spec import SUBLAYERS, ModelSpec
from arch.parameters import Context
from arch.plugins import is_plugin
from arch.probe import COSTED_KINDS, Broken, Case

# The most parameters of what is run: of one component, of a model's layers together. More is halved first.
COMPONENT, LAYERS = 1 << 17, 1 << 20
FULL = 1 << 24  # the most of what raises an error when it is halved
TOKENS = 256  # in a row, where a caller names no context
# {kind of component: why no plug-in of it is asked}
UNASKED = {
    "tower": "there is no battery for a tower",
}
ROUNDING = 1e-4  # of a hidden channel's largest value: rounding that grew through the layers
# The same where layers compute in a type of fewer bits than float32: one that is rounded the other way, in a few layers.
COARSE = 4 * torch.finfo(torch.bfloat16).eps


class NotCausal(ValueError):
    """A model that says it is causal is not, with the weights that it has."""


def check_components(spec: ModelSpec, root: Node, path: tuple[str, ...] = (), tokens: int = TOKENS, gpu: bool = False) -> list[str]:
    """Raises SpecError, at its place in the document, for a plug-in component that does not do what it says or has no cost.

    Asked is every component of a user's own in a block that the layers use, the pool, and what rounds weights. tokens: of the
    rows that it must read. gpu: whether it is for a GPU, and need not run on this CPU. Returns notes on what could not be asked.
    """
    notes = []
    for where, kind, resolved in spec.components():
        stack = spec.encoder_spec if where[0] == "encoder" else spec
        layers = stack.layer_blocks()
        if not is_plugin(resolved["type"]) or (kind in SUBLAYERS and where[-2] not in layers):
            continue
        if kind in UNASKED:
            notes.append(f"{resolved['type']} was not checked: {UNASKED[kind]}")
            continue
        layer = layers.index(where[-2]) if kind in SUBLAYERS else 0
        source_dim = spec.encoder_spec.dim if kind == "cross" and spec.encoder_spec is not None else None
        context = Context(stack.dim, layer, stack.layers, stack.norm_eps, stack.init, source_dim)
        cls = registry.component(kind, resolved["type"])
        failure, note = _broken(cls, kind, json.dumps(resolved), context, tokens, gpu)
        if kind in COSTED_KINDS:
            failure = failure or _uncosted(cls, kind, json.dumps(resolved), context, tokens)
        if failure:
            line = f" ({place})" if failure.startswith("gives ") and (place := blame.forward(cls)) else ""
            raise root.error(f"{resolved['type']} {failure}{line}", (*path, *where))
        if note:
            notes.append(f"{resolved['type']} was not checked: {note}")
    return notes


@functools.lru_cache(maxsize=256)
def _broken(cls, kind, resolved, context, tokens, gpu):
    """(what is wrong with a component, in words that follow its name, or empty; why it could not be checked, or empty).

    cls: its class. resolved: it with its options, as JSON. What raises an error when narrowed is tried as it is.
    """
    full = json.loads(resolved), context
    narrow, raised = shrunk.component(kind, *full, COMPONENT), ""
    sizes = [narrow] if narrow == full else [narrow, *([full] if (shrunk.parameters(kind, *full) or 0) <= FULL else [])]
    for options, place in sizes:
        for device in _devices(gpu):
            try:
                it = probe.subject(kind, options, place, tokens, device=device)
            except Broken as broken:
                return str(broken), ""
            failed = next((each for each in probe.findings(it, thorough=False) if each.wrong), None)
            if not (failed and failed.raised):
                return failed.failure if failed else "", ""
            raised = failed.failure
    if gpu and len(_devices(gpu)) == 1:
        return "", f"without a GPU it {raised}"
    return ("", f"made narrower, it {raised}") if full not in sizes else (raised, "")


@functools.lru_cache(maxsize=256)
def _uncosted(cls, kind, resolved, context, tokens):
    """Why a component cannot be costed, or empty. Arguments as of `_broken`."""
    return cost.failure(kind, json.loads(resolved), context, tokens)


def _devices(gpu):
    return ["cpu", "cuda"] if gpu and torch.cuda.is_available() else ["cpu"]


def check_causal(spec: ModelSpec, root: Node, path: tuple[str, ...] = (), tokens: int = TOKENS, gpu: bool = False) -> list[str]:
    """Raises SpecError for a model in which a token changes what comes before it, or what another document gives.

    The error is at the sub-layer where this begins, if it is one. Arguments and result as of `check_components`.
    """
    parts = {(kind, part["type"]) for block in spec.blocks.values() for kind, part in block.sublayers().items()}
    classes = frozenset(registry.component(*part) for part in parts)
    found, note = _leak(classes, json.dumps(spec.dump()), tokens, gpu)
    if found:
        where, words = found
        raise root.error(words, (*path, *where))
    return [f"the model was not checked to be causal: {note}"] if note else []


@functools.lru_cache(maxsize=256)
def _leak(classes, dumped, tokens, gpu):
    """((place in the spec, words) or None, why it could not be checked or empty) of a model.

    classes: of its parts. dumped: its resolved spec as JSON. What raises an error when narrowed is tried as it is.
    """
    full = ModelSpec.parse(json.loads(dumped))
    narrow, raised = shrunk.model(full, LAYERS), ""
    deep = shrunk.model(full, most=FULL)
    for spec in [narrow] if narrow == deep else [narrow, deep]:
        for device in _devices(gpu):
            try:
                return causal_failure(spec, tokens, device), ""
            except (Exception, SystemExit) as error:
                act = "calls" if isinstance(error, SystemExit) else "raises"
                raised = f"{act} {blame.words(error)}"
    return None, f"made small, it {raised}"


def causal_failure(spec: ModelSpec, tokens: int = TOKENS, device: str = "cpu") -> tuple[tuple[str, ...], str] | None:
    """(place in the spec, words) of a leak in the model of a resolved ModelSpec, which runs as it is; None if causal."""
    with probe.alike():
        model = Model(spec)
        probe.shaken(model)
        model.to(device)
        for case in _cases(tokens):
            found = _trespass(model, case, device)
            if found:
                return _placed(model, case, found, device)
    return None


def _cases(tokens):
    """Short rows, in which every token is changed alone, then long ones as the data may have, mostly in training mode."""
    short, longest = min(probe.EVEN, tokens), min(tokens, TOKENS)
    for documents in (None, probe.packed(short)):
        for training in probe.MODES:
            yield Case(short, documents, training)
    if longest > short:
        yield Case(longest)
        yield Case(longest, training=True)
        yield Case(longest, probe.packed(longest), training=True)


def check_trained(model: Model, tokens_BT: Tensor, layout: TokenLayout, rounding: float = ROUNDING) -> None:
    """Raises NotCausal if a token of these rows changes what the model gives before it.

    The model runs as it is: the caller puts it into evaluation mode, without gradients. Every token from a cut on is
    changed, at a quarter, a half and the last token of the first row, and one token further on in each row after it. Draws
    no random number.
    """
    (rows, tokens), vocabulary = tokens_BT.shape, model.spec.vocab_size
    if tokens < 2 or vocabulary < 2:
        return
    index_T, row_B = (torch.arange(size, device=tokens_BT.device) for size in (tokens, rows))

    def changed(places_BT: Tensor) -> Tensor:
        with probe.alike(torch.get_num_threads()):
            other_BTD = model.trunk(torch.where(places_BT, _other(tokens_BT, vocabulary), tokens_BT), _fresh(layout))[0]
        return probe.changes(plain_BTD, other_BTD, rounding).to(places_BT.device) & (layout.doc_BT >= 0)

    with probe.alike(torch.get_num_threads()):
        plain_BTD = model.trunk(tokens_BT, _fresh(layout))[0]
    for cut in dict.fromkeys((max(1, tokens // 4), tokens // 2, tokens - 1)):
        cut_B1 = ((cut - 1 + row_B) % (tokens - 1) + 1)[:, None]
        after_BT = index_T >= cut_B1
        leaks_BT = changed(after_BT) & ~after_BT
        if not leaks_BT.any():
            continue
        b, t = (int(i) for i in torch.nonzero(leaks_BT)[0])
        members = torch.nonzero(after_BT[b])[:, 0].tolist()
        while len(members) > 1:
            half = members[: len(members) // 2]
            places_BT = torch.zeros_like(after_BT)
            places_BT[b, half] = True
            members = half if changed(places_BT)[b, t] else members[len(members) // 2 :]
        raise NotCausal(f"says causal, but with its trained weights token {members[0]} changes the output at {t}")


def _fresh(layout):
    """The layout without what a mixer kept in it for other contents."""
    return TokenLayout(layout.doc_BT, layout.pos_BT, layout.first)


def _ids(places_PT, vocabulary):
    """Tokens (P, T), another one at each place."""
    generator = torch.Generator().manual_seed(places_PT.shape[1])
    ids_T = torch.randint(vocabulary, places_PT.shape[1:], generator=generator)
    return torch.where(places_PT, _other(ids_T, vocabulary), ids_T)


def _other(ids, vocabulary):
    """Another token for each."""
    return (ids + 1 + ids % max(1, vocabulary - 1)) % vocabulary


def _trespass(model, case, device):
    def outputs(places_PT):
        model.train(case.training)
        ids_PT = _ids(places_PT, model.spec.vocab_size).to(device)
        with probe.alike(), torch.set_grad_enabled(case.training):
            return model(ids_PT, case.layout(len(ids_PT), device)).detach()

    may_ST = probe.allowed(case, (None, 0))
    most = probe.affordable(sum(weight.numel() for weight in model.parameters()), case.tokens)
    return probe.trespass(case, may_ST, probe.perturbations(case, may_ST, most), outputs, ROUNDING)


def _placed(model, case, pair, device):
    """(place in the spec, words) of the first sub-layer whose output at t token s changes; pair: (s, t)."""
    s, t = pair
    places_1T = torch.zeros(1, case.tokens, dtype=torch.bool)
    outputs = []
    for place in (False, True):
        places_1T[0, s] = place
        with _watched(model) as seen, probe.alike(), torch.set_grad_enabled(case.training):
            model(_ids(places_1T, model.spec.vocab_size).to(device), case.layout(1, device))
        outputs.append(seen)
    sees = "a later token" if probe.relation(case, s, t) == "later" else "another document"
    words = f"token {s} changes the output at {t}{case.words}"
    for layer, kind, part in outputs[0]:
        plain_1TD, other_1TD = (seen[layer, kind, part] for seen in outputs)
        if probe.changes(plain_1TD, other_1TD, ROUNDING)[0, t]:
            name = model.spec.layer_blocks()[layer]
            component = getattr(model.spec.blocks[name], kind)["type"]
            who = component if part == "component" else f"what is around {component}"
            return ("blocks", name, kind), f"{who} lets the model see {sees} (layer {layer}): {words}"
    return (), f"the model sees {sees}: {words}"


@contextmanager
def _watched(model: Model) -> Iterator[dict[tuple[int, str, str], Tensor]]:
    """{(layer, kind, part): output (1, T, D)} of each component and of the sub-layer around it, in order, as it runs."""
    seen: dict[tuple[int, str, str], Tensor] = {}

    def keep(key):
        def hook(module: Any, inputs: Any, output: Any) -> None:
            seen[key] = (output[0] if isinstance(output, tuple) else output).detach()

        return hook

    hooks = []
    sublayer: Any
    for layer, block in enumerate(model.blocks):
        for kind, sublayer in block.named_children():
            for part, module in (("component", sublayer.component), ("sublayer", sublayer)):
                hooks.append(module.register_forward_hook(keep((layer, kind, part))))
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()
