"""A token in one call of C: the bits of a call per part, against float32 in bfloat16, and never of what has changed since."""

import copy
import gc
import weakref

import pytest
import torch
from kernel_paths import compiled_or_skip
from tiny_specs import model_spec, resolved

from arch import decoding, token_plan
from arch.block import Block
from arch.cost import tensors
from arch.generate import _next, generate, prefill
from arch.kernels import decode
from arch.layout import TokenLayout
from arch.model import ModelState, new_model
from arch.norm import RMSNorm

WINDOW = {"type": "attention", "heads": 6, "kv_heads": 2, "head_dim": 10, "window": 5, "qk_norm": True}
GLOBAL = {"type": "attention", "heads": 4, "kv_heads": 1, "softcap": 5.0, "bias": True, "rope": {"theta": 1e6, "fraction": 0.5}}
STILL = {"type": "attention", "heads": 2, "rope": None}
RECURRENT = {"type": "rg_lru", "width": 36, "blocks": 2}
FASTER = {"type": "rg_lru", "width": 24, "exponent": 3.0, "taps": 2}
ALONE = {"type": "rg_lru", "taps": 1}
SHORT = {"type": "short_convolution", "width": 20, "taps": 3}
MODELS = {
    "windows": model_spec(WINDOW, GLOBAL, embed_scale="sqrt_dim", logit_softcap=20.0),
    "recurrences": model_spec(RECURRENT, WINDOW, RECURRENT, FASTER, embed_scale="sqrt_dim_bfloat16", tie_embeddings=False),
    "convolutions": model_spec(SHORT, GLOBAL, ALONE, SHORT, embed_scale="sqrt_dim"),
    "still": model_spec(STILL, RECURRENT, ffn={"type": "gated", "hidden": 21, "activation": "silu", "bias": True}),
}
FFN = {"type": "gated", "hidden": 24}
PLACED = {
    "parts": {"ffn": FFN, "norm": "after"},
    "both": {"mixer": GLOBAL, "ffn": FFN, "norm": "before"},
    "mixer": {"mixer": WINDOW, "norm": "sandwich"},
}
MODELS["placed"] = resolved({"dim": 16, "vocab_size": 37, "layers": 3, "pattern": list(PLACED), "blocks": PLACED})


@pytest.fixture(autouse=True)
def compiled():
    compiled_or_skip("decode")
    with torch.no_grad():
        yield


def drawn(spec, dtype=torch.float32, sharp=0.0):
    """A model with weights that matter everywhere. sharp: added to the last norm, so that some tokens are much likelier."""
    model = new_model(spec, seed=0).eval()
    for seed, weight in enumerate(model.parameters()):
        if weight.ndim == 1:
            weight.add_(0.3 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(seed)))
    model.norm.weight.add_(sharp)
    return model.to(dtype)


def prompts(rows, tokens=9):
    """(prompts, their lengths): as long as each other for one row, else of all lengths."""
    prompt_BT = torch.randint(37, (rows, tokens), generator=torch.Generator().manual_seed(1))
    return prompt_BT, None if rows == 1 else 1 + torch.arange(rows) % tokens


def decoded(model, rows, steps=12, by_part=False, read=None, prompt=True):
    """(logits of each step, tensors of the last state, states); the same tokens for every model."""
    prompt_BT, lengths_B = prompts(rows) if prompt else (None, None)
    state = model.init_state(rows, 9 + steps)
    found, states = [], [state]
    if prompt:
        scores_BV, state = prefill(model, prompt_BT, state, lengths_B)
        found.append(scores_BV[:, None])
    with pytest.MonkeyPatch.context() as patch:
        if by_part:
            patch.setattr(token_plan, "decoded", lambda model, tokens, state, layout: (None, [], None))
        for step in range(1, steps):
            tokens_B1 = (torch.arange(rows)[:, None] * 5 + step * 3) % 37 if read is None else read[:, step - 1 : step]
            z_B1V, state = model.decode(tokens_B1, state, _next(lengths_B, step))
            found.append(z_B1V)
            states.append(state)
    return torch.cat(found, 1), list(tensors(state.layers)), states


