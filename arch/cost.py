"""The cost of a resolved ModelSpec before any weight exists: parameters, FLOPs per token, cache, training memory.

Everything is measured on the meta device, where tensors have shapes but no storage. Each distinct block is built and
run once, and its cost is multiplied by its number of layers. A new component therefore needs no code here.

Shapes: N tokens of context (one row, one document), D width, V vocabulary.

There are two FLOP counts. A multiply-add counts as two. Both include the head (2 D V) at every position. A model with a pool has
no head: instead they include what pool and projections compute once of a row of N tokens, which is one text. Neither includes
element-wise work (norms, activations, softmax, the depthwise convolution), the embedding lookup or the loss.

ideal     what the visible pairs need: 2 per weight of every map, plus the mixer's own `mixing_flops(layout)` if it has
          one. prefill: the average over the N positions. decode: what the last position adds. train: 3 x prefill.
executed  what `torch.utils.flop_counter` sees on the path that the meta device takes, which is the CPU's: attention in
          blocks, whose backward pass recomputes the scores. train: forward and backward over N tokens, divided by N.
          prefill: a forward without a state over N tokens, divided by N. decode: one token with a state of capacity N
          that has seen N - 1 tokens. The linear scan counts 2 per channel and token.

A map is a parameter of the kind `matrix`, a stack of small ones included.

An encoder-decoder shares a row of N tokens between its stacks, half of them (rounded down) source and the rest target, as text
that is cut in two: FLOPs are those of both stacks, per token of the row. Its cache is the decoder's: its own tokens, and in the
layers that read the encoder the keys and values of the source. A decoded token is the last of the target.

FLOPs per token are those of the language model, also for the tokens of an image; what a tower computes for an image comes
once per image on top (`vision`). `ideal` counts text, in which no token sees a later one; `looking_ahead` counts what images add.
"""

import functools
from collections import Counter
from contextlib import nullcontext
from dataclasses import dataclass, fields, is_dataclass, replace
from itertools import pairwise

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from arch import blame, quantised, registry
from arch.encoded import Encoded
from arch.errors import SpecError, nearest
from arch.kernels import products
from arch.kernels.attention.masked import FLOPS
from arch.kernels.cross_entropy import Targets, chunked
from arch.layout import TokenLayout
from arch.model import Block, Model
from arch.model_spec import ENCODER, SUBLAYERS, BlockSpec
from arch.parameters import Context
from arch.plugins import is_plugin
from arch.spec import digest

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
OPTIMIZER_BYTES = 8  # AdamW: two float32 moments per parameter
VECTOR = torch.float32  # the type of a text's vector, whatever the weights are (`Model.encode`)


