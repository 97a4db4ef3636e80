"""Compiled kernels with activations in bfloat16, against their references in float64 on the same numbers.

Arithmetic is float32, so what a kernel writes is off by one rounding to bfloat16: at most 2^-8 of the value (8 bits). Gradients of
small weights and what is carried from token to token are not rounded at all. Where more is allowed, the test says why.
"""

import contextlib

import pytest
import torch
from closeness import near
from kernel_paths import compiled_or_skip
from test_scan_kernels import gate_inputs, scan_inputs
from test_training_kernels import drawn_norm, layouts

from arch import rotary
from arch.kernels import attention, convolution, glu, linear_scan, native, paths, products, rg_lru
from arch.norm import RMSNorm, rms_norm_reference

KERNELS = ("convolution", "glu", "linear_scan", "rg_lru", "rms_norm", "rotary", "softcap")
ROUNDING = 2.0**-8
FLOAT32 = 1e-5  # what float32 arithmetic may lose, of the largest value
BFLOAT16 = torch.bfloat16


@pytest.fixture(autouse=True)
def compiled():
    """These tests say nothing where there is nothing compiled."""
    compiled_or_skip(*KERNELS)
    for name in KERNELS:
        assert native.path(name, BFLOAT16).startswith("compiled "), name


def drawn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape)), dtype=torch.float64)


def within(got, want, bound, what, more=0):
    """Asserts |got - want| <= bound |want| + `more` (a number, or as many as there are values) + float32's own error."""
    assert got.shape == want.shape and got.isfinite().all(), what
    want = want.detach().double()
    excess = (got.detach().double() - want).abs() - bound * want.abs() - more
    assert want.numel() == 0 or excess.max() <= FLOAT32 * want.abs().max(), f"{what}: {float(excess.max()):.1e}"


def outcomes(operation, inputs, pull=None):
    """[the results, the gradient of every input of floating point]; pull: the results' gradients, the same for each call."""
    results = operation(*inputs)
    results = results if isinstance(results, tuple) else (results,)
    pull = pull or [drawn(*y.shape, seed=8).to(BFLOAT16) for y in results]
    wanted = [x for x in inputs if x.requires_grad]
    return [*results, *torch.autograd.grad(results, wanted, [d.to(y.dtype) for d, y in zip(pull, results, strict=True)])]


def given(*tensors, small=()):
    """(the tensors in bfloat16, those at the places `small` in float32; the same numbers in float64)."""
    typed = [x if not x.is_floating_point() else x.float() if place in small else x.to(BFLOAT16) for place, x in enumerate(tensors)]
    copies = [[x.clone() for x in typed], [x.double() if x.is_floating_point() else x for x in typed]]
    return [[x.requires_grad_() if x.is_floating_point() else x for x in copy] for copy in copies]


def check(operation, reference, names, mine, exact, bounds):
    """bounds: of each name, a number or numbers; 0 for what must be float32 and not rounded, or not show it."""
    for name, got, want in zip(names, outcomes(operation, mine), outcomes(reference, exact), strict=True):
        bound = bounds.get(name, ROUNDING)
        assert got.dtype is (torch.float32 if name in bounds and isinstance(bound, int) else BFLOAT16), name
        within(got, want, bound, name)


LOWER = (0x0000, 0x0001, 0x7FFF, 0x8000, 0x8001, 0xFFFF)


