"""A decoded token by the compiled parts against the same in torch: whole components, models, and when they decline."""

import copy

import pytest
import torch
from kernel_paths import compiled_or_skip
from tiny_specs import context, examples, label, model_spec, resolved

from arch import decoding, registry
from arch.convolution import CausalConvolution
from arch.cost import tensors
from arch.kernels import decode, glu, native
from arch.layout import TokenLayout
from arch.model import new_model
from arch.norm import RMSNorm, rms_norm_reference
from arch.parameters import initialise

ATTENTION, GATED = {"type": "attention", "heads": 2}, {"type": "gated", "hidden": 24}
SHAPES = [(1, 1, 1), (1, 5, 3), (2, 16, 4), (3, 37, 70), (4, 64, 33), (5, 130, 66), (17, 256, 64)]
MIXERS = [
    *examples("mixer"),
    {"type": "attention", "heads": 10, "kv_heads": 2, "head_dim": 70, "window": 300, "softcap": 2.0, "qk_norm": True},
    {"type": "attention", "heads": 3, "kv_heads": 1, "head_dim": 64},
    {"type": "rg_lru", "width": 160, "blocks": 2},
    {"type": "rg_lru", "width": 70, "blocks": 1, "taps": 2},
    {"type": "short_convolution", "width": 160, "taps": 2},
    {"type": "short_convolution", "width": 70, "taps": 11},
]


@pytest.fixture(autouse=True)
def compiled():
    compiled_or_skip("decode")
    with torch.no_grad():
        yield


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def close(got, want):
    torch.testing.assert_close(got, want, rtol=1e-5, atol=3e-6)


