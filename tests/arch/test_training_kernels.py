"""The one-pass forms of a training step's element-wise parts: values and gradients are those of plain torch."""

import contextlib

import pytest
import torch
from closeness import near
from kernel_paths import compiled_or_skip
from tiny_specs import DIM, context
from torch._subclasses.fake_tensor import FakeTensorMode

from arch import registry
from arch.kernels import attention, convolution, glu, native, softcap
from arch.layout import TokenLayout
from arch.norm import RMSNorm, rms_norm_reference
from arch.parameters import initialise

KERNELS = ("convolution", "glu", "rms_norm", "softcap")
TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 1e-2}
each_dtype = pytest.mark.parametrize("dtype", TOLERANCE, ids=str)


@pytest.fixture(autouse=True)
def compiled():
    """These tests say nothing where there is nothing compiled."""
    compiled_or_skip(*KERNELS)


def drawn(*shape, dtype=torch.float32, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype).requires_grad_()


def same(got, want, given, tolerance):
    """Values, and gradients of each of `given`, against those in float64 or of the reference."""
    weight = drawn(*want.shape, seed=7).detach()
    gradients = [torch.autograd.grad((y * weight).sum(), given) for y in (got, want)]
    for k, (mine, theirs) in enumerate(zip((got, *gradients[0]), (want, *gradients[1]), strict=True)):
        near(mine, theirs, tolerance, 1.0, f"gradient {k - 1}" if k else "value")


@each_dtype
@pytest.mark.parametrize("activation", glu.ACTIVATIONS)
@pytest.mark.parametrize("shape", [(1,), (2, 1, 3), (3, 5, 7), (2, 9, 1031)], ids=str)
def test_the_gated_product(shape, activation, dtype):
    gate, up = drawn(*shape, dtype=dtype), drawn(*shape, dtype=dtype, seed=1)
    same(
        glu.glu(3 * gate, up, activation),
        glu.reference(3 * gate, up, activation),
        (gate, up),
        TOLERANCE[dtype],
    )


def test_the_gated_product_of_what_is_not_dense_or_not_alike():
    gate, up, row = drawn(5, 4, 3), drawn(3, 4, 10), drawn(3)
    turned = gate.transpose(0, 2), up[..., ::2]
    same(glu.glu(*turned), glu.reference(*turned), (gate, up), 2e-6)
    same(glu.glu(gate, row), glu.reference(gate, row), (gate, row), 2e-6)