@pytest.mark.parametrize("flush", [False, True], ids=["denormals", "flushed"])
def test_rounding_is_torchs(flush):
    """Of every upper half with lower halves around the middle: what a scan of one token copies from its first state."""
    bits = (torch.arange(2**16)[:, None] * 2**16 + torch.tensor(LOWER)).flatten()
    x = (bits - (bits >= 2**31) * 2**32).to(torch.int32).view(torch.float32)
    one, less = torch.ones(1, 1, len(x), dtype=BFLOAT16), torch.full((1, 1, len(x)), -0.0, dtype=BFLOAT16)
    want, threads = x.bfloat16(), torch.get_num_threads()
    even = ((bits + 0x7FFF + (bits // 2**16) % 2) // 2**16 % 2**16).to(torch.int32)
    torch.set_num_threads(1)  # the setting for denormals is the calling thread's
    torch.set_flush_denormal(flush)
    try:
        got = linear_scan.linear_scan(one, less, x[None])[0, 0]
    finally:
        torch.set_flush_denormal(False)
        torch.set_num_threads(threads)
    nan, tiny = (bits % 2**31) > 0x7F800000, (bits % 2**31) < 0x00800000
    assert got[nan].isnan().all()
    assert torch.equal(got[~nan & ~tiny].view(torch.int16), want[~nan & ~tiny].view(torch.int16))
    mine = got[tiny].view(torch.int16).int() % 2**16
    zero = even[tiny] // 2**15 * 2**15
    assert ((mine == even[tiny]) | (mine == zero)).all() and (flush or torch.equal(mine, even[tiny]))


SHAPES = [(1, 1, 1), (2, 1, 3), (3, 5, 7), (2, 9, 1031), (2, 70, 64)]


@pytest.mark.parametrize("activation", glu.COMPILED)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_gated_product(shape, activation):
    mine, exact = given(3 * drawn(*shape), drawn(*shape, seed=1))
    run = lambda form: lambda gate, up: form(gate, up, activation)  # noqa: E731
    check(run(glu.glu), run(glu.reference), ("y", "gate", "up"), mine, exact, {})


@pytest.mark.parametrize("shape", SHAPES[1:], ids=str)
def test_rms_norm(shape):
    """The weight and its gradient are float32; of a model all in bfloat16, they are rounded once."""
    norm = RMSNorm(shape[-1], 1e-6)

    def mine_of(x, weight):
        norm.weight = torch.nn.Parameter(weight)
        return torch.func.functional_call(norm, {"weight": weight}, (x,))

    reference = lambda x, weight: rms_norm_reference(x, weight, 1e-6)  # noqa: E731
    for small in ((1,), ()):
        inputs = given(drawn(*shape), drawn(shape[-1], seed=1), small=small)
        check(mine_of, reference, ("y", "x", "weight"), *inputs, {"weight": 0} if small else {})


@pytest.mark.parametrize("dtype", [torch.float32, BFLOAT16], ids=str)
@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize("shape, pairs", [((2, 1, 1, 2), 1), ((2, 7, 3, 10), 3), ((2, 33, 4, 64), 32), ((2, 5, 2, 6), 0)], ids=str)
def test_rotary(shape, pairs, rows, dtype):
    """As in torch, with angles of each row or of all; the other way round, it gives back what it got."""
    x_BTHC, angle_BT1c = drawn(*shape).to(dtype).requires_grad_(), drawn(rows, shape[1], 1, pairs, seed=1)
    still = torch.ones(rows, shape[1], 1, shape[-1] - 2 * pairs)
    angles = torch.cat([angle_BT1c.cos().float()] * 2 + [still], -1), angle_BT1c.sin().float()
    got = outcomes(lambda x: rotary.rotary(x, *angles), [x_BTHC])
    with native.disabled():
        want = outcomes(
            lambda x: rotary.rotary(x, *(angle.double() for angle in angles)), [x_BTHC.detach().double().requires_grad_()]
        )
    for left, right, name in zip(got, want, ("y", "x"), strict=True):
        assert left.dtype is dtype
        within(left, right, ROUNDING if dtype is BFLOAT16 else 0, name)
    turned = rotary.rotary(got[0].detach().transpose(1, 2).contiguous().transpose(1, 2), angles[0], -angles[1])
    near(turned, x_BTHC, 2 * ROUNDING if dtype is BFLOAT16 else 1e-6, 1.0, "turned back")


@pytest.mark.parametrize("tokens, width, taps", [(1, 5, 4), (2, 64, 4), (150, 67, 4), (9, 70, 2), (7, 3, 8), (7, 3, 9)])
def test_the_convolution(tokens, width, taps):
    """Of rows that begin or go on, packed and padded; nine taps are more than the C form takes, torch's rounds as often."""
    shapes = (2, tokens, width), (2, taps - 1, width), (taps, width), (width,)
    names, weights = ("y", "x", "tail", "weight", "bias"), {"weight": 0, "bias": 0}
    for layout in layouts(tokens):
        run = lambda form, pos_BT=layout.pos_BT: lambda x, tail, *weights: form(x, tail, pos_BT, *weights)  # noqa: E731
        for small in ((2, 3), ()):
            inputs = given(*(drawn(*shape, seed=seed) for seed, shape in enumerate(shapes)), small=small)
            check(run(convolution.convolution), run(convolution.reference), names, *inputs, weights if small else {})


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 1, 7), (3, 2, 64), (2, 37, 70), (1, 64, 129)], ids=str)
def test_the_linear_scan(shape):
    """The gradient of a_t is s_t h_{t-1} with the states as they were kept, so it is rounded twice."""
    inputs = given(*scan_inputs(*shape), small=(2,))
    names, bounds = ("h", "a", "b", "h0"), {"a": 2.01 * ROUNDING, "h0": 0}
    check(linear_scan.linear_scan, linear_scan.reference, names, *inputs, bounds)