def outline(spec, context, dtype="float32"):
    """The costs of `summary` that need shapes alone, without running any block: a hundred times as fast. As plain data.

    flops_per_token: `ideal` alone.

    state_bytes: for one stream, of the mixers whose state does not grow with the context (`state_size: constant`): 0 for a
    model of attention, which has a cache alone. decode_bytes: what one stream reads for the next token after a context of N
    tokens: every weight once, and the whole cache; of an embedding that is not tied to the head, one row. Both in `dtype`,
    except what a mixer keeps in float32; None for a model that does not decode: one that sees ahead or has a pool.
    Of an encoder-decoder, the weights of the decoder: a decoded token does not run the encoder.
    vector_bytes: of the vector of one text, E numbers in float32; None for a model without a pool. It is what an encoder
    keeps of a text where a language model keeps a cache, and depends on no number of tokens. Raises SpecError as `summary`.
    vision: of a model with a tower, `images`. Its parameters are in `total`, but in neither `embedding` nor `non_embedding`.
    """
    _check(context, dtype)
    layers, size = spec.layer_blocks(), DTYPES[dtype].itemsize
    counts = Counter(layers)
    source, target = shares(spec, context)
    blocks = {name: _block(spec, name, layers.index(name)) for name in counts}
    sizes = {name: sum(weight.numel() for weight in block.parameters()) for name, block in blocks.items()}
    frame, head = _frame(spec, DTYPES[dtype]), spec.dim * spec.vocab_size
    parameters = sum(weight.numel() for weight in frame.parameters()) + sum(counts[name] * sizes[name] for name in counts)
    embedding = head if spec.tie_embeddings else 2 * head
    vision = images(frame)
    seeing = sum(vision["parameters"].values()) if vision else 0
    cache = _by_layer(layers, {name: _cache_of(spec, block, context, dtype) for name, block in blocks.items()})
    state = {name: _state(_mixer(block), DTYPES[dtype]) for name, block in blocks.items()}
    read = parameters if spec.tie_embeddings else parameters - head + spec.dim
    read -= seeing  # no image is read while a token is decoded
    ideal = {name: _ideal(block, target, source) for name, block in blocks.items()}
    behind = {"prefill": 2 * head * target, "decode": 2 * head} if frame.pool is None else _pooling(frame, context)
    beside = _encoder_outline(spec, source)
    behind["prefill"] += beside["flops"]
    parameters, embedding = parameters + beside["parameters"], embedding + beside["embedding"]
    pooled = sum(weight.numel() for module in (frame.pool, frame.project) if module for weight in module.parameters())
    return {
        "parameters": {
            "total": parameters,
            "embedding": embedding,
            "non_embedding": parameters - embedding - seeing,
            "pool": pooled,
            **({} if spec.encoder is None else {"encoder": beside["parameters"]}),
            "layers": [sizes[name] for name in layers],
        },
        "flops_per_token": {"ideal": _by_token(_ideal_of_model(ideal, counts, behind), context)},
        "cache_bytes": cache,
        "state_bytes": None if cache["total"] is None else sum(counts[name] * state[name] for name in counts),
        "decode_bytes": None if cache["total"] is None else read * size + cache["total"],
        "vector_bytes": None if spec.pool is None else spec.vector_dim * VECTOR.itemsize,
        "layers": layers,
        "context": context,
        "dtype": dtype,
        **({"vision": vision} if vision else {}),
    }


def images(model):
    """What images cost a Model with a tower, as plain data; None without one.

    parameters: {encoder, projection}; the norm between them counts as the projection's. tokens: of an image. flops_per_image:
    {forward, train}; of a frozen encoder only the forward pass is trained with. trained: parameters that are trained.
    """
    tower = model.vision
    if tower is None:
        return None
    total, encoder = (sum(weight.numel() for weight in part.parameters()) for part in (tower, tower.encoder))
    flops, frozen = tower.image_flops(), tower.config.frozen
    return {
        "parameters": {"encoder": encoder, "projection": total - encoder},
        "tokens": tower.config.tokens,
        "flops_per_image": {
            "forward": sum(flops.values()),
            "train": (1 if frozen else 3) * flops["encoder"] + 3 * flops["projection"],
        },
        "trained": sum(weight.numel() for weight in tower.parameters() if weight.requires_grad),
    }


def looking_ahead(spec, image_BT):
    """Ideal FLOPs of a forward pass over rows with images, less those over rows of text alone: of the later tokens that are seen.

    image_BT: as of `TokenLayout`. 0 for a model without a tower.
    """
    if spec.vision is None:
        return 0
    plain = TokenLayout.whole(*image_BT.shape)
    seen = TokenLayout.whole(*image_BT.shape).with_images(image_BT).seeing(spec.vision["spans"])
    layers = spec.layer_blocks()
    mixers = {name: _mixer(_block(spec, name, layers.index(name))) for name in set(layers)}
    mixing = [mixers[name].mixing_flops for name in layers if hasattr(mixers[name], "mixing_flops")]
    return sum(int(each(seen)) - int(each(plain)) for each in mixing)