@pytest.mark.parametrize("rows, inputs, outputs", SHAPES)
def test_linear(rows, inputs, outputs):
    x, weight, bias = random(rows, 1, inputs), random(outputs, inputs, seed=1), random(outputs, seed=2)
    for offset in (None, bias):
        want = torch.nn.functional.linear(x.double(), weight.double(), offset if offset is None else offset.double())
        torch.testing.assert_close(decode.linear(x, weight, offset), want.float(), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("softcap", [0.3, 30.0])
def test_linear_softcap(softcap):
    x, weight = random(17, 1, 16) * torch.logspace(-4, 2, 17)[:, None, None], random(37, 16, seed=1)
    z = torch.nn.functional.linear(x.double(), weight.double())
    want = softcap * torch.tanh(z / softcap)
    torch.testing.assert_close(decode.linear(x, weight, softcap=softcap), want.float(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("rows, width", [(1, 1), (2, 7), (3, 64), (5, 100)])
def test_norm(rows, width):
    norm, x = RMSNorm(width, 1e-6), random(rows, 1, width)
    norm.weight.copy_(random(width, seed=2))
    close(decoding.token(norm, x), rms_norm_reference(x, norm.weight, 1e-6))


@pytest.mark.parametrize("activation", glu.ACTIVATIONS)
@pytest.mark.parametrize("rows, hidden", [(1, 24), (3, 70), (6, 129)])
def test_gated(rows, hidden, activation):
    options = {"type": "gated", "hidden": hidden, "activation": activation, "bias": True}
    module = registry.build("ffn", options, context())
    for seed, weight in enumerate(module.parameters()):
        weight.copy_(random(*weight.shape, seed=seed))
    x = random(rows, 1, 16, seed=9)
    torch.testing.assert_close(decoding.token(module, x), module(x), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("rows, tokens", [(1, 7), (3, 12), (18, 400)])
@pytest.mark.parametrize("component", [each for each in MIXERS if each.get("causal", True)], ids=label)
def test_mixers(component, rows, tokens):
    """Rows of different lengths, a prompt and then tokens alone: outputs and the state after them."""
    mixer = registry.build("mixer", component, context())
    initialise(mixer, seed=0)
    lengths = 1 + torch.arange(rows) * 5 % tokens
    runs = []
    for plain in (False, True):
        state = mixer.init_state(rows, tokens + 9, torch.float32, None)
        _, state = mixer(random(rows, tokens, 16), TokenLayout.left_padded(lengths, tokens), state)
        outputs = []
        for step in range(9):
            layout = TokenLayout(torch.zeros(rows, 1, dtype=torch.long), (lengths + step)[:, None])
            x = random(rows, 1, 16, seed=step)
            y, state = mixer(x, layout, state) if plain else decoding.token(mixer, x, layout, state)
            outputs.append(y)
        runs.append([torch.cat(outputs, 1), *tensors(state)])
    for got, want in zip(*runs, strict=True):
        close(got, want)


@pytest.mark.parametrize("rows", [1, 5, 18])
@pytest.mark.parametrize("placement", ["before", "after", "sandwich"])
@pytest.mark.parametrize("mixer", [ATTENTION, {"type": "rg_lru", "blocks": 2}, {"type": "short_convolution"}, None], ids=label)
def test_blocks(mixer, placement, rows, monkeypatch):
    """With the norms around each part and the residual stream: a token costs two calls."""
    data = {"mixer": mixer, "ffn": GATED, "norm": placement}
    model = new_model(resolved({"dim": 16, "vocab_size": 37, "layers": 1, "pattern": ["b"], "blocks": {"b": data}}), seed=0)
    for seed, weight in enumerate(model.parameters()):
        weight.copy_(0.3 * random(*weight.shape, seed=seed))
    block, runs, calls = model.blocks[0], [], []
    monkeypatch.setattr(RMSNorm, "forward", lambda self, x: calls.append(x) or rms_norm_reference(x, self.weight, self.eps))
    for plain in (False, True):
        state, outputs = mixer and block.mixer.component.init_state(rows, 4), []
        for step in range(4):
            x, layout = random(rows, 1, 16, seed=step), TokenLayout.whole(rows, 1, first=step)
            y, state = block(x, layout, state) if plain else decoding.token(block, x, layout, state)
            assert plain or not calls
            outputs.append(y)
        runs.append(torch.cat(outputs, 1))
    assert calls
    torch.testing.assert_close(*runs, rtol=1e-5, atol=1e-5)


def widened(module):
    """A copy of a bfloat16 module with the same numbers in float32."""
    return copy.deepcopy(module).float()


@pytest.mark.parametrize("rows, inputs, outputs", SHAPES)
def test_bfloat16_maps_and_norms_are_those_of_float32_rounded_once(rows, inputs, outputs):
    """The same float32 sums of the widened numbers, to the last bit; only a norm's result is rounded, to the nearest even."""
    x, weight, bias = (
        each.bfloat16() for each in (random(rows, 1, inputs), random(outputs, inputs, seed=1), random(outputs, seed=2))
    )
    for offset, cap in (None, None), (bias, 2.0):
        wide = offset if offset is None else offset.float()
        assert torch.equal(decode.linear(x, weight, offset, cap), decode.linear(x.float(), weight.float(), wide, cap))
    scale = random(inputs, seed=3).bfloat16()
    assert torch.equal(decode.norm(x, scale, 1e-6), decode.norm(x.float(), scale.float(), 1e-6).bfloat16())


@pytest.mark.parametrize("rows, hidden", [(1, 24), (3, 70), (6, 129)])
def test_a_bfloat16_ffn_is_that_of_float32_rounded_once(rows, hidden):
    module = registry.build("ffn", {"type": "gated", "hidden": hidden, "bias": True}, context()).bfloat16()
    for seed, weight in enumerate(module.parameters()):
        weight.copy_(random(*weight.shape, seed=seed))
    x = random(rows, 1, 16, seed=9).bfloat16()
    assert torch.equal(decoding.token(module, x), decoding.token(widened(module), x.float()).bfloat16())


@pytest.mark.parametrize("rows, tokens", [(1, 7), (3, 12), (18, 90)])
@pytest.mark.parametrize("component", [each for each in MIXERS if each.get("causal", True)], ids=label)
def test_bfloat16_mixers(component, rows, tokens):
    """Against float32 with the same numbers: each result within 2^-7 of what their size is, rows of different lengths."""
    mixer = registry.build("mixer", component, context())
    initialise(mixer, seed=0)
    mixer, lengths, runs = mixer.bfloat16(), 1 + torch.arange(rows) * 5 % tokens, []
    for module, dtype in (mixer, torch.bfloat16), (widened(mixer), torch.float32):
        state = module.init_state(rows, tokens + 9, dtype, None)
        _, state = module(random(rows, tokens, 16).bfloat16().to(dtype), TokenLayout.left_padded(lengths, tokens), state)
        outputs = []
        for step in range(9):
            layout = TokenLayout(torch.zeros(rows, 1, dtype=torch.long), (lengths + step)[:, None])
            y, state = decoding.token(module, random(rows, 1, 16, seed=step).bfloat16().to(dtype), layout, state)
            assert y.dtype is dtype
            outputs.append(y)
        runs.append([torch.cat(outputs, 1), *tensors(state)])
    for got, want in zip(*runs, strict=True):
        assert got.shape == want.shape
        assert not want.numel() or (got.float() - want).abs().max() <= 2**-7 * want.abs().max() + 1e-6


def test_what_is_no_number_stays_so_in_bfloat16():
    x, scale = torch.ones(1, 1, 8, dtype=torch.bfloat16), torch.ones(8, dtype=torch.bfloat16)
    spoiled = torch.tensor([float("nan"), float("inf"), -float("inf"), 1, 1, 1, 1, 1], dtype=torch.bfloat16)
    y = decode.norm(x, scale * spoiled, 1e-6)[0, 0]
    assert y[0].isnan() and y[1] == float("inf") and y[2] == -float("inf") and y[3].isfinite()


@pytest.mark.parametrize("threads", [1, 3])
def test_bits_do_not_depend_on_threads(threads):
    spec = model_spec({"type": "attention", "heads": 4, "head_dim": 64}, {"type": "rg_lru", "width": 256}, dim=256)
    model, seen, before = new_model(spec, seed=0), [], torch.get_num_threads()
    for count in (2, threads):
        torch.set_num_threads(2)
        _, state = model.decode(torch.arange(600)[None] % 37, model.init_state(1, 601))
        torch.set_num_threads(count)
        seen.append(model.decode(torch.tensor([[3]]), state)[0])
    torch.set_num_threads(before)
    assert torch.equal(*seen)


def test_an_activation_that_c_does_not_have_goes_to_torch():
    """A compiled function gets a code, so a name without one must never reach it."""
    up, down = (random(8, 16, seed=1), None), (random(16, 8, seed=2), None)
    taken = {name for name in glu.ACTIVATIONS if decode.gated_part(up, up, down, name) is not None}
    assert taken == set(glu.COMPILED) and "relu" not in taken
    gate = random(3, 5)
    assert torch.equal(glu.glu(gate, gate, "relu"), gate.relu() * gate)


def test_what_it_cannot_take_goes_to_torch():
    x, weight = random(2, 1, 16), random(8, 16)
    assert decode.linear(x, weight) is not None
    assert decode.linear(x.bfloat16(), weight.bfloat16()) is not None
    assert decode.linear(x.half(), weight.half()) is None
    assert decode.linear(x, weight.bfloat16()) is None and decode.linear(x.bfloat16(), weight) is None
    assert decode.linear(x.to("meta"), weight.to("meta")) is None
    assert decode.linear(x, random(16, 8).t()) is None
    with torch.enable_grad():
        assert decode.linear(x, weight) is None
    with native.disabled():
        assert decode.linear(x, weight) is None


def test_a_map_that_was_replaced_or_hooked_is_called():
    mixer, ffn = registry.build("mixer", ATTENTION, context()), registry.build("ffn", GATED, context())
    for module in (mixer, ffn):
        initialise(module, seed=0)
    called = []
    mixer.q = torch.nn.Linear(16, 16, bias=False)
    ffn.up.register_forward_hook(lambda *_: called.append("hook"))
    mixer.q.register_forward_hook(lambda *_: called.append("replaced"))
    x, layout = random(1, 1, 16), TokenLayout.whole(1, 1)
    decoding.token(mixer, x, layout, mixer.init_state(1, 4))
    decoding.token(ffn, x)
    assert called == ["replaced", "hook"]


def test_a_gate_that_was_replaced_or_hooked_is_called():
    called = []
    for name in ("recurrence_gate", "input_gate"):
        mixer = registry.build("mixer", {"type": "rg_lru"}, context())
        initialise(mixer, seed=0)
        if name == "input_gate":
            mixer.input_gate = torch.nn.Linear(16, 16)
        getattr(mixer, name).register_forward_hook(lambda *_, name=name: called.append(name))
        decoding.token(mixer, random(1, 1, 16), TokenLayout.whole(1, 1), mixer.init_state(1, 4))
    assert called == ["recurrence_gate", "input_gate"]


@pytest.mark.parametrize("kind", ["rg_lru", "short_convolution"])
def test_a_convolution_that_was_replaced_or_hooked_is_called(kind):
    """By a part and by the plan of a whole model."""

    class Own(CausalConvolution):
        pass

    called = []
    for own in (False, True):
        model = new_model(model_spec({"type": kind}), seed=0)
        mixer = model.blocks[0].mixer.component
        _, state = model.decode(torch.tensor([[1]]), model.init_state(1, 4))
        if own:
            mixer.conv = Own(16, 4)
        mixer.conv.register_forward_hook(lambda *_: called.append(kind))
        decoding.token(mixer, random(1, 1, 16), TokenLayout.whole(1, 1), mixer.init_state(1, 4))
        model.decode(torch.tensor([[2]]), state)
    assert called == [kind] * 4


@pytest.mark.parametrize(
    "part", ["", "mixer", "mixer.component", "mixer.before", "mixer.component.q_norm", "ffn.component", "ffn.after"]
)
def test_what_is_hooked_in_a_layer_is_called(part):
    """Also where the hook comes between two tokens; the same numbers."""
    runs = []
    for hook in (False, True):
        model, called = new_model(model_spec({**ATTENTION, "qk_norm": True}), seed=0), []
        _, state = model.decode(torch.tensor([[1]]), model.init_state(1, 3))
        _, state = model.decode(torch.tensor([[2]]), state)
        if hook:
            model.blocks[0].get_submodule(part).register_forward_hook(lambda *_, called=called: called.append(part))
        runs.append(model.decode(torch.tensor([[3]]), state)[0])
        assert called == [part] * hook
    close(*runs)


def test_a_full_state_refuses_another_token():
    mixer = registry.build("mixer", ATTENTION, context())
    initialise(mixer, seed=0)
    _, state = mixer(random(1, 1, 16), TokenLayout.whole(1, 1), mixer.init_state(1, 1))
    for call in (decoding.token, torch.nn.Module.__call__):
        with pytest.raises(ValueError, match="room for 1 tokens"):
            call(mixer, random(1, 1, 16), TokenLayout.whole(1, 1, first=1), state)


def test_a_score_that_is_not_a_number_stays_visible():
    model = new_model(model_spec(ATTENTION, {"type": "rg_lru"}), seed=0)
    for part in ("0.mixer.component.k.weight", "1.mixer.component.decay", "0.ffn.component.up.weight"):
        spoiled = f"blocks.{part}"
        weight = dict(model.named_parameters())[spoiled]
        kept = weight.clone()
        weight.view(-1)[0] = float("nan")
        _, state = model.decode(torch.tensor([[1, 2]]), model.init_state(1, 3))
        assert model.decode(torch.tensor([[3]]), state)[0].isnan().any(), spoiled
        weight.copy_(kept)
