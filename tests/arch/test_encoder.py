"""A model with a pool: what its tokens see, that padding and neighbours change nothing, its pools, its cost, what is refused."""

import io

import pytest
import torch
import torch.nn.functional as F
from tiny_specs import DIM, context, model_spec, resolved

from arch import checked, cost, document, probe_model, registry, remarks, shrunk
from arch.errors import SpecError
from arch.families import gemma3
from arch.kernels import products
from arch.layout import TokenLayout
from arch.model import Model, new_model
from arch.model_spec import ModelSpec
from arch.show import costs as shown

POOLS = [{"type": "mean"}, {"type": "last"}, {"type": "first"}, {"type": "attention", "heads": 4}, {"type": "attention", "heads": 1}]
NAMES = [f"{pool['type']}{pool.get('heads', '')}" for pool in POOLS]
BOTH = {"type": "attention", "heads": 2, "causal": False}
NEAR = {**BOTH, "window": {"before": 2, "after": 2}}
LENGTHS = torch.tensor([5, 11, 1, 8])
pools = pytest.mark.parametrize("pool", POOLS, ids=NAMES)


def encoder(pool=POOLS[0], project=(24, 12), mixers=(NEAR, BOTH), **rest):
    """A Model whose norms do not all have the weight 0."""
    model = new_model(model_spec(*mixers, pool=pool, project=list(project), **rest), seed=0).eval()
    with torch.no_grad():
        model.norm.weight.add_(torch.linspace(-0.5, 0.5, DIM))
    return model


def tokens(rows=4, length=11, seed=0):
    return torch.randint(37, (rows, length), generator=torch.Generator().manual_seed(seed))


# --- what a token sees


def test_the_last_token_changes_the_first_hidden_state():
    """Attention that is causal where it must not be is silent: vectors are just worse."""
    model, tokens_BT = encoder(), tokens(1)
    other_BT = tokens_BT.clone()
    other_BT[0, -1] = (other_BT[0, -1] + 1) % 37
    layout = TokenLayout.right_padded(torch.tensor([11]), 11)
    with torch.no_grad():
        plain, other = (model.trunk(each, layout)[0][0, 0] for each in (tokens_BT, other_BT))
    assert (plain - other).abs().max() > 1e-3


