"""Images in a model: what their tokens see, on every path of attention; the tower; soft tokens in their places."""

from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F

from arch import cost, express, packed, registry
from arch.errors import SpecError
from arch.express import resolved
from arch.generate import Shown, chunks, generate, prefill
from arch.kernels import products
from arch.kernels.attention import banded, blocked, fused, reference
from arch.layout import TokenLayout
from arch.model import new_model
from arch.model_spec import TEXT_ROLES
from arch.quantised import weights
from arch.towers.siglip import pooled

TOWER = {"type": "siglip", "image_size": 12, "patch": 2, "dim": 16, "layers": 2, "heads": 2, "hidden": 24, "tokens": 9}
ATTENTION = {"type": "attention", "heads": 4, "kv_heads": 2, "head_dim": 8}
RULES = ("one_sided", "two_sided", "causal")


def spec(window=5, **tower):
    block = {"mixer": {**ATTENTION, "window": window}, "ffn": {"type": "gated", "hidden": 32}, "norm": "sandwich"}
    blocks = {"local": block, "global": {"like": "local", "mixer": {"window": None}}}
    data = {"dim": 32, "vocab_size": 40, "layers": 3, "pattern": ["local", "global"], "blocks": blocks, "embed_scale": "sqrt_dim"}
    return resolved(data | {"vision": {**TOWER, "placeholder": 30, "start": 31, "end": 32, **tower}})


def pictured():
    """(tokens (3, 26), layout, images (3, 2, 3, 12, 12)): two images, one right behind the other; one; none."""
    generator = torch.Generator().manual_seed(0)
    tokens_BT = torch.randint(1, 30, (3, 26), generator=generator)
    image_BT = torch.full((3, 26), -1)
    image_BT[0, 2:11], image_BT[0, 11:20] = 0, 1
    image_BT[1, 6:15] = 0
    tokens_BT[image_BT >= 0] = 30
    images = torch.rand(3, 2, 3, 12, 12, generator=generator) * 2 - 1
    return tokens_BT, TokenLayout.whole(3, 26).with_images(image_BT), images


def slow_mask(image_BT, window, rule):
    """(B, T, T) bool, by the definition in words."""
    rows, tokens = image_BT.shape
    seen_BTS = torch.zeros(rows, tokens, tokens, dtype=torch.bool)
    for b in range(rows):
        for t in range(tokens):
            for s in range(tokens):
                together = rule != "causal" and image_BT[b, t] >= 0 and image_BT[b, t] == image_BT[b, s]
                near = window is None or (abs(t - s) if rule == "two_sided" else t - s) < window
                seen_BTS[b, t, s] = (s <= t or together) and near
    return seen_BTS


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("window", [None, 1, 5, 9, 40])
def test_the_interval_is_the_rule_in_words(rule, window):
    _, layout, _ = pictured()
    low_BT, high_BT = layout.seeing(rule).interval(None if window is None else window - 1, 0)
    index_T = torch.arange(26)
    seen_BTS = (index_T >= low_BT[..., None]) & (index_T <= high_BT[..., None])
    assert torch.equal(seen_BTS, slow_mask(layout.image_BT, window, rule))


def test_rules_differ_only_where_an_image_is_longer_than_the_window():
    _, layout, _ = pictured()
    high = lambda rule, window: layout.seeing(rule).interval(window - 1, 0)[1]  # noqa: E731
    assert torch.equal(high("one_sided", 9), high("two_sided", 9))
    assert not torch.equal(high("one_sided", 5), high("two_sided", 5))
    with pytest.raises(ValueError, match="expected one of one_sided, two_sided, causal"):
        layout.seeing("both")


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("window", [None, 2, 5])
def test_every_path_equals_the_reference(rule, window):
    _, layout, _ = pictured()
    layout = layout.seeing(rule)
    before = None if window is None else window - 1
    bounds, reach = layout.interval(before, 0), layout.reach(before, 0)
    given = [torch.randn(3, 26, heads, 8, dtype=torch.float64, requires_grad=True) for heads in (4, 2, 2)]
    grad = torch.randn(3, 26, 4, 8, dtype=torch.float64)
    want = reference(*given, *bounds, 0.3)
    wanted = torch.autograd.grad((want.double() * grad).sum(), given)
    paths = {"blocked": blocked, "fused": fused} | ({"banded": banded} if window else {})
    for name, path in paths.items():
        got = path(*given, *bounds, 0.3, reach)
        assert torch.allclose(got, want.to(got.dtype), atol=1e-6), name
        for mine, theirs in zip(torch.autograd.grad((got * grad).sum(), given), wanted, strict=True):
            assert torch.allclose(mine, theirs, atol=1e-6), name