@pytest.mark.parametrize("rows", [1, 3, 16])
@pytest.mark.parametrize("name", MODELS)
def test_one_call_for_a_token_has_the_bits_of_one_call_for_each_part(name, rows, monkeypatch):
    """Windows wrap, prompts have different lengths; the state holds the same too."""
    model, parts = drawn(MODELS[name]), []
    run = decode.run
    monkeypatch.setattr(decode, "run", lambda *words: parts.append(words) or run(*words))
    logits, state, _ = decoded(model, rows)
    assert not parts, "a part was computed alone"
    expected, expected_state, states = decoded(model, rows, by_part=True)
    assert parts and states[-1].plan is None
    assert torch.equal(logits, expected)
    assert all(torch.equal(*pair) for pair in zip(state, expected_state, strict=True))


@pytest.mark.parametrize("rows", [1, 3, 16])
@pytest.mark.parametrize("name", MODELS)
def test_bfloat16_is_near_float32_of_the_same_numbers(name, rows):
    """Of the largest logit: 2^-6 where only the cache is rounded, 2^-4 after a prompt whose activations all were."""
    model = drawn(MODELS[name], torch.bfloat16)
    wide, expected = copy.deepcopy(model).float(), {}
    for prompt, bound in (False, 2**-6), (True, 2**-4):
        logits, state, states = decoded(model, rows, prompt=prompt)
        assert logits.dtype is torch.float32 and isinstance(states[-1].plan, token_plan.Plan)
        assert {each.dtype for each in state} <= {torch.bfloat16, torch.float32}
        expected[prompt], _, _ = decoded(wide, rows, prompt=prompt)
        error = (logits - expected[prompt]).abs().max() / expected[prompt].abs().max()
        assert error <= bound, (prompt, error)
    by_part, _, _ = decoded(model, rows, prompt=False, by_part=True)
    assert (by_part - expected[False]).abs().max() / expected[False].abs().max() <= 2**-4


@pytest.mark.parametrize("name", MODELS)
def test_greedy_text_in_bfloat16_is_that_of_float32_where_the_choice_is_clear(name):
    model = drawn(MODELS[name], torch.bfloat16, sharp=4.0)
    wide = copy.deepcopy(model).float()
    prompt_BT = prompts(1)[0]
    text_BT = generate(wide, prompt_BT, 20, temperature=0)
    logits, _, _ = decoded(wide, 1, 21, read=text_BT)
    near, _, _ = decoded(model, 1, 21, read=text_BT)
    best = logits[0].topk(2).values
    clear = best[:, 0] - best[:, 1] > 2**-5 * logits.abs().max()
    assert clear.sum() >= 5 and torch.equal(near[0].argmax(-1)[clear], logits[0].argmax(-1)[clear])
    unclear = (~clear[:20]).nonzero().flatten().tolist()
    upto = unclear[0] if unclear else 20
    assert torch.equal(generate(model, prompt_BT, 20, temperature=0)[:, :upto], text_BT[:, :upto])


def test_a_plan_is_made_once_and_used_for_every_token(monkeypatch):
    made = []
    plan = token_plan.Plan.__init__
    monkeypatch.setattr(token_plan.Plan, "__init__", lambda self, *words: made.append(self) or plan(self, *words))
    generate(drawn(MODELS["recurrences"]), prompts(1)[0], 20)
    assert len(made) == 1


def replaced(model):
    model.blocks[0].mixer.component.q.weight = torch.nn.Parameter(model.blocks[0].mixer.component.q.weight * 2)


def another_map(model):
    model.blocks[1].ffn.component.up = copy.deepcopy(model.blocks[1].ffn.component.gate)


def no_layer(model):
    del model.blocks[0].ffn.after.weight
    model.blocks[0].ffn.after = torch.nn.Identity()