@pytest.mark.parametrize("slope", [30.0, 1.0, 1e-3, 1e-6])
@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 1, 7), (3, 2, 64), (2, 37, 70), (1, 64, 129)], ids=str)
def test_the_rg_lru(shape, slope):
    """Its last state, what it starts from and the decay's gradient are float32.

    The gradients of rho and of the slope are s_t h_{t-1} less another product: the states as they were kept are off by a
    rounding, of the larger of the two.
    """
    mine, exact = given(*gate_inputs(*shape, slope), small=(3, 5))
    got, want = outcomes(rg_lru.rg_lru, mine), outcomes(rg_lru.reference, exact)
    names = ("h", "last", "rho", "iota", "u", "slope", "h0")
    for name, left, right in zip(names, got, want, strict=True):
        assert left.dtype is (torch.float32 if name in ("last", "slope", "h0") else BFLOAT16), name
        if name in ("rho", "slope"):
            near(left, right.to(left.dtype), 2 * ROUNDING, 1e-3 * slope, name)
        else:
            within(left, right, 0 if name in ("last", "h0") else ROUNDING, name)


FORMS = {"by units": (BFLOAT16, "AMX"), "without": (BFLOAT16, ""), "rounded float32": (torch.float32, "")}


@pytest.mark.parametrize("path", ["compiled", "torch"])
@pytest.mark.parametrize("softcap", [None, 5.0])
@pytest.mark.parametrize("form", FORMS)
def test_attention(form, softcap, path, monkeypatch):
    """Scores and softmax are float32. A probability is rounded once, and so is the result; what is summed is at most |v|.

    The gradient of v is the same of |grad|, and with units each tile's part of it is rounded before it is added. The gradient of
    a score has a rounded probability twice and is rounded itself, so those of q and k are near in norm.
    """
    dtype, unit = FORMS[form]
    monkeypatch.setattr(products, "unit", lambda: unit)
    monkeypatch.setattr(products, "rounds", lambda: False)
    shapes, reach = ((2, 67, 4, 8), (2, 67, 2, 8), (2, 67, 2, 8)), (9, 0)
    given = [drawn(*shape, seed=seed).to(BFLOAT16).to(dtype).requires_grad_() for seed, shape in enumerate(shapes)]
    exact, pull = [x.detach().double().requires_grad_() for x in given], drawn(2, 67, 4, 8, seed=9).to(BFLOAT16)
    whole, *_, padded = layouts(67)
    for layout, kinds in ((whole, ("banded", "blocked")), (layouts(67)[2], ("banded", "blocked")), (padded, ("blocked",))):
        bounds = layout.interval(*reach)
        plain = lambda q, k, v, bounds=bounds: attention.reference(q, k, v, *bounds, 0.6, softcap)  # noqa: E731
        want = outcomes(plain, exact, [pull])
        of_sizes = outcomes(plain, [*exact[:2], exact[2].detach().abs().requires_grad_()], [pull.abs()])
        for kind in kinds:
            run = lambda q, k, v, kind=kind, bounds=bounds: getattr(attention, kind)(  # noqa: E731
                q, k, v, *bounds, 0.6, reach, softcap=softcap
            )
            with native.disabled() if path == "torch" else contextlib.nullcontext(), products.rounded(dtype is torch.float32):
                got = outcomes(run, given, [pull])
            assert all(x.dtype is dtype for x in got)
            within(got[0], want[0], ROUNDING, "value", 1.01 * ROUNDING * of_sizes[0])
            within(got[3], want[3], ROUNDING, "gradient of v", 2.02 * ROUNDING * of_sizes[3])
            for left, right, name in zip(got[1:3], want[1:3], "qk", strict=True):
                near(left, right.to(dtype), 2 * ROUNDING, 0.1, f"gradient of {name}")


def test_in_torch_the_types_are_the_same():
    """And the values: each rounding of torch's own is one of the result, except in the gated product, which has two."""
    x, gate, h0 = drawn(2, 33, 70), drawn(2, 33, 70, seed=1), drawn(2, 70, seed=2)
    cases = {
        "scan": (linear_scan.linear_scan, scan_inputs(2, 33, 70), (2,)),
        "gates": (rg_lru.rg_lru, gate_inputs(2, 33, 70), (3, 5)),
        "product": (glu.glu, (gate, x), ()),
        "convolution": (
            lambda x, tail, *weights: convolution.convolution(x, tail, layouts(33)[2].pos_BT, *weights),
            (x, x[:, :3], x[0, :4], h0[0]),
            (2, 3),
        ),
    }
    for name, (operation, inputs, small) in cases.items():
        found = []
        for path in (contextlib.nullcontext, native.disabled):
            with path():
                found.append(outcomes(operation, given(*inputs, small=small)[0]))
        for one, other in zip(*found, strict=True):
            near(one, other, 2 * ROUNDING, 1.0, name)