def test_no_path_may_take_an_image_for_plain_text():
    _, layout, _ = pictured()
    assert not layout.is_plain
    assert layout.seeing("causal").is_plain
    assert layout.reach(4, 0) == (4, 8)
    assert layout.seeing("two_sided").reach(4, 0) == (4, 4)
    assert layout.seeing("causal").reach(4, 0) == (4, 0)
    assert TokenLayout.whole(2, 8).with_images(torch.full((2, 8), -1)).image_BT is None


@torch.no_grad()
def test_a_token_of_an_image_sees_its_image_alone():
    """By perturbation: a pixel of an image reaches its first token, and no token before the image."""
    model = new_model(spec(), 0)
    tokens_BT, layout, images = pictured()
    plain = model.trunk(tokens_BT, layout, images=images)[0]
    other = images.clone()
    other[0, 1] += 0.5
    changed_T = (model.trunk(tokens_BT, layout, images=other)[0] - plain)[0].abs().amax(-1) > 1e-6
    assert not changed_T[:11].any()  # neither the text before it nor the image right before it
    assert changed_T[11:].all()
    causal = new_model(spec(spans="causal"), 0)
    patch = images.clone()
    patch[1, 0, :, 8:, 8:] += 0.5  # the lower right corner, which is the last soft token's own
    moved_T = (causal.trunk(tokens_BT, layout, images=patch)[0] - causal.trunk(tokens_BT, layout, images=images)[0])[1]
    assert (moved_T[:6].abs().amax(-1) == 0).all()


@torch.no_grad()
def test_rows_with_and_without_images_give_what_each_gives_alone():
    model = new_model(spec(), 0)
    tokens_BT, layout, images = pictured()
    together = model(tokens_BT, layout, images)
    for b in range(3):
        alone = model(tokens_BT[b : b + 1], layout.rows(slice(b, b + 1)), images[b : b + 1])
        assert torch.allclose(together[b], alone[0], atol=1e-5)
    assert torch.allclose(together[2], model(tokens_BT[2:])[0], atol=1e-5)


def test_soft_tokens_are_not_scaled_and_stand_in_their_places():
    model = new_model(spec(), 0)
    tokens_BT, layout, images = pictured()
    x_BTD = model.embed_with_images(tokens_BT, layout, images)
    assert torch.allclose(x_BTD[0, 11:20], model.vision(images[0, 1:2])[0], atol=1e-6)
    assert torch.equal(x_BTD[0, :2], model.embed(tokens_BT)[0, :2])


@pytest.mark.parametrize("frozen", [True, False])
def test_a_frozen_encoder_gets_no_gradient_and_the_map_behind_it_does(frozen):
    model = new_model(spec(frozen=frozen), 0)
    tokens_BT, layout, images = pictured()
    model(tokens_BT, layout, images).square().mean().backward()
    encoder, rest = model.vision.encoder.parameters(), (model.vision.project.weight, model.vision.norm.weight)
    assert all((weight.grad is None) == frozen for weight in encoder)
    assert all(weight.grad is not None and weight.grad.abs().max() > 0 for weight in rest)


def learned(model, casting):
    """(logits, {parameter: gradient}) of a pass, with or without bfloat16 products."""
    model.zero_grad()
    with products.casting() if casting else nullcontext():
        logits_BTV = model(*pictured()).float()
        F.cross_entropy(logits_BTV.flatten(0, 1), pictured()[0].flatten()).backward()
    return logits_BTV.detach(), {name: weight.grad for name, weight in model.named_parameters()}