@pytest.mark.parametrize("width", [8, 6, 2])
def test_a_window_of_a_config_reaches_half_of_it_to_each_side(width):
    """EmbeddingGemma's rule: |q - k| <= W / 2. The config keeps W; the spec says both sides."""
    config = gemma3.Config(
        hidden_size=DIM,
        num_hidden_layers=1,
        intermediate_size=24,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        vocab_size=37,
        sliding_window=width,
        query_pre_attn_scalar=8,
        use_bidirectional_attention=True,
    )
    spec = resolved(config.spec())
    assert spec.blocks["local"].mixer["window"] == {"before": width // 2, "after": width // 2}
    assert gemma3.Config.of(spec.model_copy(update={"layers": 6}))["sliding_window"] == width
    model, length = new_model(spec, 0).eval(), 40
    tokens_BT = tokens(1, length)
    for place in (0, 17, length - 1):
        other_BT = tokens_BT.clone()
        other_BT[0, place] = (other_BT[0, place] + 1) % 37
        with torch.no_grad():
            plain_TD, other_TD = (model.trunk(each)[0][0] for each in (tokens_BT, other_BT))
        changed = torch.nonzero((plain_TD - other_TD).abs().amax(-1) > 1e-6)[:, 0].tolist()
        assert changed == [t for t in range(length) if abs(t - place) <= width // 2], place


# --- rows and padding


def test_right_padded_is_one_document_then_padding():
    layout = TokenLayout.right_padded(torch.tensor([3, 0, 5]), 5)
    assert layout.doc_BT.tolist() == [[0, 0, 0, -1, -1], [-1] * 5, [0] * 5]
    assert layout.pos_BT.tolist() == [[0, 1, 2, 0, 0], [0] * 5, [0, 1, 2, 3, 4]]
    assert layout.first_B.tolist() == [0, 4, 0] and layout.last_B.tolist() == [2, 0, 4]
    assert layout.seen_BT.sum(1).tolist() == [3, 0, 5]
    packed = TokenLayout.packed(layout.doc_BT)
    low_BT, high_BT = layout.interval(2, 2)
    assert torch.equal(low_BT, packed.interval(2, 2)[0])
    assert high_BT[0, :3].tolist() == [2, 2, 2]  # no token sees padding


@pools
def test_a_vector_depends_on_no_neighbour_and_no_padding(pool):
    model, tokens_BT = encoder(pool), tokens()
    with torch.no_grad():
        vector_BE = model.encode(tokens_BT, TokenLayout.right_padded(LENGTHS, 11))
        wider_BE = model.encode(F.pad(tokens_BT, (0, 30), value=5), TokenLayout.right_padded(LENGTHS, 41))
        refilled_BT = torch.where(torch.arange(11) < LENGTHS[:, None], tokens_BT, tokens(seed=1))
        refilled_BE = model.encode(refilled_BT, TokenLayout.right_padded(LENGTHS, 11))
        for row, length in enumerate(LENGTHS.tolist()):
            alone_1E = model.encode(tokens_BT[row : row + 1, :length], TokenLayout.whole(1, length))
            assert (alone_1E[0] - vector_BE[row]).abs().max() < 1e-6
    assert torch.equal(refilled_BE, vector_BE)
    assert (wider_BE - vector_BE).abs().max() < 1e-6


@pools
def test_a_row_of_padding_is_finite_and_changes_no_other(pool):
    model, tokens_BT = encoder(pool), tokens()
    lengths_B = LENGTHS.clone()
    lengths_B[1] = 0
    vector_BE = model.encode(tokens_BT, TokenLayout.right_padded(lengths_B, 11))
    assert vector_BE.isfinite().all() and not vector_BE[1].any()
    vector_BE.sum().backward()
    assert all(weight.grad is None or weight.grad.isfinite().all() for weight in model.parameters())


# --- pools, maps, the norm


def reference(pool, module, x_TD):
    """The vector of one text's hidden states, in one line for each pool."""
    if pool["type"] == "attention":
        q_HC, k_THC, v_THC = module.query, *(each(x_TD).unflatten(-1, module.query.shape) for each in (module.k, module.v))
        z_HT = torch.einsum("hc,thc->ht", q_HC, k_THC) / q_HC.shape[1] ** 0.5
        return module.o(torch.einsum("ht,thc->hc", z_HT.exp() / z_HT.exp().sum(1, keepdim=True), v_THC).flatten())
    return {"mean": x_TD.mean(0), "last": x_TD[-1], "first": x_TD[0]}[pool["type"]]


@pools
def test_a_pool_equals_its_formula_in_value_and_gradient(pool):
    module = registry.build("pool", pool, context())
    for i, weight in enumerate(module.parameters()):
        torch.nn.init.normal_(weight, std=0.5, generator=torch.Generator().manual_seed(i))
    x_BTD = torch.randn(4, 11, DIM, generator=torch.Generator().manual_seed(9)).requires_grad_()
    given, wanted = [], []
    for rows in (module(x_BTD, TokenLayout.right_padded(LENGTHS, 11)), None):
        if rows is None:
            rows = torch.stack([reference(pool, module, x_BTD[b, :length]) for b, length in enumerate(LENGTHS.tolist())])
        pull_BD = torch.linspace(-1, 1, rows.numel()).view_as(rows)
        grads = torch.autograd.grad((rows * pull_BD).sum(), [x_BTD, *module.parameters()])
        (wanted if given else given).extend([rows, *grads])
    for got, want in zip(given, wanted, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)


def test_the_maps_follow_the_pool_without_activation():
    model, tokens_BT, layout = encoder(), tokens(), TokenLayout.right_padded(LENGTHS, 11)
    with torch.no_grad():
        pooled_BD = model.pool(model.trunk(tokens_BT, layout)[0], layout)
        first, second = (each.weight for each in model.project)
        torch.testing.assert_close(model.vectors(tokens_BT, layout), pooled_BD @ first.T @ second.T)
        assert first.shape == (24, DIM) and second.shape == (12, 24)
        torch.testing.assert_close(encoder(project=()).vectors(tokens_BT, layout), pooled_BD)


@pytest.mark.parametrize("dim", [None, 12, 5, 1])
def test_a_cut_vector_has_length_one_again(dim):
    model, tokens_BT, layout = encoder(), tokens(), TokenLayout.right_padded(LENGTHS, 11)
    with torch.no_grad():
        whole_BE, cut_BE = model.vectors(tokens_BT, layout), model.encode(tokens_BT, layout, dim)
    assert cut_BE.shape == (4, dim or 12) and cut_BE.dtype == torch.float32
    torch.testing.assert_close(cut_BE.norm(dim=1), torch.ones(4))
    torch.testing.assert_close(cut_BE, F.normalize(whole_BE[:, :dim], dim=-1))


def test_what_cannot_be_encoded_is_refused():
    layout = TokenLayout.right_padded(LENGTHS, 11)
    for dim in (0, 13, -1):
        with pytest.raises(ValueError, match=rf"dim: {dim} of the 12 numbers"):
            encoder().encode(tokens(), layout, dim)
    with pytest.raises(ValueError, match="without a pool"):
        new_model(model_spec(BOTH), 0).encode(tokens(), layout, 4)
    with pytest.raises(ValueError, match="one vector per text, and no next token"):
        encoder(mixers=({"type": "attention", "heads": 2},)).init_state(1, 1)


# --- in bfloat16


@pools
def test_float32_weights_encode_in_bfloat16_too(pool):
    model, tokens_BT, layout = encoder(pool), tokens(), TokenLayout.right_padded(LENGTHS, 11)
    exact_BE = model.encode(tokens_BT, layout)
    with products.casting():
        vector_BE = model.encode(tokens_BT, TokenLayout.right_padded(LENGTHS, 11))
        vector_BE.square().sum().backward()
    assert vector_BE.dtype == torch.float32
    assert 0 < (vector_BE - exact_BE).abs().max() < 0.05
    assert F.cosine_similarity(vector_BE, exact_BE).min() > 0.999
    assert all(weight.grad is None or weight.grad.dtype == torch.float32 for weight in model.parameters())


# --- weights and specs of language models stay as they are


def test_a_language_model_of_the_same_seed_has_the_same_trunk():
    plain, pooled = new_model(model_spec(NEAR, BOTH), 3), new_model(model_spec(NEAR, BOTH, pool=POOLS[3], project=[8]), 3)
    weights = dict(pooled.named_parameters())
    assert all(torch.equal(weight, weights[name]) for name, weight in plain.named_parameters())
    new = [name for name in weights if name not in dict(plain.named_parameters())]
    assert new == [*(f"pool.{name}" for name in ("query", "k.weight", "v.weight", "o.weight")), "project.0.weight"]
    assert {"pool", "project"}.isdisjoint(plain.spec.dump())  # so digests of older specs stay: tests/golden


def test_a_spec_with_a_pool_round_trips():
    spec = model_spec(BOTH, pool={"type": "attention"}, project=[24, 12])
    assert spec.pool == {"type": "attention", "heads": 4} and spec.vector_dim == 12
    assert ModelSpec.parse(spec.dump()) == spec and registry.resolve(spec) == spec
    assert model_spec(BOTH, pool={"type": "mean"}).vector_dim == DIM and model_spec(BOTH).vector_dim is None
    assert registry.whole_model(spec)["pool"] == spec.pool


SPEC = """\
schema: 1
dim: 16
vocab_size: 37
layers: 1
pattern: [a]
blocks: {a: {mixer: {type: attention, heads: 2, causal: false}}}
"""
BAD = {
    "pool: {type: man}": r"spec.yaml:7: pool.type: no pool 'man'; did you mean 'mean'\?",
    "pool: {type: attention, head: 2}": r"spec.yaml:7: pool.head: unknown key; did you mean 'heads'\?",
    "pool: {type: attention, heads: 3}": r"spec.yaml:7: pool.heads: 3 does not divide dim = 16",
    "pool: {heads: 2}": r"spec.yaml:7: pool: a component needs `type: NAME`",
    "pool: mean": r"spec.yaml:7: pool: expected a mapping of keys",
    "project: [8]": r"spec.yaml:7: project: maps a pooled vector, but the model has no `pool`",
    "pool: {type: mean}\nproject: [0]": r"spec.yaml:8: project.0: ",
    "pool: {type: mean}\nproject: 8": r"spec.yaml:8: project: expected a list",
    "pool: {type: mean}\nproject: [1152921504606846976]": r"spec.yaml:8: project: 16 x 1,152,.* is too large",
    "pool: {type: mean}\ntie_embeddings: false": r"spec.yaml:8: tie_embeddings: a model with a `pool` has no head",
    "pool: {type: mean}\nlogit_softcap: 30.0": r"spec.yaml:8: logit_softcap: a model with a `pool` has no head",
}


@pytest.mark.parametrize("lines", BAD)
def test_a_bad_pool_is_refused_with_file_line_and_key(lines, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "spec.yaml").write_text(SPEC + lines + "\n")
    with pytest.raises(SpecError, match=f"^{BAD[lines]}"):
        root = document.load("spec.yaml", "arch")
        cost.check_builds(registry.resolve(ModelSpec.parse(root), root), root)


# --- what it costs


@pools
def test_the_cost_of_an_encoder(pool):
    spec, n = model_spec(NEAR, BOTH, pool=pool, project=[24, 12]), 32
    known = cost.summary(spec, n)
    behind = 3 * DIM * DIM + DIM if pool["type"] == "attention" else 0
    assert known["parameters"]["pool"] == behind + DIM * 24 + 24 * 12
    assert known["parameters"]["total"] == sum(weight.numel() for weight in Model(spec).parameters())
    assert known["vector_bytes"] == 12 * 4
    assert known["cache_bytes"]["total"] is known["state_bytes"] is known["decode_bytes"] is None
    assert known["flops_per_token"]["ideal"]["decode"] is known["flops_per_token"]["executed"]["decode"] is None
    layer = 2 * (4 * DIM * DIM + 3 * DIM * 24) * n
    pairs = [sum(1 for q in range(n) for k in range(n) if abs(q - k) <= reach) for reach in (2, n)]
    pooling = n * (4 * DIM * DIM + 4 * DIM) + 2 * DIM * DIM if behind else 0
    ideal = 2 * layer + 4 * DIM * sum(pairs) + pooling + 2 * (DIM * 24 + 24 * 12)
    for path, times in (("prefill", 1), ("train", 3)):
        assert known["flops_per_token"]["ideal"][path] * n == pytest.approx(times * ideal)
        assert known["flops_per_token"]["executed"][path] * n >= times * (ideal - 4 * DIM * n * bool(behind))
    assert known["training_bytes"]["activations"] > 0 and not known["notes"]


def test_a_causal_model_with_a_pool_does_not_decode():
    known = cost.outline(model_spec({"type": "attention", "heads": 2}, {"type": "rg_lru"}, pool={"type": "last"}), 16)
    assert known["cache_bytes"]["total"] is known["state_bytes"] is known["decode_bytes"] is None
    assert known["flops_per_token"]["ideal"]["decode"] is None


def test_show_says_what_comes_out():
    from rich.console import Console

    spec = model_spec(NEAR, BOTH, pool={"type": "attention"}, project=[2400, 12])
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(shown(spec, "mine", cost.summary(spec, 32)))
    text = console.export_text()
    assert "pool: attention (heads: 4), 16 -> 2,400 -> 12" in text
    assert "vector of one text" in text and "12 numbers, 48 B" in text.replace("\N{NO-BREAK SPACE}", " ")
    assert "cache" not in text and "decode" not in text


# --- remarks, probes


def test_the_first_token_of_a_causal_model_is_remarked():
    causal, first = {"type": "attention", "heads": 2}, {"type": "first"}
    (said,) = remarks.of_model(model_spec(causal, pool=first), 64, "model.")
    assert said.startswith("model.pool: the first token of a causal model has seen no other")
    for spec in (model_spec(BOTH, pool=first), model_spec(causal, pool={"type": "last"}), model_spec(causal)):
        assert not remarks.of_model(spec, 64)


def test_models_with_different_pools_compute_something_else():
    specs = [model_spec(BOTH, **rest) for rest in ({}, *({"pool": pool} for pool in POOLS), {"pool": POOLS[0], "project": [DIM]})]
    computed = [str(remarks.computed(spec, 64)) for spec in specs]
    assert len(set(computed)) == len(specs)


def test_a_causal_trunk_is_probed_without_its_pool():
    spec = model_spec({"type": "attention", "heads": 2}, pool={"type": "attention", "heads": 16}, project=[5])
    assert shrunk.model(spec, most=100).pool is None
    assert probe_model.check_causal(spec, document.node(spec.dump()), tokens=16) == []


OWN = """\
from torch import nn
from arch.registry import pool
from arch.spec import Spec

class Base(nn.Module):
    class Config(Spec):
        pass

    def __init__(self, config, context):
        super().__init__()

@pool
class Padded(Base):
    def forward(self, hidden_BTD, layout):
        return hidden_BTD.mean(1)

@pool
class Multiplied(Base):
    def forward(self, hidden_BTD, layout):
        seen_BT1 = layout.seen_BT[..., None]
        return (hidden_BTD * seen_BT1).sum(1) / seen_BT1.sum(1).clamp(min=1)

@pool
class Tokens(Base):
    def forward(self, hidden_BTD, layout):
        return hidden_BTD

@pool
class Right(Base):
    def forward(self, hidden_BTD, layout):
        return hidden_BTD.masked_fill(~layout.seen_BT[..., None], 0.0).sum(1)
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    (tmp_path / "own_pools_of_test.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    return "own_pools_of_test"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Padded", "must see no padding, but a large number there changes the vector in evaluation mode"),
        ("Multiplied", "must see no padding, but a number that is not finite there changes the vector"),
        ("Tokens", r"gives shape \(2, 1, 16\) for an input of shape \(2, 1, 16\); expected \(2, 16\)"),
        ("Right", None),
    ],
)
def test_a_pool_of_ones_own_is_probed_at_its_line(name, said, own):
    spec = model_spec(BOTH, pool={"type": f"{own}:{name}"})
    root = document.node({"model": spec.dump()}, "spec.yaml", 3)
    if said is None:
        assert probe_model.check_components(spec, root, ("model",), tokens=32) == []
        assert new_model(spec, 0).encode(tokens(), TokenLayout.right_padded(LENGTHS, 11)).shape == (4, DIM)
        return
    with pytest.raises(SpecError, match=f"^spec.yaml:3: model.pool: {own}:{name} {said}"):
        probe_model.check_components(spec, root, ("model",), tokens=32)


def test_check_takes_the_kind_with_the_name(own):
    assert checked.check("pool/attention").kind == "pool" and checked.check("attention", ("heads=2",)).kind == "mixer"
    assert checked.check("pool/attention").passed and checked.check("mean").passed and checked.check(f"{own}:Right").passed
    with pytest.raises(SpecError, match=r"^no pool 'atention'; did you mean 'attention'\?"):
        checked.check("pool/atention")
    with pytest.raises(SpecError, match="attention with heads=3 cannot be built in width 64: heads: 3 does not divide dim = 64"):
        checked.check("pool/attention", ("heads=3",))
