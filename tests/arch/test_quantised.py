"""A model with `quantise` computes with rounded weights everywhere, and trains its float weights."""

import copy

import pytest
import torch

from arch import checkpoint, cost, packed, registry, tensors, token_plan
from arch.document import node
from arch.errors import SpecError
from arch.kernels import decode, native, products
from arch.layout import TokenLayout
from arch.model import Model, new_model
from arch.model_spec import ModelSpec
from arch.quantised import weights
from tests.arch.tiny_specs import resolved

Q4, Q8, INT8, INT4 = ({"type": name} for name in ("q4_0", "q8_0", "int8_block", "int4_channel"))
MIXED = {"embedding": INT4, "attention": INT8, "matrix": {"type": "sfp8"}}
ALL = {"embedding": Q4, "attention": Q4, "matrix": Q4}
GEMMA = {"type": "attention", "heads": 2, "kv_heads": 1, "head_dim": 32, "window": 5, "qk_norm": True}
GRIFFIN = {"type": "rg_lru", "width": 32, "blocks": 2}


def spec(quantise=None, **rest):
    ffn = {"type": "gated", "hidden": 64}
    blocks = {"a": {"mixer": GEMMA, "ffn": ffn, "norm": "sandwich"}, "r": {"mixer": GRIFFIN, "ffn": ffn}}
    data = {"dim": 32, "vocab_size": 40, "layers": 3, "pattern": ["a", "r", "a"], "blocks": blocks, "logit_softcap": 20.0}
    return resolved({**data, **({"quantise": quantise} if quantise else {}), **rest})


def tokens(rows=2, length=17):
    return torch.randint(40, (rows, length), generator=torch.Generator().manual_seed(0))


def pair(quantise, **rest):
    """(a quantised model, an unquantised one whose weights are already rounded)."""
    ours = new_model(spec(quantise, **rest), seed=1).eval()
    plain = new_model(spec(None, **rest), seed=1).eval()
    quantisers = {role: registry.build("quantiser", each) for role, each in ours.spec.quantise.roles().items()}
    with torch.no_grad():
        for _, _, role, weight in weights(plain):
            if role in quantisers:
                weight.copy_(quantisers[role].rounded(weight))
    return ours, plain


CASES = {"all": (ALL, {}), "mixed": (MIXED, {}), "one": ({"attention": Q8}, {}), "untied": (MIXED, {"tie_embeddings": False})}
cases = pytest.mark.parametrize(("quantise", "rest"), CASES.values(), ids=CASES)


@cases
def test_it_computes_what_a_model_with_rounded_weights_computes(quantise, rest):
    ours, plain = pair(quantise, **rest)
    with torch.no_grad():
        assert torch.equal(ours(tokens()), plain(tokens()))
    float_weights = new_model(spec(None, **rest), seed=1).eval()
    assert not torch.allclose(ours(tokens()), float_weights(tokens()), rtol=1e-3)


@cases
def test_plain_gradients_are_those_of_the_rounded_weights(quantise, rest):
    ours, plain = pair(quantise, **rest)
    for model in (ours, plain):
        model(tokens()).square().sum().backward()
    for (name, mine), (_, theirs) in zip(ours.named_parameters(), plain.named_parameters(), strict=True):
        assert mine.grad is not None and mine.grad.norm() > 0, name
        assert torch.equal(mine.grad, theirs.grad), name


@cases
def test_in_bfloat16_it_computes_with_the_rounded_weights_too(quantise, rest):
    """Logits and gradients under `bf16-mixed`, in a second pass as well: no cast of a weight outlives its rounding."""
    ours, plain = pair(quantise, **rest)
    for _ in range(2):
        for model in (ours, plain):
            with products.casting():
                model(tokens()).float().square().sum().backward()
        with torch.no_grad(), products.casting():
            assert torch.equal(ours(tokens()), plain(tokens()))
        for (name, mine), (_, theirs) in zip(ours.named_parameters(), plain.named_parameters(), strict=True):
            assert mine.grad.dtype is torch.float32 and torch.equal(mine.grad, theirs.grad), name


def test_clipped_weights_get_no_gradient_by_that_name():
    clipped = {"type": "q4_0", "gradient": "clipped"}
    plain, masked = (new_model(spec({"matrix": each}), seed=1) for each in (Q4, clipped))
    for model in (plain, masked):
        model(tokens()).square().sum().backward()
    quantiser = registry.build("quantiser", clipped)
    for (_, name, role, weight), (_, _, _, other) in zip(weights(plain), weights(masked), strict=True):
        mask = quantiser.clipped(weight) if role == "matrix" else torch.zeros_like(weight, dtype=torch.bool)
        assert torch.equal(weight.grad.masked_fill(mask, 0.0), other.grad), name
        assert role != "matrix" or mask.any()