@pytest.mark.parametrize("frozen", [True, False])
def test_in_bfloat16_it_computes_what_it_computes_in_float32(frozen):
    """To the precision of bfloat16, soft tokens included; the gradients of the tower's weights are float32."""
    model = new_model(spec(frozen=frozen), 0)
    (want, wanted), (got, found) = learned(model, False), learned(model, True)
    assert (got - want).norm() < 0.03 * want.norm() and not torch.equal(got, want)
    for name, gradient in wanted.items():
        assert (gradient is None) == (found[name] is None), name
        if gradient is not None:
            assert found[name].dtype is torch.float32
            assert (found[name] - gradient).norm() < 0.1 * gradient.norm() + 1e-6, name


LANGUAGE = {"embedding": {"type": "int8_block", "block": 16}, "matrix": {"type": "sfp8"}, "attention": {"type": "sfp8"}}


@pytest.mark.parametrize("casting", [True, False])
@pytest.mark.parametrize("quantise", [LANGUAGE, {"vision": {"type": "int4_channel"}}], ids=["language", "tower"])
def test_a_tower_is_quantised_where_it_is_named_alone(quantise, casting):
    """It computes and learns as a model whose weights are rounded; the text's roles leave the tower as it is."""
    plain = new_model(spec(frozen=False), 0)
    ours = new_model(express.resolved(plain.spec.dump() | {"quantise": quantise}), 0)
    rounded = set()
    with torch.no_grad():
        for _, name, role, weight in weights(plain):
            if role in quantise:
                weight.copy_(registry.build("quantiser", ours.spec.quantise.roles()[role]).rounded(weight))
                rounded.add(name.startswith("vision."))
    assert rounded == {"vision" in quantise}
    (want, wanted), (got, found) = learned(plain, casting), learned(ours, casting)
    assert torch.equal(got, want)
    assert all(torch.equal(found[name], gradient) for name, gradient in wanted.items())


def test_a_published_tower_stays_whole_and_a_model_without_one_has_no_such_role():
    """Gemma 3's patches have 588 values, no multiple of a block: a format for all text is still one that its model can have."""
    published = express.loaded("gemma3/4b_vision")
    q4_0 = {"type": "q4_0", "gradient": "plain"}
    sizes = packed.weights(published, dict.fromkeys(TEXT_ROLES, q4_0))
    parts = cost.summary(published, 8)["vision"]["parameters"].values()
    assert sizes["vision"]["format"] == "bfloat16" and 0.98 * sum(parts) < sizes["vision"]["parameters"] < sum(parts)
    with pytest.raises(ValueError, match="vision: q4_0 needs rows of a multiple of 32 values, not 588"):
        packed.weights(published, {"vision": q4_0})
    with pytest.raises(ValueError, match="vision: the model has no such weights"):
        new_model(express.resolved(spec().dump() | {"vision": None, "quantise": {"vision": {"type": "sfp8"}}}), 0)


@torch.no_grad()
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("chunk", [1, 4, 12, 512])
def test_a_prompt_in_chunks_gives_what_it_gives_whole(rule, chunk):
    model = new_model(spec(spans=rule), 0)
    tokens_BT, layout, images = pictured()
    whole = model(tokens_BT, layout, images)[:, -1]
    shown = Shown(layout.image_BT, images)
    scores_BV, state = prefill(model, tokens_BT, model.init_state(3, 30), chunk=chunk, shown=shown)
    assert torch.allclose(scores_BV, whole, atol=1e-4)
    next_B1 = scores_BV.argmax(-1, keepdim=True)
    decoded = model.decode(next_B1, state)[0][:, 0]
    longer = layout.image_BT, torch.full((3, 1), -1)
    again = model(torch.cat([tokens_BT, next_B1], 1), TokenLayout.whole(3, 27).with_images(torch.cat(longer, 1)), images)
    assert torch.allclose(decoded, again[:, -1], atol=1e-4)