def shares(spec, context):
    """(tokens of the source, tokens of the target) of a row of `context` tokens; no source where there is no encoder."""
    if spec.encoder is None:
        return 0, context
    source = max(1, context // 2)
    return source, max(1, context - source)


def _encoder_outline(spec, tokens):
    """{parameters, embedding, flops} of the encoder beside a decoder, which reads so many tokens; zeros where there is none."""
    stack = spec.encoder_spec
    if stack is None:
        return {"parameters": 0, "embedding": 0, "flops": 0}
    layers = Counter(stack.layer_blocks())
    blocks = {name: _block(stack, name, stack.layer_blocks().index(name)) for name in layers}
    sizes = {name: sum(weight.numel() for weight in block.parameters()) for name, block in blocks.items()}
    table = stack.dim * stack.vocab_size if spec.encoder.embedding == "own" else 0
    return {
        "parameters": table + stack.dim + sum(layers[name] * sizes[name] for name in layers),  # and its final norm
        "embedding": table,
        "flops": _total({name: _ideal(block, tokens)["prefill"] for name, block in blocks.items()}, layers, 0),
    }


def _ideal_of_model(blocks, counts, behind):
    """Ideal FLOPs over the context from those of each block, and of what is behind the blocks."""
    prefill, decode = (_total({name: each[path] for name, each in blocks.items()}, counts, behind[path]) for path in behind)
    return {"prefill": prefill, "decode": decode, "train": 3 * prefill}


def _total(parts, counts, extra):
    """The sum over all layers, and `extra`; None if a block, or what is extra, has none. parts: {block: of one layer}."""
    return None if None in (extra, *parts.values()) else extra + sum(counts[name] * each for name, each in parts.items())


def summary(spec, context, dtype="float32", mixed=False):
    """All costs of a resolved ModelSpec at a context of N tokens, as plain data: those of `outline`, and what running
    every block on the meta device shows.

    parameters: `embedding` is the embedding matrix plus the head if it is not tied; `layers` has one number per layer.
    `pool` counts the pool and the maps behind it.
    `encoder`, of a model that has one, counts that stack with a table of its own, if it has one.
    cache_bytes: for one stream with capacity N, in `dtype`, except what a mixer keeps in float32. A model that sees ahead or
    has a pool does not decode: its cache and its decode FLOPs are None.
    training_bytes: weights and gradients in `dtype`, AdamW's moments, and `activations`: what autograd keeps for the
    backward pass of one row of N tokens. This includes the loss, which keeps a gradient of the hidden states and no logits.
    A frozen tower has weights alone. Not included: images (of each, `vision` has its `activations`), further rows,
    gradients of activations, workspaces (such as the loss's, of at most 512 MiB), rounding up by the allocator.
    mixed: training memory is that of float32 weights which compute in bfloat16 (`products.casting`): activations in bfloat16,
    and `casts`, the weights' second copy in bfloat16. A model with `quantise` has `rounded`, the copy that it computes with.
    Caches and what is decoded stay in `dtype`.
    notes: why a number is too low or absent. Raises SpecError for an unknown dtype or a context below 1.
    """
    with products.casting() if mixed else nullcontext():
        return _summary(spec, context, dtype)


def _summary(spec, context, dtype):
    known = outline(spec, context, dtype)
    layers, size = known["layers"], DTYPES[dtype].itemsize
    counts, frame = Counter(layers), _frame(spec, DTYPES[dtype])
    source, target = shares(spec, context)
    outside = _measured_once(_outside(spec, frame), target, dtype, lambda: _measured_frame(frame, target))
    blocks = _measured_blocks(spec, target, dtype, source)
    if spec.encoder is not None:
        stack = spec.encoder_spec
        table = _frame(stack, DTYPES[dtype])
        norm = _measured_once(("encoder", *_outside(stack, table)), source, dtype, lambda: _measured_trunk(table, source))
        outside = _added(outside, norm)
        beside = _measured_blocks(stack, source, dtype)
        blocks |= {ENCODER + name: replace(block, executed=block.executed | {"decode": 0}) for name, block in beside.items()}
        counts.update({ENCODER + name: count for name, count in Counter(stack.layer_blocks()).items()})

    def whole(part, extra):
        return _total({name: part(block) for name, block in blocks.items()}, counts, extra)

    executed = {path: whole(lambda block, path=path: block.executed[path], flops) for path, flops in outside.executed.items()}
    shared = {key: size for block in blocks.values() for key, size in block.shared.items()}
    parameters, trained = known["parameters"]["total"], known["parameters"]["total"]
    if vision := known.get("vision"):
        trained -= sum(vision["parameters"].values()) - vision["trained"]
        kept = _measured_once(("vision", digest(spec.vision), spec.dim), 1, dtype, lambda: _measured_image(frame.vision))
        known = {**known, "vision": {**vision, "activations": kept}}
    training = {
        "weights": parameters * size,
        "gradients": trained * size,
        "optimizer": trained * OPTIMIZER_BYTES,
        "activations": whole(lambda block: block.activations, outside.activations + sum(shared.values())),
    }
    if spec.quantise is not None:
        training["rounded"] = size * quantised.count(spec)
    if products.is_casting():
        training["casts"] = whole(lambda block: block.casts, outside.casts)
    return {
        **known,
        "flops_per_token": known["flops_per_token"] | {"executed": _by_token(executed, context)},
        "training_bytes": {**training, "total": sum(training.values())},
        "notes": [
            note
            for name, block in blocks.items()
            for note in _notes(name, block, encodes=spec.pool is not None or name.startswith(ENCODER))
        ],
    }


def _measured_blocks(spec, tokens, dtype, source=0):
    """{name: _Measured} of each distinct block of a stack, which reads so many tokens, and so many of a source."""
    layers, blocks = spec.layer_blocks(), {}
    for name in dict.fromkeys(layers):
        block = _block(spec, name, layers.index(name)).to(DTYPES[dtype])
        place = _context(spec, layers.index(name))
        run = functools.partial(_measured_block, block, spec.dim, tokens, (source, place.source_dim) if source else None)
        measured = _measured_once((*_decides(spec, name, block), source), tokens, dtype, run)
        blocks[name] = replace(measured, ideal=_ideal(block, tokens, source), says_mixing=_says_mixing(block))
    return blocks


def _added(outside, norm):
    """What is measured of a model without its layers, with that of the encoder beside it."""
    executed = {path: flops if path == "decode" else flops + norm.executed[path] for path, flops in outside.executed.items()}
    more = {key: getattr(outside, key) + getattr(norm, key) for key in ("activations", "casts")}
    return replace(outside, executed=executed, **more)


# {all that decides it: _Measured}. The arms of a study share most of their blocks, and running one takes a third of a second.
_MEASURED: dict[tuple, "_Measured"] = {}


def _measured_once(decides, context, dtype, measure):
    key = (*decides, context, dtype, products.is_casting())
    if key not in _MEASURED:
        _MEASURED[key] = measure()
    return _MEASURED[key]


def _decides(spec, name, block):
    """What decides the cost of a layer's block, beside context and dtype. A plug-in is its class, which a test may replace."""
    classes = tuple(type(sublayer.component) for kind in SUBLAYERS if (sublayer := getattr(block, kind)))
    place = _context(spec, spec.layer_blocks().index(name))
    return (
        classes,
        digest(spec.blocks[name].dump()),
        place.dim,
        place.layer,
        place.layers,
        place.norm_eps,
        digest(place.init.dump()),
        place.source_dim,
    )


def _outside(spec, frame):
    """What decides the cost of the model without its layers. A plug-in is its class."""
    without = {key: value for key, value in spec.dump().items() if key not in ("blocks", "pattern", "layers", "encoder")}
    return digest(without), type(frame.pool)


def cache_bytes(spec, context, dtype="float32"):
    """Only the `cache_bytes` of `summary`, {total, layers}, without running any block."""
    _check(context, dtype)
    layers = spec.layer_blocks()
    blocks = {name: _block(spec, name, layers.index(name)) for name in set(layers)}
    return _by_layer(layers, {name: _cache_of(spec, block, context, dtype) for name, block in blocks.items()})


def _cache_of(spec, block, context, dtype):
    """Bytes of a layer's cache; None where the model does not decode. With it, keys and values of the source that it reads."""
    source, target = shares(spec, context)
    own = None if spec.pool is not None else _cache(_mixer(block), target, DTYPES[dtype])[1]
    if own is None or not source:
        return own
    width = _context(spec, 0).source_dim
    read = [reader.keys_values(_source(source, width, next(reader.parameters()).dtype)) for reader in readers(block)]
    return own + sum(tensor.numel() for each in read for tensor in each) * DTYPES[dtype].itemsize


def readers(block):
    """The components of a block that read an encoder: a cross, or a mixer that says `reads_encoder`."""
    parts = [sublayer.component for kind in SUBLAYERS if (sublayer := getattr(block, kind))]
    return [part for part in parts if part.kind == "cross" or getattr(part, "reads_encoder", False)]


def _source(tokens, width, dtype):
    """A source of so many tokens on the meta device."""
    hidden_1SD = torch.empty(1, tokens, width, dtype=dtype, device="meta", requires_grad=torch.is_grad_enabled())
    return Encoded(hidden_1SD, TokenLayout.whole(1, tokens, device="meta"))


def _by_layer(layers, each):
    """{total, layers} of the bytes `each` of a layer of every block; all are None if a block has none."""
    if None in each.values():
        return {"total": None, "layers": [None] * len(layers)}
    return {"total": sum(each[name] for name in layers), "layers": [each[name] for name in layers]}


# The most values of a tensor: bytes are counted in 64 bits.
LARGEST, TOO_LARGE = 2**60, "is too large for a tensor on any machine"


def check_builds(spec, root, path=()):
    """Check that the components of every block can be built, by building them on the meta device.

    A ValueError from a component's `__init__` becomes a SpecError at the component's place in the document `root`, in
    which the model is at `path`. If the reason begins with an option's name and a colon, the error is at that option.
    So does whatever a plug-in raises that cannot be built on the meta device.
    """
    if spec.vocab_size * spec.dim >= LARGEST:
        raise root.error(f"{spec.vocab_size:,} tokens x {spec.dim:,} values {TOO_LARGE}", (*path, "vocab_size"))
    for dim, width in pairwise((spec.dim, *spec.project)):
        if dim * width >= LARGEST:
            raise root.error(f"{dim:,} x {width:,} values {TOO_LARGE}", (*path, "project"))
    reading = False
    for place, kind, resolved in spec.components():
        if kind == "quantiser":
            continue  # they are checked with the weights that they round
        stack = spec.encoder_spec if place[0] == "encoder" else spec
        layers = {name: layer % stack.layers for layer, name in enumerate(stack.blocks)}
        layer, where = layers[place[-2]] if kind in SUBLAYERS else 0, (*path, *place)
        try:
            with torch.device("meta"):
                made = registry.build(kind, resolved, _context(stack, layer))
                reads = kind == "cross" or getattr(made, "reads_encoder", False)
                if reads and stack.encoder is None:
                    raise ValueError("it reads an encoder, and this stack has none beside it")
                reading |= reads and place[-2] in stack.layer_blocks()
        except SpecError:
            raise
        except (Exception, SystemExit) as error:
            if "overflow" in str(error).lower():  # how torch says it
                raise root.error(f"with model.dim = {spec.dim:,}, one of its tensors {TOO_LARGE}", where) from None
            if isinstance(error, ValueError):
                option, colon, reason = str(error).partition(": ")
                if colon and option in resolved:
                    raise root.error(reason, (*where, option)) from None
                line = f" ({blame.place(error)})" if is_plugin(resolved["type"]) else ""
                raise root.error(f"{error}".partition("\n")[0] + line, where) from None
            if not is_plugin(resolved["type"]):
                raise
            raise root.error(f"{resolved['type']} {_uncosted(error, '__init__')}", where) from None
    if spec.encoder is not None and not reading:
        reason = "no layer of the decoder reads it: a block needs `cross`, or a mixer that reads it, such as merged_attention"
        raise root.error(reason, (*path, "encoder"))
    quantised.check(spec, root, path)


def failure(kind, resolved, context, tokens, dtype="float32"):
    """Why a resolved component cannot be costed in its place at `tokens` tokens, in words that follow its name; "" if it can."""
    doing = "__init__"
    try:
        with torch.device("meta"):
            made = _costed(kind, resolved, context).to(DTYPES[dtype])
        doing = "forward"
        if isinstance(made, Block):
            _measured_block(made, context.dim, tokens)
        else:
            _measured_pool(made, context.dim, tokens)
    except (Exception, SystemExit) as error:
        return _uncosted(error, doing)
    return ""


def _costed(kind, resolved, context):
    """The component as it is costed: a pool alone, another one in a block."""
    return registry.build(kind, resolved, context) if kind == "pool" else Block(BlockSpec(**{kind: resolved}), context)


def _of_meta(error):
    """Whether an error comes from the meta device: torch names it in each of them."""
    return "meta" in str(error).lower()


def _uncosted(error, doing):
    where = f"at {blame.place(error)}"
    if _of_meta(error):
        return f"cannot be costed: its {doing} needs the values of tensors (.item()) or makes tensors on another device, {where}"
    act = "calls" if isinstance(error, SystemExit) else "raises"
    how = "cannot be built" if doing == "__init__" else "cannot be costed"
    return f"{how}: its {doing} {act} {blame.words(error)} on the meta device, {where}"


@dataclass(frozen=True)
class _Measured:
    """Measurements of one block, or of the model without its blocks. FLOPs are over the whole context.

    activations, shared: bytes that are kept for the backward pass. shared: {key: bytes} of tensors that are made once for all
    layers (positions, masks, rotary angles), with the key of the layout's memo. casts: bytes of weights cast to bfloat16.
    decodes: False for a non-causal mixer.
    """

    ideal: dict
    executed: dict
    activations: int
    shared: dict
    casts: int = 0
    decodes: bool = True
    says_mixing: bool = True


def _measured_block(block, dim, tokens, source=None):
    """source: (tokens, width) of what a decoder beside an encoder reads; None without one."""
    layout = TokenLayout.whole(1, tokens, device="meta")
    dtype, mixer = next(block.parameters()).dtype, _mixer(block)
    trained_in = torch.bfloat16 if products.is_casting() else dtype

    reading: list[Encoded] = []  # the source of the passes that follow each other: its keys and values are computed once

    def run(tokens, layout, state=None):
        kind = trained_in if state is None else dtype
        x_BTD = torch.empty(1, tokens, dim, dtype=kind, device="meta", requires_grad=torch.is_grad_enabled())
        if source and not (state is not None and reading):
            reading[:] = [_source(*source, kind)]
        return block(x_BTD, layout, state, *reading)

    trained, kept, casts = _backward(lambda: run(tokens, layout)[0], block)
    # At once: a later tensor may get the storage, and so the key, of one that is gone.
    names: dict[int, tuple] = {}
    seen = [("encoded", (each.hidden_BSD, each._seen)) for each in reading]
    for key, made in [("layout", (layout.doc_BT, layout.pos_BT)), *layout._memo.items(), *seen]:
        for i, tensor in enumerate(tensors(made)):
            names.setdefault(_storage(tensor), (key, i))
    executed = {
        "train": trained,
        "prefill": _forward(lambda: run(tokens, layout)),
        "decode": None,
    }
    reading.clear()
    if _decodes(mixer):
        executed["decode"] = _decoding(run, mixer, tokens, dtype)
    return _Measured(
        ideal={},
        executed=executed,
        activations=sum(size for key, size in kept.items() if key not in names),
        shared={names[key]: size for key, size in kept.items() if key in names},
        casts=casts,
        decodes=_decodes(mixer),
    )


def _says_mixing(block):
    return _mixer(block) is None or hasattr(_mixer(block), "mixing_flops")


def _ideal(block, tokens, source=0):
    """Ideal FLOPs of a layer: `prefill` over all tokens, `decode` of the last one; None for a non-causal mixer.

    source: the tokens of a source that it reads.
    """
    mixer, maps = _mixer(block), 2 * sum(weight.numel() for weight in _maps(block))

    def beside(tokens):
        return _mixing(mixer, tokens) + sum(part.reading_flops(tokens, source) for part in readers(block) if source)

    decode = maps + beside(tokens) - beside(tokens - 1) if _decodes(mixer) else None
    return {"prefill": maps * tokens + beside(tokens), "decode": decode}


def _mixer(block):
    return block.mixer and block.mixer.component


def _decodes(mixer):
    """Whether a layer with this mixer keeps a state; one without a mixer needs none."""
    return mixer is None or getattr(mixer, "state_size", None) is not None


def _state(mixer, dtype):
    """Bytes of the state of a mixer whose state does not grow; 0 for any other."""
    return _cache(mixer, 1, dtype)[1] if mixer is not None and getattr(mixer, "state_size", None) == "constant" else 0


def _decoding(run, mixer, tokens, dtype):
    """FLOPs of the last of `tokens` tokens, with a state that has seen the others."""
    state, _ = _cache(mixer, tokens, dtype)
    if tokens > 1:
        with torch.no_grad():
            state = run(tokens - 1, TokenLayout.whole(1, tokens - 1, device="meta"), state)[1]
    last = TokenLayout.whole(1, 1, device="meta", first=tokens - 1)
    return _forward(lambda: run(1, last, state))


def _cache(mixer, tokens, dtype):
    """(empty state of capacity `tokens` on the meta device, its bytes); (None, None) for a non-causal mixer."""
    if not _decodes(mixer):
        return None, None
    state = mixer and mixer.init_state(1, tokens, dtype, torch.device("meta"))
    return state, sum(tensor.nbytes for tensor in tensors(state))


def _pooling(frame, tokens):
    """Ideal FLOPs of pool and projections over a row, which is one text; it does not decode."""
    pool, layout = frame.pool, TokenLayout.whole(1, tokens)
    per_token = 2 * tokens * sum(weight.numel() for weight in _maps(pool))
    pooling = int(pool.pooling_flops(layout)) if hasattr(pool, "pooling_flops") else per_token
    return {"prefill": pooling + 2 * sum(weight.numel() for weight in _maps(frame.project)), "decode": None}


def _measured_pool(pool, dim, tokens):
    """FLOPs of the forward and the backward pass of a pool alone, on the meta device."""
    x_1TD = torch.empty(1, tokens, dim, dtype=VECTOR, device="meta", requires_grad=True)
    return _backward(lambda: pool(x_1TD, TokenLayout.whole(1, tokens, device="meta")), pool)[0]


def _measured_frame(frame, context):
    """Measure embedding, final norm, and head and loss, or pool and projections. A loss is element-wise work, which FLOPs do
    not include; that of vectors is small, and is left out.
    """
    tokens_BT = torch.empty(1, context, dtype=torch.long, device="meta")

    def loss():
        hidden_ND = frame.trunk(tokens_BT)[0].flatten(0, 1)
        return chunked(hidden_ND, frame.head_weight, Targets(tokens_BT.flatten()), frame.spec.logit_softcap)

    def vectors():
        return frame.vectors(tokens_BT, TokenLayout.whole(1, context, device="meta"))

    encodes = frame.pool is not None
    trained, kept, casts = _backward(vectors if encodes else loss, frame)
    executed = {
        "train": trained,
        "prefill": _forward(vectors if encodes else lambda: frame(tokens_BT)),
        "decode": None if encodes else _forward(lambda: frame(tokens_BT[:, -1:])),
    }
    return _Measured({}, executed, sum(kept.values()), shared={}, casts=casts)


def _measured_image(tower):
    """Bytes that autograd keeps of one image for the backward pass; of a frozen encoder nothing."""
    side = tower.config.image_size
    pixels_13SS = torch.empty(1, 3, side, side, device="meta")
    return sum(_backward(lambda: tower(pixels_13SS), tower)[1].values())


def _measured_trunk(frame, context):
    """Measure embedding and final norm of the encoder beside a decoder."""
    tokens_BT = torch.empty(1, context, dtype=torch.long, device="meta")
    trained, kept, casts = _backward(lambda: frame.trunk(tokens_BT)[0], frame)
    executed = {"train": trained, "prefill": _forward(lambda: frame.trunk(tokens_BT)), "decode": 0}
    return _Measured({}, executed, sum(kept.values()), shared={}, casts=casts)


def _check(context, dtype):
    if isinstance(context, bool) or not isinstance(context, int) or context < 1:
        raise SpecError(f"context: expected a whole number of at least 1, got {context!r}")
    if dtype not in DTYPES:
        raise SpecError(f"dtype: no dtype {dtype!r}{nearest(dtype, DTYPES)}")


def _context(spec, layer):
    beside = spec.encoder_spec
    return Context(spec.dim, layer, spec.layers, spec.norm_eps, spec.init, None if beside is None else beside.dim)


def _block(spec, name, layer):
    with torch.device("meta"):
        return Block(spec.blocks[name], _context(spec, layer))


def _frame(spec, dtype):
    """The model without its layers, and without an encoder beside it."""
    with torch.device("meta"):
        model = Model(spec.model_copy(update={"layers": 1, "quantise": None}))
    model.blocks, model.encoder = nn.ModuleList(), None
    return model.to(dtype)


def _maps(module):
    """The weights that act as linear maps on every token."""
    return [weight for weight in module.parameters() if weight.kind == "matrix"]


def _mixing(mixer, tokens):
    """The mixer's `mixing_flops` for one document of `tokens` tokens; 0 if it has no such method."""
    if tokens == 0 or not hasattr(mixer, "mixing_flops"):
        return 0
    return int(mixer.mixing_flops(TokenLayout.whole(1, tokens)))


def _forward(run):
    with torch.no_grad(), FlopCounterMode(display=False, custom_mapping=FLOPS) as counter:
        run()
    return counter.get_total_flops()


def _backward(run, module):
    """(FLOPs of the forward and the backward pass together, {storage: bytes} of what the former keeps for the latter, bytes of
    weights that were cast).

    What is kept is without parameters and their casts. Keys are valid while their tensors live.
    """
    kept = {}
    products.forget()

    def pack(tensor):
        kept.setdefault(_storage(tensor), tensor)
        return tensor

    with torch.enable_grad(), FlopCounterMode(display=False, custom_mapping=FLOPS) as counter:
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            y = run()
        y.backward(torch.empty_like(y))
    casts = products.casts()
    weights = {_storage(weight) for weight in (*module.parameters(), *casts)}
    sizes = {key: tensor.untyped_storage().nbytes() for key, tensor in kept.items() if key not in weights}
    return counter.get_total_flops(), sizes, sum(cast.nbytes for cast in casts)


def _storage(tensor):
    """A key for a storage on the meta device, which has no address; valid while its tensor lives."""
    return tensor.untyped_storage()._cdata


def tensors(value):
    """Yield every tensor in a state: in nested dataclasses, lists, tuples and mappings."""
    if isinstance(value, torch.Tensor):
        yield value
    elif is_dataclass(value):
        yield from tensors([getattr(value, field.name) for field in fields(value)])
    elif isinstance(value, dict):
        yield from tensors(list(value.values()))
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from tensors(item)


def _by_token(totals, context):
    """Totals over the context, divided by its tokens; decode is already for one token. Whole numbers stay whole."""
    divisors = {"train": context, "prefill": context, "decode": 1}
    return {path: _divided(totals[path], divisors[path]) for path in divisors}


def _divided(total, by):
    if total is None:
        return None
    return total // by if total % by == 0 else total / by


def _notes(name, block, encodes):
    ideal, executed = block.ideal, block.executed
    if not block.decodes and not encodes:
        yield f"block {name!r} sees ahead: it keeps no state, so the model has no cache and does not decode"
    if not block.says_mixing:
        yield f"block {name!r}: its mixer has no `mixing_flops`, so `ideal` counts its maps only"
    for path in ("prefill", "decode"):
        if None not in (executed[path], ideal[path]) and executed[path] < ideal[path] and not (encodes and path == "decode"):
            yield (
                f"block {name!r}, {path}: the FLOP counter sees {executed[path]:,} of the {ideal[path]:,} that the "
                "block needs (element-wise code or an operation without a FLOP formula); `executed` is too low"
            )
    if ideal["prefill"] and executed["train"] <= executed["prefill"]:
        yield f"block {name!r}, train: the FLOP counter sees nothing of the backward pass; `executed` is too low"