def test_what_is_kept_for_the_gradient_is_bfloat16():
    """Half the bytes of float32, but for weights."""
    norm, sizes = drawn_norm(70), {}
    pos_BT = layouts(300)[0].pos_BT.contiguous()
    for dtype in (torch.float32, BFLOAT16):
        x, tail, kept = drawn(2, 300, 70).to(dtype).requires_grad_(), drawn(2, 3, 70).to(dtype), {}
        rest = drawn(4, 70).float().requires_grad_(), drawn(70).float()

        def pack(tensor, kept=kept):
            kept[tensor.untyped_storage().data_ptr()] = tensor
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            y = convolution.convolution(glu.glu(norm(x), x), tail, pos_BT, *rest)
            slopes, resets, h0 = (one.float() if one.is_floating_point() else one for one in gate_inputs(2, 300, 70)[3:])
            rg_lru.rg_lru(y, y, y, slopes, resets, h0)
        sizes[dtype] = [tensor.untyped_storage().nbytes() for tensor in kept.values() if tensor.numel() >= x.numel()]
    assert len(sizes[BFLOAT16]) == 5 and 2 * sum(sizes[BFLOAT16]) == sum(sizes[torch.float32])


def test_bits_do_not_depend_on_threads():
    norm, found, threads = drawn_norm(70), [], torch.get_num_threads()
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            x = drawn(2, 300, 70).to(BFLOAT16).requires_grad_()
            y = glu.glu(norm(x), x)
            y = convolution.convolution(y, x[:, :3], layouts(300)[2].pos_BT, x[0, :4].float(), x[0, 0].float())
            slope, reset, h0 = (one.float() if one.is_floating_point() else one for one in gate_inputs(2, 300, 70)[3:])
            h, last = rg_lru.rg_lru(y, x, y, slope, reset, h0)
            z = linear_scan.linear_scan(x / 8, h, last)
            found.append([h, last, z, *torch.autograd.grad(z, (x, norm.weight), x.detach())])
    finally:
        torch.set_num_threads(threads)
    for others in found[1:]:
        assert all(torch.equal(one, other) for one, other in zip(found[0], others, strict=True))


def test_of_views():
    turned = lambda x: x.transpose(-1, -2).contiguous().transpose(-1, -2)  # noqa: E731
    gate, up = (turned(drawn(2, 9, 70, seed=seed).to(BFLOAT16)) for seed in range(2))
    assert not gate.is_contiguous()
    norm, weights = drawn_norm(70), (drawn(70, 4).float().T, drawn(70).float())
    pos_BT, tail = layouts(9)[0].pos_BT, drawn(2, 3, 140).to(BFLOAT16)[..., ::2]
    assert torch.equal(glu.glu(gate, up), glu.glu(gate.contiguous(), up.contiguous()))
    assert torch.equal(norm(gate), norm(gate.contiguous()))
    dense = [x.contiguous() for x in (gate, tail, pos_BT, *weights)]
    assert torch.equal(convolution.convolution(gate, tail, pos_BT, *weights), convolution.convolution(*dense))


def test_a_kernel_that_does_not_take_a_type_declines_and_a_record_names_its_path(monkeypatch):
    monkeypatch.setattr(native, "names", lambda: ["glu", "kept"])  # of others, nothing need be built
    x = drawn(3, 5).to(BFLOAT16)
    assert native.library("glu", (x, x.float()), glu.SIGNATURES) is None
    assert native.library("glu", (x.half(),), glu.SIGNATURES) is None
    assert native.library("rms_norm", (x,), {}, small=(x.double(),)) is None
    assert native.library("kept", (x,), {}) is None
    assert native.path("kept", BFLOAT16) == "torch: kept.c takes float32 alone"
    narrow, plain = paths.recorded("bf16-mixed"), paths.recorded("32-true")
    assert plain.items() <= narrow.items()
    assert narrow["kernel glu in bfloat16"] == native.path("glu", BFLOAT16) != native.path("glu")
    assert narrow["kernel kept in bfloat16"] == "torch: kept.c takes float32 alone"
    with native.disabled():
        assert native.path("glu", BFLOAT16) == "torch: switched off in this process"