def moved(model):
    weight = model.blocks[1].mixer.component.o.weight
    weight.data = weight.data * 2


def in_place(model):
    model.blocks[1].mixer.component.v.weight.data.mul_(2)
    model.norm.weight.data.add_(1)


def epsilon(model):
    model.blocks[0].mixer.before.eps = 0.5


def turned_around(model):
    """The same address and shape, other strides."""
    weight = model.blocks[0].ffn.component.gate.weight
    model.blocks[0].ffn.component.gate.weight.data = torch.empty(16, 24).copy_(weight.data.t()).t()


@pytest.mark.parametrize("change", [replaced, another_map, no_layer, moved, in_place, epsilon, turned_around])
def test_what_changes_between_two_tokens_counts(change):
    seen = []
    for by_part in (False, True):
        model = drawn(MODELS["windows"])
        _, state = prefill(model, prompts(1)[0], model.init_state(1, 12))
        _, state = model.decode(torch.tensor([[1]]), state)
        before = copy.deepcopy(state)
        unchanged, _ = model.decode(torch.tensor([[2]]), before)
        change(model)
        if by_part:
            hidden, _ = model.trunk(torch.tensor([[2]]), None, state)
            seen.append(model.logits(hidden))
        else:
            seen.append(model.decode(torch.tensor([[2]]), state)[0])
        assert change is turned_around or not torch.equal(seen[-1], unchanged)
    torch.testing.assert_close(*seen, rtol=1e-5, atol=1e-5)


def test_the_decay_counts_when_it_is_changed_in_place():
    seen = []
    for change in (False, True):
        model = drawn(MODELS["recurrences"])
        _, state = prefill(model, prompts(1)[0], model.init_state(1, 12))
        _, state = model.decode(torch.tensor([[1]]), state)
        if change:
            model.blocks[0].mixer.component.decay.data.fill_(0.5)
        seen.append(model.decode(torch.tensor([[2]]), state)[0])
    assert not torch.equal(*seen)


def test_another_type_between_two_tokens():
    model = drawn(MODELS["windows"])
    first = decoded(model, 1)[0]
    model.bfloat16()
    assert decoded(model, 1)[2][-1].plan is not None
    model.double()
    wide = decoded(model, 1)[0]
    assert wide.dtype is torch.float64
    assert torch.equal(decoded(model.float(), 1)[0], decoded(model, 1, by_part=True)[0])
    torch.testing.assert_close(wide.float(), first, rtol=0.05, atol=0.1)


def test_a_function_of_ones_own_for_a_class_is_called(monkeypatch):
    model, called = drawn(MODELS["windows"]), []
    _, state = prefill(model, prompts(1)[0], model.init_state(1, 12))
    _, state = model.decode(torch.tensor([[1]]), state)
    own = decoding.FAST[Block]
    monkeypatch.setitem(decoding.FAST, Block, lambda *words: called.append("block") or own(*words))
    model.decode(torch.tensor([[2]]), state)
    assert called == ["block"] * 2


def test_a_hook_that_goes_again_gives_the_plan_back():
    model, called = drawn(MODELS["windows"]), []
    _, state = prefill(model, prompts(1)[0], model.init_state(1, 12))
    handle = model.blocks[1].ffn.component.down.register_forward_hook(lambda *_: called.append("down"))
    plans = []
    for token in range(3):
        if token == 2:
            handle.remove()
        _, state = model.decode(torch.tensor([[token]]), state)
        plans.append(isinstance(state.plan, token_plan.Plan))
    assert plans == [False, False, True] and called == ["down"] * 2