@pytest.mark.parametrize("activation", ["gelu_tanh", "silu"])
def test_the_activations_tails(activation):
    """Far out the product is 0 or the gate itself, and the derivative 0 or 1, where cubes overflow too."""
    x = torch.tensor([-1e20, -1e4, -200.0, 0.0, 200.0, 1e4, 1e20], requires_grad=True)
    y = glu.glu(x, torch.ones_like(x), activation)
    (slope,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(y.detach(), x.detach().clamp(min=0), rtol=1e-6, atol=1e-12)
    torch.testing.assert_close(slope, torch.tensor([0, 0, 0, 0.5, 1, 1, 1]))


@each_dtype
@pytest.mark.parametrize("shape", [(1, 3), (2, 1, 5), (3, 67, 17), (200, 64)], ids=str)
def test_rms_norm(shape, dtype):
    norm, x = drawn_norm(shape[-1]).to(dtype), drawn(*shape, dtype=dtype)
    same(
        norm(x),
        rms_norm_reference(x, norm.weight, 1e-6),
        (x, norm.weight),
        TOLERANCE[dtype],
    )
    if len(shape) > 2:  # of views, and with a gradient that is one number
        turned = x.transpose(0, 1)
        same(
            norm(turned),
            rms_norm_reference(turned, norm.weight, 1e-6),
            (x, norm.weight),
            TOLERANCE[dtype],
        )
        want = torch.autograd.grad(rms_norm_reference(x, norm.weight, 1e-6).sum(), norm.weight)[0]
        torch.testing.assert_close(torch.autograd.grad(norm(x).sum(), norm.weight)[0], want)


def layouts(tokens):
    cuts = torch.arange(tokens)[None] // torch.tensor([[2], [max(1, tokens // 2)]])
    cuts[1, -max(1, tokens // 4) :] = -1
    lengths = torch.tensor([tokens, max(1, tokens // 3)])
    return [
        TokenLayout.whole(2, tokens),
        TokenLayout.whole(2, tokens, first=2),
        TokenLayout.packed(cuts),
        TokenLayout.left_padded(lengths, tokens),
    ]


@each_dtype
@pytest.mark.parametrize(
    "tokens, width, taps",
    [(1, 5, 4), (2, 64, 4), (150, 67, 4), (9, 70, 2), (7, 3, 8), (7, 3, 9)],
)
def test_the_convolution(tokens, width, taps, dtype):
    """Of rows that begin or go on, packed and padded; nine taps are more than the C form takes."""
    shapes = (2, tokens, width), (2, taps - 1, width), (taps, width), (width,)
    given = [drawn(*shape, dtype=dtype, seed=seed) for seed, shape in enumerate(shapes)]
    for layout in layouts(tokens):
        whole = *given[:2], layout.pos_BT, *given[2:]
        same(convolution.convolution(*whole), convolution.reference(*whole), given, TOLERANCE[dtype])


def test_a_convolution_of_one_tap_scales_each_channel():
    x, tail, weight, bias = drawn(2, 9, 70), torch.zeros(2, 0, 70), drawn(1, 70), drawn(70)
    for layout in layouts(9):
        got = convolution.convolution(x, tail, layout.pos_BT, weight, bias)
        same(got, weight * x + bias, (x, weight, bias), 2e-6)


def test_the_convolution_of_views():
    x, tail, weight, bias = drawn(7, 2, 6), drawn(2, 3, 12), drawn(6, 4), drawn(6)
    given = x.transpose(0, 1), tail[..., ::2], TokenLayout.whole(2, 7, first=3).pos_BT, weight.T, bias
    same(convolution.convolution(*given), convolution.reference(*given), (x, tail, weight, bias), 2e-6)


def test_a_softcap_is_right_where_tanh_is_nearly_straight_and_where_it_is_flat():
    z = torch.tensor([0.0, 1e-30, 1e-6, -1e-3, 0.5, -5.0, 60.0, 1e5, -1e30])
    want, t = 30 * torch.tanh(z.double() / 30), torch.empty_like(z)
    softcap.cap_(z, t, 30.0, 0.5)
    torch.testing.assert_close(t.double(), want / 30, rtol=4e-7, atol=0)
    torch.testing.assert_close(z.double(), want / 2, rtol=5e-7, atol=0)


@pytest.mark.parametrize("keys", [1, 7, 300])
def test_the_capped_softmax_and_its_gradient(keys):
    """Hidden keys get nothing and have no gradient."""
    x = drawn(3, 5, keys)
    hidden = torch.zeros(3, 5, keys).masked_fill_(torch.arange(keys) >= max(1, keys // 2), -torch.inf)
    want = torch.softmax(50 * torch.tanh(x.double()) + hidden, -1)
    d = drawn(3, 5, keys, seed=1).detach()
    (gradient,) = torch.autograd.grad((want * d).sum(), x)
    p, t = x.detach() + hidden, torch.empty(3, 5, keys)
    softcap.softmax_(softcap.compiled(p, t), p, t, 50.0)
    softcap.softmax_backward_(softcap.compiled(d, p, t), d, p, t)
    torch.testing.assert_close(p, want.float(), rtol=2e-5, atol=1e-7)
    torch.testing.assert_close(50 * d, gradient, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("path", ["blocked", "banded"])
@pytest.mark.parametrize("autocast", [False, True])
def test_softcapped_attention(path, autocast):
    """Both forms of a tile against the reference, of float32 and of bfloat16."""
    dtype = torch.bfloat16 if autocast else torch.float32
    q, k, v = (drawn(2, 33, heads, 8, dtype=dtype, seed=heads) for heads in (4, 2, 2))
    layout, reach = layouts(33)[2], (4, 0)
    bounds = layout.interval(*reach)
    for form in (contextlib.nullcontext, native.disabled):
        with form():
            want = attention.reference(q, k, v, *bounds, 2.0, 5.0)
            got = getattr(attention, path)(q, k, v, *bounds, 2.0, reach, softcap=5.0)
            same(got, want, (q, k, v), 5e-2 if autocast else 2e-5)


def drawn_norm(width):
    norm = RMSNorm(width, 1e-6)
    norm.weight.data.normal_(generator=torch.Generator().manual_seed(2))
    return norm


def passes(norm, x):
    """Norm, gated product and convolution of one tensor."""
    y = glu.glu(norm(x), x)
    return convolution.convolution(y, x[:, :3], TokenLayout.whole(*x.shape[:2], x.device).pos_BT, x[0, :4], x[0, 0])


def test_both_paths_keep_the_same_for_the_gradient():
    """Inputs only: no activation, no shifted copy, and nothing twice."""
    norm, x, rest = drawn_norm(70), drawn(2, 300, 70), [drawn(2, 3, 70), drawn(4, 70), drawn(70)]
    pos_BT, sizes = TokenLayout.whole(2, 300).pos_BT.contiguous(), []
    for path in (contextlib.nullcontext, native.disabled):
        kept = {}

        def pack(tensor, kept=kept):
            kept[tensor.untyped_storage().data_ptr()] = tensor
            return tensor

        with path(), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            convolution.convolution(glu.glu(norm(x), x), rest[0], pos_BT, *rest[1:])
        kept.pop(rest[2].data_ptr(), None)  # the bias, a parameter; the plain form asks for all of its inputs
        sizes.append(sorted(tensor.untyped_storage().nbytes() for tensor in kept.values()))
    assert sizes[0] == sizes[1] and sizes[0].count(x.nbytes) == 3  # x, its norm, and the product


def test_bits_do_not_depend_on_threads():
    norm, x, found = drawn_norm(70), drawn(2, 300, 70), []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            y = passes(norm, x)
            z = y.detach().flatten(0, 1)
            p, t, d = z.clone(), torch.empty_like(z), z.cos()
            softcap.softmax_(softcap.compiled(p, t), p, t, 5.0)
            softcap.softmax_backward_(softcap.compiled(d, p, t), d, p, t)
            found.append(
                (
                    y,
                    *torch.autograd.grad(y, (x, norm.weight), z.view(y.shape).sin()),
                    p,
                    d,
                )
            )
    finally:
        torch.set_num_threads(before)
    for one, two, three in zip(*found, strict=True):
        assert torch.equal(one, two) and torch.equal(one, three)


@pytest.mark.parametrize("activation", glu.ACTIVATIONS)
def test_under_autocast_the_types_are_torchs(activation):
    """And the values, but for the roundings of what torch writes in between."""
    ffn = registry.build("ffn", {"type": "gated", "hidden": 20, "activation": activation}, context())
    initialise(ffn, seed=0)
    x, found = drawn(2, 5, DIM), []
    for form in (contextlib.nullcontext, native.disabled):
        with form(), torch.autocast("cpu", torch.bfloat16):
            y = ffn(x)
            found.append(
                (
                    y,
                    *torch.autograd.grad(y.float().sum(), (x, ffn.gate.weight, ffn.down.weight)),
                )
            )
    for mine, theirs in zip(*found, strict=True):
        near(mine, theirs, TOLERANCE[torch.bfloat16], 0.1, activation)


@pytest.mark.parametrize("where", [lambda: torch.device("meta"), FakeTensorMode], ids=["meta", "fake"])
def test_where_nothing_is_computed_torch_writes_it_out(where):
    with where():
        norm, x = RMSNorm(DIM, 1e-6), torch.empty(2, 6, DIM, requires_grad=True)
        assert native.library("glu", (x,), glu.SIGNATURES) is None
        (gradient,) = torch.autograd.grad(passes(norm, x).sum(), x)
        assert gradient.shape == x.shape and type(gradient) is type(x)


def test_torch_compile_traces_all_of_it():
    """Without a break in its graph."""
    norm, x = drawn_norm(DIM), drawn(2, 6, DIM)
    traced = torch.compile(passes, backend="aot_eager", fullgraph=True)
    found = [torch.autograd.grad(form(norm, x).sum(), x)[0] for form in (traced, passes)]
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-4)


def test_a_weight_of_another_width_is_refused_and_not_read_beyond_its_end():
    norm = drawn_norm(8)
    for grad in (True, False):
        with torch.set_grad_enabled(grad), pytest.raises(RuntimeError, match="size"):
            norm(torch.randn(3, 16))
    x, pos = torch.randn(2, 5, 16), torch.arange(5).expand(2, 5)
    with pytest.raises(RuntimeError, match="size"):
        convolution.convolution(x, torch.zeros(2, 3, 16), pos, torch.randn(4, 8), torch.randn(8))
