"""The costs that `arch.cost` predicts before a model exists, compared with the real model."""

import functools
import json
from collections import Counter

import pytest
import torch
from tiny_specs import DIM, examples, label, model_spec
from torch.utils.flop_counter import FlopCounterMode

from arch import cost, document, registry
from arch.errors import SpecError
from arch.kernels.attention.masked import FLOPS
from arch.kernels.cross_entropy import linear_cross_entropy
from arch.model import Model, new_model
from arch.model_spec import ModelSpec

N = 25  # a square number, so that the scan's chunks need no padding
MIXERS = examples("mixer")
each_dtype = pytest.mark.parametrize("dtype", ["float32", "bfloat16"])

WHOLE = {"untied": {"tie_embeddings": False}, "capped": {"logit_softcap": 30.0, "embed_scale": "sqrt_dim"}}


def hybrid(**rest):
    """Five layers from three blocks: the pattern is truncated, and two blocks have two layers."""
    attention = {"type": "attention", "heads": 4, "kv_heads": 2, "head_dim": 8}
    return model_spec({**attention, "window": 4}, {"type": "rg_lru", "blocks": 2}, attention, layers=5, **rest)


SPECS = {label(mixer): model_spec(mixer, layers=2) for mixer in MIXERS}
SPECS |= {label(ffn): model_spec(MIXERS[0], ffn=ffn) for ffn in examples("ffn")}
SPECS |= {name: hybrid(**rest) for name, rest in WHOLE.items()}
each_spec = pytest.mark.parametrize("name", SPECS)


@functools.cache
def summarised(name, tokens=N, dtype="float32"):
    return cost.summary(SPECS[name], tokens, dtype)


def decodes(name):
    return summarised(name)["cache_bytes"]["total"] is not None


@each_spec
def test_parameters_equal_the_built_models(name):
    spec, parameters = SPECS[name], summarised(name)["parameters"]
    model = new_model(spec, 0)
    assert parameters["total"] == sum(weight.numel() for weight in model.parameters())
    heads = spec.dim * spec.vocab_size * (1 if spec.tie_embeddings else 2)
    assert parameters["embedding"] == heads
    assert parameters["non_embedding"] == parameters["total"] - heads
    assert parameters["layers"] == [sum(w.numel() for w in block.parameters()) for block in model.blocks]


@each_spec
@each_dtype
def test_cache_equals_the_bytes_of_a_real_state(name, dtype):
    spec, summary = SPECS[name], summarised(name, N, dtype)
    model = Model(spec).to(cost.DTYPES[dtype])
    if summary["cache_bytes"]["total"] is None:
        assert summary["cache_bytes"]["layers"] == [None] * spec.layers
        with pytest.raises(ValueError, match="sees ahead"):
            model.init_state(1, N)
        return
    state = model.init_state(1, N)
    sizes = [sum(t.nbytes for t in vars(layer).values() if isinstance(t, torch.Tensor)) for layer in state.layers]
    assert summary["cache_bytes"] == {"total": sum(sizes), "layers": sizes} and sum(sizes) > 0


@each_spec
@each_dtype
def test_state_and_bytes_read_equal_those_of_a_real_model(name, dtype):
    """state_bytes: what does not grow with the capacity. decode_bytes: the weights (of an untied embedding one row), the cache."""
    spec, known = SPECS[name], cost.outline(SPECS[name], N, dtype)
    model = Model(spec).to(cost.DTYPES[dtype])
    if not decodes(name):
        assert known["state_bytes"] is None is known["decode_bytes"]
        return
    state = [list(cost.tensors(layer)) for layer in model.init_state(1, N).layers]
    fixed = [block.mixer is not None and block.mixer.component.state_size == "constant" for block in model.blocks]
    assert known["state_bytes"] == sum(t.nbytes for each, is_fixed in zip(state, fixed, strict=True) if is_fixed for t in each)
    weights = sum(weight.nbytes for weight in model.parameters())
    unread = 0 if spec.tie_embeddings else (spec.vocab_size - 1) * spec.dim * cost.DTYPES[dtype].itemsize
    assert known["decode_bytes"] == weights - unread + sum(t.nbytes for each in state for t in each)


@each_spec
def test_the_outline_is_what_the_summary_says_of_shapes(name):
    known, whole = cost.outline(SPECS[name], N), summarised(name)
    assert known.pop("flops_per_token")["ideal"] == whole["flops_per_token"]["ideal"]
    assert known == {key: whole[key] for key in known}


def pairs(mixer, tokens):
    """The number of keys that each position sees, counted pair by pair."""
    if mixer["type"] not in ("attention", "merged_attention"):
        return [0] * tokens
    window, causal = mixer["window"], mixer.get("causal", True)
    seen = []
    for t in range(tokens):
        seen.append(0)
        for s in range(tokens):
            if causal:
                visible = s <= t and (window is None or t - s < window)
            else:
                visible = window is None or -window["before"] <= s - t <= window["after"]
            seen[-1] += visible
    return seen