def test_states_do_not_share_a_plan():
    """A state copied on the way, decoded in turns with its origin, gives what it gives alone."""
    model = drawn(MODELS["recurrences"])
    prompt_BT, _ = prompts(1)

    def start():
        _, state = prefill(model, prompt_BT, model.init_state(1, 20))
        return model.decode(torch.tensor([[1]]), state)[1]

    def read(state, tokens):
        for token in tokens:
            z, state = model.decode(torch.tensor([[token]]), state)
            yield z

    alone = [torch.cat(list(read(start(), tokens))) for tokens in ((2, 3, 4), (9, 8, 7))]
    origin = start()
    branch = copy.deepcopy(origin)
    assert branch.plan is None and origin.plan is not None
    by_turns = list(zip(read(origin, (2, 3, 4)), read(branch, (9, 8, 7)), strict=True))
    for expected, got in zip(alone, zip(*by_turns, strict=True), strict=True):
        assert torch.equal(torch.cat(got), expected)


def test_another_model_goes_on_with_a_state():
    """As when text of one model is scored by a copy with other weights."""
    first = drawn(MODELS["recurrences"])
    second = copy.deepcopy(first)
    second.embedding.mul_(2)
    for state in (decoded(first, 1)[2][-1], decoded(second, 1)[2][-1]):
        ours, theirs = copy.deepcopy(state), copy.deepcopy(state)
        token_11 = torch.tensor([[3]])
        of_first, ours = first.decode(token_11, ours)
        of_second, theirs = second.decode(token_11, theirs)
        assert not torch.equal(of_first, of_second)
        assert torch.equal(second.decode(token_11, copy.deepcopy(ours))[0], second.decode(token_11, ours)[0])


def test_a_token_in_inference_mode_and_the_next_one_outside_of_it():
    model, token_11 = drawn(MODELS["windows"]), torch.tensor([[3]])
    with torch.inference_mode():
        _, state = model.decode(token_11, prefill(model, prompts(1)[0], model.init_state(1, 20))[1])
        expected, _ = model.decode(token_11, copy.deepcopy(state))
    assert torch.equal(model.decode(token_11, state)[0], expected)


def test_a_column_of_other_tokens_is_decoded_by_a_plan(monkeypatch):
    model, tokens_BT, calls = drawn(MODELS["windows"]), torch.randint(37, (3, 4)), []
    monkeypatch.setattr(decode, "token", lambda *given, token=decode.token: calls.append(1) or token(*given))
    state = model.init_state(3, 4)
    for t in range(4):
        state = model.decode(tokens_BT[:, t : t + 1], state)[1]
    assert len(calls) == 4


def test_a_plan_keeps_no_state_and_no_model_alive():
    model = drawn(MODELS["windows"])
    state = decoded(model, 1)[2][-1]
    kept = [weakref.ref(state.layers[0].k_BKSC), weakref.ref(model.blocks[0].ffn.component.up.weight)]
    del state
    gc.collect()
    assert kept[0]() is None
    del model
    gc.collect()
    assert kept[1]() is None


def test_what_is_refused_is_refused_with_a_plan_too():
    model = drawn(MODELS["windows"])
    _, state = prefill(model, prompts(1)[0], model.init_state(1, 11))
    _, state = model.decode(torch.tensor([[1]]), state)
    for unknown in (-1, 37):
        with pytest.raises(IndexError):
            model.decode(torch.tensor([[unknown]]), state)
    _, state = model.decode(torch.tensor([[1]]), state)
    with pytest.raises(ValueError, match="room for 11 tokens"):
        model.decode(torch.tensor([[1]]), state)
    with pytest.raises((RuntimeError, ValueError)):
        model.decode(torch.tensor([[1], [1]]), ModelState(model.init_state(1, 11).layers, 0, state.plan))


def test_a_norm_is_not_called(monkeypatch):
    model, called = drawn(MODELS["placed"]), []
    _, state = prefill(model, prompts(1)[0], model.init_state(1, 12))
    monkeypatch.setattr(RMSNorm, "forward", lambda self, x: called.append(self))
    layout = TokenLayout.whole(1, 1, first=9)
    assert model.decode(torch.tensor([[1]]), state, layout)[0].isfinite().all() and not called