def counted(model, monkeypatch):
    """A list that grows with every matrix that is rounded."""
    seen = []
    for module in model.modules():
        fake = vars(module).get("fake")
        if fake is not None:
            monkeypatch.setattr(fake, "values", lambda weight, fake=fake: seen.append(0) or type(fake).values(fake, weight))
    return seen


def test_each_weight_is_rounded_once_in_a_pass(monkeypatch):
    model = new_model(spec(ALL), seed=1)
    seen, roles = counted(model, monkeypatch), [role for _, _, role, _ in weights(model)]
    for step in (1, 2):  # each step makes them anew, also the embedding, which is used twice
        model(tokens()).sum().backward()
        assert len(seen) == step * len(roles)
    model.eval()
    with torch.no_grad():
        model(tokens())
        model(tokens())
    assert len(seen) == 3 * len(roles)


@pytest.mark.parametrize("fused", [False, True])
def test_an_optimizer_step_is_seen_by_what_follows(fused):
    """Also a fused one, which leaves no trace in the weights."""
    ours = new_model(spec(ALL), seed=1)
    optimizer = torch.optim.AdamW(ours.parameters(), lr=0.05, fused=fused)
    with torch.no_grad():
        before = ours(tokens())
    for _ in range(2):
        optimizer.zero_grad()
        ours(tokens()).square().sum().backward()
        optimizer.step()
        fresh = Model(ours.spec)
        fresh.load_state_dict(ours.state_dict())
        with torch.no_grad():
            after = ours(tokens())
            assert torch.equal(after, fresh(tokens()))
        assert not torch.equal(after, before)


@cases
def test_tokens_are_decoded_with_rounded_weights(quantise, rest):
    ours, plain = pair(quantise, **rest)
    row = tokens()
    with torch.inference_mode():
        whole = ours(row)
        states = [model.init_state(2, 20) for model in (ours, plain)]
        for t in range(row.shape[1]):
            both = []
            for i, model in enumerate((ours, plain)):
                logits, states[i] = model.decode(row[:, t : t + 1], states[i])
                both.append(logits[:, 0])
            assert torch.equal(*both)
            assert torch.allclose(both[0], whole[:, t], atol=2e-5)
        if native.library("decode", (ours.embedding,), decode.SIGNATURES) is not None:
            assert isinstance(states[0].plan, token_plan.Plan) and isinstance(states[1].plan, token_plan.Plan)


def test_a_plan_sees_that_weights_have_changed():
    model = new_model(spec(ALL), seed=1).eval()
    with torch.no_grad():
        _, state = model.decode(tokens()[:, :1], model.init_state(2, 20))
        for weight in model.parameters():
            weight.mul_(1.5)
        fresh = Model(model.spec).eval()
        fresh.load_state_dict(model.state_dict())
        expected, _ = fresh.decode(tokens()[:, 1:2], copy.deepcopy(state))
        logits, _ = model.decode(tokens()[:, 1:2], state)
    assert torch.equal(logits, expected)


def test_bfloat16_weights_compute_with_rounded_bfloat16():
    ours = new_model(spec(ALL), seed=1).bfloat16().eval()
    plain = new_model(spec(), seed=1).bfloat16().eval()
    quantiser = registry.build("quantiser", Q4)
    with torch.no_grad():
        for _, _, _, weight in weights(plain):
            weight.copy_(quantiser.rounded(weight))
        assert torch.equal(ours(tokens()), plain(tokens()))


def test_a_checkpoint_stores_the_float_weights(tmp_path):
    model = new_model(spec(ALL), seed=1)
    model(tokens()).sum().backward()
    checkpoint.write(model.spec, tensors.of_mapping(dict(model.named_parameters())), tmp_path)
    back = checkpoint.load(tmp_path)
    assert back.spec == model.spec
    for (name, mine), (_, theirs) in zip(model.named_parameters(), back.named_parameters(), strict=True):
        assert torch.equal(mine, theirs), name
    with torch.no_grad():
        assert torch.equal(model.eval()(tokens()), back(tokens()))
    assert checkpoint.parameters(model.spec) == checkpoint.parameters(spec())