def by_hand(spec, tokens):
    """FLOPs of each position, counted pair by pair and map by map."""
    model, counts = new_model(spec, 0), [2 * spec.dim * spec.vocab_size] * tokens
    for block, built in zip(spec.layer_blocks(), model.blocks, strict=True):
        mixer = spec.blocks[block].mixer
        maps = [w for n, w in built.named_parameters() if n.endswith("weight") and w.ndim > 1 and "conv" not in n]
        each = 2 * sum(weight.numel() for weight in maps)
        if mixer["type"] == "rg_lru":
            each += 2 * (mixer["width"] or spec.dim)
        heads = mixer.get("heads", 0)
        channels = mixer.get("head_dim") or (spec.dim // heads if heads else 0)
        counts = [c + each + 4 * heads * channels * p for c, p in zip(counts, pairs(mixer, tokens), strict=True)]
    return counts


@each_spec
def test_ideal_flops_equal_a_count_by_hand(name, tokens=N):
    counts, ideal = by_hand(SPECS[name], tokens), summarised(name, tokens)["flops_per_token"]["ideal"]
    assert ideal["prefill"] * tokens == pytest.approx(sum(counts), rel=1e-12)
    assert ideal["train"] == pytest.approx(3 * ideal["prefill"], rel=1e-12)
    assert ideal["decode"] == (counts[-1] if decodes(name) else None)


def test_a_context_of_one_token():
    test_ideal_flops_equal_a_count_by_hand("untied", tokens=1)


def counted(run):
    with FlopCounterMode(display=False, custom_mapping=FLOPS) as counter:
        run()
    assert counter.get_total_flops() > 0, "the counter saw nothing"
    return counter.get_total_flops()


@each_spec
def test_executed_flops_equal_the_counter_over_the_whole_model(name):
    executed = summarised(name)["flops_per_token"]["executed"]
    with torch.device("meta"):
        model = Model(SPECS[name])
        tokens = torch.zeros(1, N, dtype=torch.long)
    assert executed["train"] * N == pytest.approx(counted(lambda: model(tokens).sum().backward()), rel=1e-12)
    with torch.no_grad():
        assert executed["prefill"] * N == pytest.approx(counted(lambda: model(tokens)), rel=1e-12)
        if not decodes(name):
            assert executed["decode"] is None
            return
        _, state = model.decode(tokens[:, :-1], model.init_state(1, N))
        assert executed["decode"] == counted(lambda: model.decode(tokens[:, -1:], state))


@each_spec
def test_the_counter_sees_every_contraction(name):
    summary = summarised(name)
    assert not [note for note in summary["notes"] if "too low" in note]
    for path in ("prefill", "decode"):
        executed, ideal = (summary["flops_per_token"][kind][path] for kind in ("executed", "ideal"))
        assert (executed is None and ideal is None) or executed >= ideal > 0


@each_spec
def test_training_memory_equals_what_autograd_really_keeps(name):
    """Compared on the CPU, because the meta device takes the same path."""
    spec, training = SPECS[name], summarised(name)["training_bytes"]
    model = new_model(spec, 0)
    kept = {}

    def pack(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    tokens = torch.randint(spec.vocab_size, (1, N))
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        hidden = model.trunk(tokens)[0].flatten(0, 1)
        linear_cross_entropy(hidden, model.head_weight, tokens.flatten(), spec.logit_softcap)
    weights = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    real = sum(t.untyped_storage().nbytes() for key, t in kept.items() if key not in weights)
    size = sum(weight.nbytes for weight in model.parameters())
    assert training["activations"] == real
    assert (training["weights"], training["gradients"], training["optimizer"]) == (size, size, 2 * size)
    assert training["total"] == real + 4 * size


def test_costs_are_the_same_where_gradients_are_off():
    with torch.no_grad():
        assert cost.summary(SPECS["untied"], N) == summarised("untied")


def test_summary_has_the_promised_keys_and_is_json():
    summary = json.loads(json.dumps(cost.summary(hybrid(), N, "bfloat16")))
    assert set(summary) == {
        *("parameters", "flops_per_token", "cache_bytes", "state_bytes", "decode_bytes", "vector_bytes"),
        *("training_bytes", "layers", "context", "dtype", "notes"),
    }
    assert summary["layers"] == ["b0", "b1", "b2", "b0", "b1"]
    assert set(summary["flops_per_token"]["ideal"]) == {"train", "prefill", "decode"}


def test_half_the_bytes_in_bfloat16_but_for_the_recurrent_state():
    full, half = (cost.summary(hybrid(), N, dtype)["cache_bytes"]["layers"] for dtype in ("float32", "bfloat16"))
    assert half[0] * 2 == full[0] and half[2] * 2 == full[2]
    assert full[1] - half[1] == 3 * DIM * 2  # the convolution's three inputs are halved, but the state is not


def test_what_the_counter_cannot_see_is_said(monkeypatch):
    """There is a note if a mixer declares more FLOPs than the counter finds."""
    mixer = registry.component("mixer", "rg_lru")
    monkeypatch.setattr(mixer, "mixing_flops", lambda self, layout: 10**6 * layout.doc_BT.numel())
    notes = cost.summary(hybrid(), N)["notes"]
    assert len(notes) == 2 and all("'b1'" in note and "too low" in note for note in notes)


def test_a_mixer_that_does_not_say_what_mixing_needs_is_named(monkeypatch):
    monkeypatch.delattr(registry.component("mixer", "rg_lru"), "mixing_flops")
    assert any("'b1': its mixer has no `mixing_flops`" in note for note in cost.summary(hybrid(), N)["notes"])


@pytest.mark.parametrize(
    "context, dtype, reason",
    [(0, "float32", "at least 1"), (True, "float32", "whole number"), (8, "float23", "did you mean")],
)
def test_an_impossible_question_is_refused(context, dtype, reason):
    with pytest.raises(SpecError, match=reason):
        cost.summary(hybrid(), context, dtype)


def test_check_builds_places_what_a_component_refuses():
    root = document.node({"model": {"blocks": {"b0": {"mixer": {"heads": 3}}}}}, "x.yaml", 7)
    spec = model_spec({"type": "attention", "heads": 3})
    with pytest.raises(SpecError) as caught:
        cost.check_builds(spec, root, ("model",))
    assert str(caught.value) == "x.yaml:7: model.blocks.b0.mixer.heads: 3 does not divide dim = 16; give head_dim"


def shipped(name):
    root = document.load(name, "arch")
    return registry.resolve(ModelSpec.parse(root), root)


def test_realised_layers_of_the_papers():
    assert Counter(shipped("gemma3/27b").layer_blocks()) == {"local": 52, "global": 10}
    assert Counter(shipped("gemma3/1b").layer_blocks()) == {"local": 22, "global": 4}
    assert Counter(shipped("gemma2/9b").layer_blocks()) == {"local": 21, "global": 21}
    assert Counter(shipped("recurrentgemma/2b").layer_blocks()) == {"recurrent": 18, "attention": 8}
    assert Counter(shipped("recurrentgemma/9b").layer_blocks()) == {"recurrent": 26, "attention": 12}
    assert shipped("gemma2/9b").layer_blocks()[0] == "local"


@pytest.mark.slow
def test_the_largest_spec_is_costed_at_its_full_context():
    """Gemma 3 27B at 131,072 tokens: no T x T tensor is ever allocated."""
    summary = cost.summary(shipped("gemma3/27b"), 131_072, "bfloat16")
    assert summary["cache_bytes"]["total"] == 11_173_625_856
    assert summary["flops_per_token"]["executed"]["prefill"] > summary["flops_per_token"]["ideal"]["prefill"]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_cache_bytes_alone_are_those_of_the_summary(dtype):
    for name in ("gemma3/1b", "recurrentgemma/2b"):
        root = document.load(name, "arch")
        spec = registry.resolve(ModelSpec.parse(root), root)
        assert cost.cache_bytes(spec, 4096, dtype) == cost.summary(spec, 4096, dtype)["cache_bytes"]


def test_blocks_that_models_share_are_measured_once_and_cost_the_same(monkeypatch):
    names = [name for name in SPECS if name in WHOLE]
    fresh = {}
    for name in names:
        monkeypatch.setattr(cost, "_MEASURED", {})
        fresh[name] = cost.summary(SPECS[name], N)
    monkeypatch.setattr(cost, "_MEASURED", {})
    run = []
    monkeypatch.setattr(cost, "_measured_block", lambda *given, measure=cost._measured_block: run.append(1) or measure(*given))
    assert {name: cost.summary(SPECS[name], N) for name in names} == fresh
    once = len(run)
    assert {name: cost.summary(SPECS[name], N) for name in reversed(names)} == fresh and len(run) == once
    assert once < sum(len(SPECS[name].blocks) for name in names)


def test_memory_of_training_in_bfloat16_from_float32_weights():
    """Activations have half the bytes, weights a second copy in two bytes; caches and FLOPs are those of float32."""
    wide, mixed = cost.summary(hybrid(), N), cost.summary(hybrid(), N, mixed=True)
    full, half = wide["training_bytes"], mixed["training_bytes"]
    assert {key: half[key] for key in ("weights", "gradients", "optimizer")} == {
        key: full[key] for key in ("weights", "gradients", "optimizer")
    }
    assert 0.5 <= half["activations"] / full["activations"] < 0.65
    assert 0 < half["casts"] <= full["weights"] / 2
    assert half["total"] == sum(size for key, size in half.items() if key != "total")
    assert "casts" not in full
    for key in ("parameters", "flops_per_token", "cache_bytes", "state_bytes"):
        assert mixed[key] == wide[key]