def test_chunks_cut_no_image():
    _, layout, _ = pictured()
    parts = list(chunks(layout.rows(slice(0, 1)), 26, 4))
    assert parts == [(0, 2), (2, 11), (11, 20), (20, 24), (24, 26)]
    with pytest.raises(ValueError, match="cut an image"):
        layout.part(0, 5)


@torch.no_grad()
def test_prompts_of_different_lengths_with_images_decode_together():
    model = new_model(spec(), 0)
    tokens_BT, layout, images = pictured()
    short = tokens_BT[1:2, 4:]
    padded = torch.cat([torch.zeros(1, 4, dtype=torch.long), short], 1)
    image_BT = layout.image_BT.clone()
    both = generate(
        model,
        torch.cat([tokens_BT[:1], padded]),
        3,
        temperature=0,
        lengths_B=torch.tensor([26, 22]),
        shown=Shown(image_BT[:2], images[:2]),
    )
    alone = generate(model, short, 3, temperature=0, shown=Shown(image_BT[1:2, 4:], images[1:2]))
    assert torch.equal(both[1], alone[0])


def test_images_and_placeholders_must_match():
    model = new_model(spec(), 0)
    tokens_BT, layout, images = pictured()
    with pytest.raises(ValueError, match="pixels are not given"):
        model(tokens_BT, layout)
    with pytest.raises(ValueError, match="the layout says of no token"):
        model(tokens_BT, TokenLayout.whole(3, 26), images)
    with pytest.raises(ValueError, match="placeholders have no image"):
        model(tokens_BT, layout, images[:, :1])
    short = layout.image_BT.clone()
    short[0, 2] = -1
    with pytest.raises(ValueError, match="other than 9 placeholders"):
        model(tokens_BT, TokenLayout.whole(3, 26).with_images(short), images)


def test_pooling_is_the_mean_of_a_square():
    x = torch.arange(16.0).view(1, 16, 1)
    assert pooled(x, 4).flatten().tolist() == [2.5, 4.5, 10.5, 12.5]
    assert torch.equal(pooled(x, 16), x)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"image_size": 13}, "patch: 2 does not divide image_size = 13"),
        ({"tokens": 8}, "tokens: 8 is not the square of a whole number"),
        ({"tokens": 16}, "tokens: 6 patches a side are not a multiple of the 4 tokens a side"),
        ({"heads": 3}, "heads: 3 does not divide dim = 16"),
        ({"placeholder": 40}, "vision: its placeholder, 40, is no token of a vocabulary of 40"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(options, reason):
    with pytest.raises(SpecError, match=reason):
        spec(**options)


def test_a_vector_of_a_text_and_a_look_ahead_are_refused_beside_images():
    data = spec().dump()
    with pytest.raises(SpecError, match="a model with a `pool` reads texts alone"):
        resolved(data | {"pool": {"type": "mean"}})
    data["blocks"]["global"]["mixer"]["causal"] = False
    with pytest.raises(SpecError, match="block global sees ahead"):
        resolved(data)


@pytest.mark.parametrize(("size", "width"), [("4b", 2560), ("12b", 3840), ("27b", 5376)])
def test_the_published_tower_has_417_million_parameters(size, width):
    from arch.express import loaded

    found = cost.outline(loaded(f"gemma3/{size}_vision"), 64)
    plain = cost.outline(loaded(f"gemma3/{size}"), 64)
    assert found["vision"]["parameters"] == {"encoder": 416_866_032, "projection": 1152 * width + 1152}
    assert found["vision"]["tokens"] == 256
    assert found["parameters"]["non_embedding"] == plain["parameters"]["non_embedding"]


def test_the_flops_of_an_image_are_those_that_the_counter_sees():
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"):
        from arch.model import Model

        tower = Model(spec()).vision
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        tower(torch.empty(1, 3, 12, 12, device="meta"))
    assert counter.get_total_flops() == sum(tower.image_flops().values()) > 0


def test_a_spec_without_vision_has_the_digest_it_had():
    assert "vision" not in resolved({k: v for k, v in spec().dump().items() if k != "vision"}).dump()
