"""Every faster path against its plain reference, values and gradients."""

import pytest
import torch

from arch.kernels import attention, linear_scan
from arch.layout import TokenLayout

TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 4e-2}


def near(got, want, dtype, what):
    error = (got.float() - want.float()).norm() / want.float().norm().clamp(min=1e-3)
    assert got.dtype == want.dtype and got.isfinite().all() and error <= TOLERANCE[dtype], f"{what}: {error:.1e}"


def operands(tokens, heads, kv_heads, channels, dtype):
    generator = torch.Generator().manual_seed(tokens)
    shapes = [(2, tokens, count, channels) for count in (heads, kv_heads, kv_heads)]
    return [torch.randn(shape, generator=generator).to(dtype).requires_grad_() for shape in shapes]


def layout_of(kind, tokens):
    if kind == "whole":
        return TokenLayout.whole(2, tokens)
    cuts = torch.arange(tokens)[None] // torch.tensor([[3], [max(1, tokens // 2)]])
    cuts[1, -max(1, tokens // 4) :] = -1
    return TokenLayout.packed(cuts)


def compare(path, layout, window, q, k, v, softcap, dtype):
    low, high = layout.interval(None if window is None else window - 1, 0)
    want = attention.reference(q, k, v, low, high, 0.3, softcap)
    weight = torch.randn(want.shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    gradients = torch.autograd.grad((want * weight).sum(), (q, k, v))
    for memo in (None, layout.memo):
        got = path(q, k, v, low, high, memo)
        near(got, want, dtype, "output")
        for name, mine, theirs in zip("qkv", torch.autograd.grad((got * weight).sum(), (q, k, v)), gradients):
            near(mine, theirs, dtype, f"gradient of {name}")


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("packing", ["whole", "packed"])
@pytest.mark.parametrize("heads, kv_heads", [(4, 4), (4, 2), (3, 1)])
@pytest.mark.parametrize("tokens, window", [(1, 1), (7, None), (16, 3), (33, 40)])
def test_fused_attention_equals_the_reference(tokens, window, heads, kv_heads, packing, dtype):
    q, k, v = operands(tokens, heads, kv_heads, 8, dtype)
    path = lambda q, k, v, low, high, memo: attention.fused(q, k, v, low, high, 0.3, memo=memo)  # noqa: E731
    compare(path, layout_of(packing, tokens), window, q, k, v, None, dtype)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("packing", ["whole", "packed"])
@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("tokens, window", [(1, 1), (1, 4), (9, 1), (13, 4), (16, 4), (33, 5), (7, 7), (5, 64)])
def test_banded_attention_equals_the_reference(tokens, window, softcap, packing, dtype):
    q, k, v = operands(tokens, 4, 2, 8, dtype)
    path = lambda q, k, v, low, high, memo: attention.banded(q, k, v, low, high, 0.3, window, softcap, memo)  # noqa: E731
    compare(path, layout_of(packing, tokens), window, q, k, v, softcap, dtype)


@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("window", [None, 2, 5, 30])
def test_whatever_path_is_chosen_equals_the_reference(window, softcap):
    q, k, v = operands(21, 4, 2, 8, torch.float32)
    path = lambda q, k, v, low, high, memo: attention.attend(  # noqa: E731
        q, k, v, low, high, 0.3, window, softcap, memo=memo
    )
    compare(path, layout_of("packed", 21), window, q, k, v, softcap, torch.float32)


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


@pytest.mark.parametrize("resets", [False, True], ids=["flowing", "resets"])
@pytest.mark.parametrize("tokens", [1, 2, 3, 8, 9, 10, 37, 64])
def test_linear_scan_equals_the_reference(tokens, resets):
    a, b, h0 = scan_operands(tokens, resets)
    got, want = linear_scan.linear_scan(a, b, h0), linear_scan.reference(a, b, h0)
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)
    weight = torch.randn(want.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mine = torch.autograd.grad((got * weight).sum(), (a, b, h0))
    theirs = torch.autograd.grad((want * weight).sum(), (a, b, h0))
    for name, left, right in zip(("a", "b", "h0"), mine, theirs):
        torch.testing.assert_close(left, right, rtol=1e-10, atol=1e-10, msg=lambda text, name=name: f"{name}: {text}")


def test_a_reset_is_exact():
    """After a = 0 the state does not depend, to the last bit, on anything before."""
    a, b, h0 = (x.detach() for x in scan_operands(20, False))
    a[:, 7] = 0.0
    other = b.clone()
    other[:, :7] *= 1e6
    mine, theirs = linear_scan.linear_scan(a, b, h0), linear_scan.linear_scan(a, other, h0 + 5)
    assert torch.equal(mine[:, 7:], theirs[:, 7:])