def test_copies_of_a_model_are_their_own():
    model = new_model(spec(ALL), seed=1)
    model(tokens())  # with a gradient, so that something with a graph is kept
    twin = copy.deepcopy(model)
    with torch.no_grad():
        twin.embedding.zero_()
        assert not torch.equal(twin(tokens()), model(tokens()))


def test_encoders_round_pool_and_projections():
    extra = {"pool": {"type": "mean"}, "project": [64, 32], "logit_softcap": None}
    mixer = {"type": "attention", "heads": 2, "causal": False}
    blocks = {"a": {"mixer": mixer, "ffn": {"type": "gated", "hidden": 64}}}
    ours, plain = pair(ALL, **extra, blocks=blocks, pattern=["a"])
    layout = TokenLayout.whole(2, 17)
    with torch.no_grad():
        assert torch.equal(ours.encode(tokens(), layout), plain.encode(tokens(), layout))
    assert {name for _, name, role, _ in weights(ours) if role == "matrix"} >= {"project.0.weight", "project.1.weight"}


def error_of(quantise, **rest):
    data = spec(None, **rest).dump() | {"quantise": quantise}
    with pytest.raises(SpecError) as caught:
        root = node(data)
        cost.check_builds(registry.resolve(ModelSpec.parse(root), root), root)
    return str(caught.value)


@pytest.mark.parametrize(
    ("quantise", "words"),
    [
        ({"matrix": {"type": "q4"}}, "quantise.matrix.type: no quantiser 'q4'; did you mean 'q4_0'"),
        ({"matrix": {"type": "q4_0", "gradient": "none"}}, "quantise.matrix.gradient"),
        ({}, "expected a quantiser for at least one of embedding, attention, matrix"),
        ({"heads": Q4}, "unknown key"),
        (
            {"attention": {"type": "int8_block", "block": 48}},
            "quantise.attention: int8_block needs rows of a multiple of 48",
        ),
    ],
)
def test_what_cannot_be_is_refused_at_its_key(quantise, words):
    said = error_of(quantise)
    assert words in said and "\n" not in said


def test_a_width_that_a_format_cannot_hold_is_refused():
    said = error_of(ALL, dim=48, blocks={"a": {"mixer": GEMMA, "ffn": {"type": "gated", "hidden": 64}}}, pattern=["a"])
    assert said.endswith("quantise.embedding: q4_0 needs rows of a multiple of 32 values, and those of embedding have 48")


def test_a_role_without_weights_is_refused():
    said = error_of(ALL, blocks={"a": {"ffn": {"type": "gated", "hidden": 64}}}, pattern=["a"])
    assert said.endswith("quantise.attention: the model has no such weights")


def test_digests_of_other_specs_stay():
    assert "quantise" not in spec().dump()


def test_packed_bytes_are_those_of_packing():
    model = new_model(spec(MIXED), seed=1)
    said = packed.weights(model.spec, model.spec.quantise.roles(), "float32")
    counted = dict.fromkeys(said, 0)
    for _, _, role, weight in weights(model):
        parts = registry.build("quantiser", MIXED[role]).pack(weight.detach())
        counted[role] += sum(part.nbytes for part in parts.values())
    assert {role: said[role]["bytes"] for role in MIXED} == {role: counted[role] for role in MIXED}
    assert sum(each["parameters"] for each in said.values()) == sum(weight.numel() for weight in model.parameters())
    assert said["other"]["bytes"] == 4 * said["other"]["parameters"]


def test_a_cache_in_8_bits_has_a_byte_for_each_number_of_keys_and_values():
    only = resolved(spec().dump() | {"pattern": ["a"]})
    memory = packed.memory(resolved(only.dump() | {"quantise": ALL}), 11)
    assert memory["cache_bytes"]["8 bits"] * 4 == memory["cache_bytes"]["float32"] == 3 * 2 * 5 * 32 * 4
    recurrent = packed.memory(resolved(spec(ALL).dump() | {"pattern": ["r"], "quantise": ALL}), 11)["cache_bytes"]
    assert recurrent["8 bits"] == recurrent["bfloat16"] - (recurrent["float32"] - recurrent["bfloat16"]) // 2


def test_training_memory_counts_the_copy_that_is_computed_with():
    plain, ours = (cost.summary(each, 8)["training_bytes"] for each in (spec(), spec(ALL)))
    rounded = 4 * sum(weight.numel() for _, _, _, weight in weights(new_model(spec(), seed=0)))
    assert ours == plain | {"rounded": rounded, "total": plain["total"] + rounded}
