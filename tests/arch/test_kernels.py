"""Every faster path against its plain reference, values and gradients."""

import pytest
import torch
from closeness import near

from arch.kernels import attention, linear_scan
from arch.layout import TokenLayout
from arch.mixers.attention import Attention, Rope
from arch.norm import RMSNorm, rms_norm_reference
from arch.parameters import Context, initialise
from arch.rotary import angles, rotary

TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 4e-2}


def operands(tokens, heads, kv_heads, channels, dtype):
    generator = torch.Generator().manual_seed(tokens)
    shapes = [(2, tokens, count, channels) for count in (heads, kv_heads, kv_heads)]
    return [torch.randn(shape, generator=generator).to(dtype).requires_grad_() for shape in shapes]


def layout_of(kind, tokens):
    if kind == "whole":
        return TokenLayout.whole(2, tokens)
    if kind == "padded":
        return TokenLayout.left_padded(torch.tensor([tokens, max(1, tokens // 3)]), tokens)
    cuts = torch.arange(tokens)[None] // torch.tensor([[3], [max(1, tokens // 2)]])
    cuts[1, -max(1, tokens // 4) :] = -1
    return TokenLayout.packed(cuts)


def compare(path, layout, reach, q, k, v, softcap, dtype):
    """Values and gradients, with a memo and without. Operands and what is pulled back are N(0, 1), so entries are of order 1."""
    low, high = layout.interval(*reach, first=k.shape[1] - q.shape[1])
    want = attention.reference(q, k, v, low, high, 0.3, softcap)
    weight = torch.randn(want.shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    gradients = torch.autograd.grad((want * weight).sum(), (q, k, v))
    for memo in (None, layout.memo, layout.memo):
        got = path(q, k, v, low, high, memo)
        near(got, want, TOLERANCE[dtype], 1.0, "output")
        for name, mine, theirs in zip("qkv", torch.autograd.grad((got * weight).sum(), (q, k, v)), gradients, strict=True):
            near(mine, theirs, TOLERANCE[dtype], 1.0, f"gradient of {name}")


def reach_of(window):
    """A causal window as a reach; a pair is an encoder's, already one."""
    return window if isinstance(window, tuple) else (None if window is None else window - 1, 0)


HEADS = [(4, 4), (4, 2), (3, 1)]
each_dtype = pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
each_packing = pytest.mark.parametrize("packing", ["whole", "packed", "padded"])
each_cap = pytest.mark.parametrize("softcap", [None, 2.0])


@each_dtype
@each_packing
@pytest.mark.parametrize("heads, kv_heads", HEADS)
@pytest.mark.parametrize("tokens, window", [(1, 1), (7, None), (16, 3), (33, 40), (9, (None, None))])
def test_fused_attention_equals_the_reference(tokens, window, heads, kv_heads, packing, dtype):
    q, k, v = operands(tokens, heads, kv_heads, 8, dtype)
    reach, whole = reach_of(window), packing == "whole"
    path = lambda q, k, v, low, high, memo: attention.fused(q, k, v, low, high, 0.3, reach, whole, memo)  # noqa: E731
    compare(path, layout_of(packing, tokens), reach, q, k, v, None, dtype)


@each_dtype
@each_packing
@each_cap
@pytest.mark.parametrize("heads, kv_heads", HEADS)
@pytest.mark.parametrize(
    "tokens, window",
    [(1, 1), (1, 4), (9, 1), (33, 5), (7, 7), (5, 64), (70, 40), (67, (2, 0)), (33, (0, 9)), (41, (9, 3))],
)
def test_banded_attention_equals_the_reference(tokens, window, heads, kv_heads, softcap, packing, dtype):
    q, k, v = operands(tokens, heads, kv_heads, 8, dtype)
    reach = reach_of(window)
    path = lambda q, k, v, low, high, memo: attention.banded(q, k, v, low, high, 0.3, reach, softcap, memo)  # noqa: E731
    compare(path, layout_of(packing, tokens), reach, q, k, v, softcap, dtype)


@each_dtype
@each_packing
@each_cap
@pytest.mark.parametrize("heads, kv_heads", HEADS)
@pytest.mark.parametrize("tokens, window", [(1, None), (9, 3), (64, None), (131, None), (131, 70), (130, (None, None))])
def test_blocked_attention_equals_the_reference(tokens, window, heads, kv_heads, softcap, packing, dtype):
    q, k, v = operands(tokens, heads, kv_heads, 8, dtype)
    reach, whole = reach_of(window), packing == "whole"
    path = lambda q, k, v, low, high, memo: attention.blocked(  # noqa: E731
        q, k, v, low, high, 0.3, reach, whole, softcap, memo
    )
    compare(path, layout_of(packing, tokens), reach, q, k, v, softcap, dtype)


@each_cap
@pytest.mark.parametrize("scores", [1, 5000, 2**16])
def test_tiles_of_any_size_give_the_same(scores, softcap, monkeypatch):
    """Streams and blocks that do not fit into one tile are taken in turn."""
    monkeypatch.setitem(attention.tile.SCORES, "cpu", scores)
    q, k, v = operands(90, 4, 2, 8, torch.float32)
    layout = layout_of("packed", 90)
    for reach in ((None, 0), (6, 0)):
        path = lambda q, k, v, low, high, memo, reach=reach: attention.attend(  # noqa: E731
            q, k, v, low, high, 0.3, reach, False, softcap, memo
        )
        compare(path, layout, reach, q, k, v, softcap, torch.float32)


@each_cap
@pytest.mark.parametrize("window", [None, 2, 5, 30, (3, 4), (None, None)])
@pytest.mark.parametrize("packing", ["whole", "packed"])
def test_whatever_path_is_chosen_equals_the_reference(window, softcap, packing):
    q, k, v = operands(21, 4, 2, 8, torch.float32)
    reach, whole = reach_of(window), packing == "whole"
    path = lambda q, k, v, low, high, memo: attention.attend(  # noqa: E731
        q, k, v, low, high, 0.3, reach, whole, softcap, memo
    )
    compare(path, layout_of(packing, 21), reach, q, k, v, softcap, torch.float32)


@each_cap
@pytest.mark.parametrize("window", [None, 4, 17])
def test_queries_that_come_after_earlier_keys(window, softcap):
    """The queries are the last of the keys: a later chunk of a stream."""
    earlier, reach = 11, reach_of(window)
    q, k, v = operands(81, 4, 2, 8, torch.float32)
    q = q[:, earlier:].detach().requires_grad_()
    path = lambda q, k, v, low, high, memo: attention.attend(  # noqa: E731
        q, k, v, low, high, 0.3, reach, True, softcap, memo
    )
    compare(path, TokenLayout.whole(2, 70, first=earlier), reach, q, k, v, softcap, torch.float32)


@pytest.mark.parametrize("path", ["banded", "blocked"])
@each_cap
def test_attention_has_the_exact_gradient(path, softcap):
    layout, (q, k, v) = layout_of("packed", 10), operands(10, 2, 1, 3, torch.float64)
    bounds, kernel = layout.interval(3, 0), getattr(attention, path)
    torch.autograd.gradcheck(lambda q, k, v: kernel(q, k, v, *bounds, 0.3, (3, 0), softcap=softcap), (q, k, v))


def test_what_a_window_keeps_for_its_gradient_is_linear_in_length():
    """And so is a softcapped global layer: nothing of T x T is kept."""

    def kept(tokens, reach, softcap):
        layout, sizes = TokenLayout.whole(1, tokens), {}
        q, k, v = (x[:1] for x in operands(tokens, 2, 1, 4, torch.float32))

        def pack(tensor):
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            attention.attend(q, k, v, *layout.interval(*reach), 0.3, reach, True, softcap)
        return sum(sizes.values())

    for reach, softcap in (((15, 0), None), ((15, 0), 5.0), ((None, 0), 5.0), ((None, 0), None)):
        assert kept(1024, reach, softcap) <= 2 * kept(512, reach, softcap)


@each_dtype
@each_cap
@pytest.mark.parametrize("hides", [False, True])
@pytest.mark.parametrize("heads, kv_heads", HEADS)
def test_one_token_over_a_ring_equals_the_reference(heads, kv_heads, hides, softcap, dtype):
    """Slots in any order: here the ring begins at its fifth; the hidden ones are the oldest of each row."""
    q, k, v = (x.detach() for x in operands(12, heads, kv_heads, 8, dtype))
    first = torch.tensor([[4], [0]]) if hides else torch.zeros(2, 1, dtype=torch.long)
    want = attention.reference(q[:, -1:], k, v, first, torch.full((2, 1), 11), 0.3, softcap)
    hidden = (torch.arange(12) < first).roll(5, 1) if hides else None
    got = attention.ring(q[:, -1:], *(x.roll(5, 1).transpose(1, 2) for x in (k, v)), 0.3, hidden, softcap)
    near(got, want, TOLERANCE[dtype], 1.0, "output")


def test_the_reference_equals_a_loop_over_pairs():
    """Softmax over the visible keys, one query and head at a time, in float64."""
    q, k, v = (x.detach().double() for x in operands(9, 4, 2, 8, torch.float32))
    low, high = layout_of("packed", 9).interval(3, 0)
    got = attention.reference(q, k, v, low, high, 0.3, 2.0)
    for b, t, h in torch.cartesian_prod(torch.arange(2), torch.arange(9), torch.arange(4)).tolist():
        seen = slice(low[b, t], high[b, t] + 1)
        scores = 2.0 * torch.tanh((k[b, seen, h // 2] @ q[b, t, h]) * 0.3 / 2.0)
        torch.testing.assert_close(got[b, t, h], scores.softmax(0) @ v[b, seen, h // 2], rtol=1e-5, atol=1e-6)


def scan_operands(tokens, resets):
    generator = torch.Generator().manual_seed(tokens)
    a = torch.rand(2, tokens, 3, generator=generator, dtype=torch.float64) ** 0.2
    if resets:
        a = torch.where(torch.rand(2, tokens, 1, generator=generator) < 0.3, 0.0, a)
    b = torch.randn(2, tokens, 3, generator=generator, dtype=torch.float64)
    h0 = torch.randn(2, 3, generator=generator, dtype=torch.float64)
    return [x.requires_grad_() for x in (a, b, h0)]


@pytest.mark.parametrize("window", [None, 20])
def test_a_full_state_refuses_another_token(window):
    """It would overwrite a token that is still seen; a ring of a whole window goes round."""
    x, layout = torch.zeros(1, 6, 16), TokenLayout.whole(1, 6)
    mixer = Attention(Attention.Config(heads=2, window=window), Context(dim=16)).requires_grad_(False)
    for weight in mixer.parameters():
        weight.zero_()
    _, state = mixer(x, layout, mixer.init_state(1, 6))
    with pytest.raises(ValueError, match="room for 6 tokens cannot take 7"):
        mixer(x[:, :1], TokenLayout.whole(1, 1, first=6), state)


@pytest.mark.parametrize("chunk", [1, 2, 5, 7, 30])
def test_decoding_goes_round_the_ring_in_place(chunk):
    """Chunks larger and smaller than the window; the state's memory stays where it is."""
    config = Attention.Config(heads=2, kv_heads=1, window=5, softcap=3.0)
    mixer = Attention(config, Context(dim=16)).requires_grad_(False)
    initialise(mixer, seed=0)
    x = torch.randn(2, 30, 16, generator=torch.Generator().manual_seed(0))
    whole, _ = mixer(x, TokenLayout.whole(2, 30))
    state, parts = mixer.init_state(2, 30), []
    memory = state.k_BKSC.data_ptr(), state.v_BKSC.data_ptr()
    for first, part in zip(range(0, 30, chunk), x.split(chunk, 1), strict=True):
        y, state = mixer(part, TokenLayout.whole(2, part.shape[1], first=first), state)
        parts.append(y)
    torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=1e-5, atol=1e-6)
    assert memory == (state.k_BKSC.data_ptr(), state.v_BKSC.data_ptr()) and state.slots == 5


@each_dtype
@pytest.mark.parametrize("shape", [(2, 7, 16), (1, 1, 8), (3, 4, 2, 6)])
def test_rms_norm_equals_its_reference(shape, dtype):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator).to(dtype).requires_grad_()
    norm = RMSNorm(shape[-1], 1e-6).to(dtype)
    norm.weight.data.normal_(0, 0.3, generator=generator)
    want, got = rms_norm_reference(x, norm.weight, 1e-6), norm(x)
    near(got, want, TOLERANCE[dtype], 1.0, "output")
    pull = torch.randn(shape, generator=generator).to(dtype)
    gradients = [torch.autograd.grad(y, (x, norm.weight), pull) for y in (got, want)]
    for mine, theirs in zip(*gradients, strict=True):
        near(mine, theirs, TOLERANCE[dtype], 1.0, "gradient")
    with torch.no_grad():
        near(norm(x), want, TOLERANCE[dtype], 1.0, "output without gradients")


def test_norm_and_rotary_have_exact_gradients():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 5, 2, 8, generator=generator, dtype=torch.float64, requires_grad=True)
    norm = RMSNorm(8, 1e-6).double()
    norm.weight.data.normal_(generator=generator)
    torch.autograd.gradcheck(lambda x, w: torch.func.functional_call(norm, {"weight": w}, x), (x, norm.weight))
    layout = TokenLayout.whole(2, 5)
    torch.autograd.gradcheck(lambda x: rotary(x, *angles(layout, x.shape[-1], Rope(fraction=0.5))), x)


@pytest.mark.parametrize("resets", [False, True], ids=["flowing", "resets"])
@pytest.mark.parametrize("tokens", [1, 2, 3, 8, 9, 10, 37, 64])
def test_linear_scan_equals_the_reference(tokens, resets):
    a, b, h0 = scan_operands(tokens, resets)
    got, want = linear_scan.linear_scan(a, b, h0), linear_scan.reference(a, b, h0)
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)
    weight = torch.randn(want.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mine = torch.autograd.grad((got * weight).sum(), (a, b, h0))
    theirs = torch.autograd.grad((want * weight).sum(), (a, b, h0))
    for name, left, right in zip(("a", "b", "h0"), mine, theirs, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-10, atol=1e-10, msg=lambda text, name=name: f"{name}: {text}")


def test_a_reset_is_exact():
    """After a = 0 the state does not depend, to the last bit, on anything before."""
    a, b, h0 = (x.detach() for x in scan_operands(20, False))
    a[:, 7] = 0.0
    other = b.clone()
    other[:, :7] *= 1e6
    mine, theirs = linear_scan.linear_scan(a, b, h0), linear_scan.linear_scan(a, other, h0 + 5)
    assert torch.equal(mine[:, 7:], theirs[:, 7:])
