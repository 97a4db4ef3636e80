"""Matrix products: every path gives the numbers of its definition, in values and gradients.

Shapes: B rows, T tokens, k inputs, m outputs, N blocks.
"""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from arch.kernels import products

BFLOAT16 = torch.bfloat16


@pytest.fixture(params=["without units", "with torch's"])
def paths(request, monkeypatch):
    """Both ways to multiply bfloat16; torch's own is there, if slow, on every CPU."""
    monkeypatch.setattr(products._state, "unit", "" if request.param == "without units" else "AMX")


def _drawn(*shape, dtype=torch.float32, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def _rounded(x):
    return x.to(BFLOAT16).to(torch.float32)


def _gradients(y, tensors, grad):
    return torch.autograd.grad(y, tensors, grad)


def test_exact_products_are_torchs_own_to_the_last_bit():
    x, weight, bias = _drawn(3, 5, 7), _drawn(9, 7, seed=1), _drawn(9, seed=2)
    assert torch.equal(products.linear(x, weight, bias), F.linear(x, weight, bias))
    assert products.linear(x.double(), weight.double()).dtype == torch.float64
    a, b = _drawn(2, 5, 7), _drawn(2, 7, 3, seed=1)
    assert torch.equal(products.bmm(a, b), torch.bmm(a, b))
    room = torch.empty(2, 5, 3)
    assert products.bmm(a, b, 0.3, out=room) is room
    assert torch.equal(room, torch.baddbmm(torch.empty(2, 5, 3), a, b, beta=0, alpha=0.3))
    total = _drawn(5, 3, seed=4)
    expected = torch.addmm(total, a[0], b[0])
    assert products.add_mm_(total, a[0], b[0]) is total
    assert torch.equal(total, expected)


def test_rounded_products_are_those_of_rounded_factors_forward_and_backward(monkeypatch):
    monkeypatch.setattr(products._state, "rounds", False)
    x, weight, bias = (_drawn(*shape, seed=i).requires_grad_() for i, shape in enumerate([(3, 5, 7), (9, 7), (9,)]))
    grad = _drawn(3, 5, 9, seed=3)
    with products.rounded():
        y = products.linear(x, weight, bias)
        dx, dw, db = _gradients(y, (x, weight, bias), grad)
        assert torch.equal(products.mm(weight.detach(), x.detach()[0].t()), _rounded(weight) @ _rounded(x[0]).t())
    assert torch.equal(y, F.linear(_rounded(x), _rounded(weight), bias))
    flat = _rounded(grad).flatten(0, -2)
    assert torch.equal(dx, (flat @ _rounded(weight)).view(x.shape))
    assert torch.equal(dw, flat.t() @ _rounded(x).flatten(0, -2))
    assert torch.allclose(db, grad.sum((0, 1)))
    assert torch.equal(products.linear(x, weight, bias), F.linear(x, weight, bias))  # exact again


def test_rounded_blocks_are_those_of_rounded_factors_forward_and_backward(monkeypatch):
    monkeypatch.setattr(products._state, "rounds", False)
    x, weight, bias = (_drawn(*shape, seed=i).requires_grad_() for i, shape in enumerate([(2, 5, 4), (2, 4, 4), (2, 4)]))
    grad = _drawn(2, 5, 4, seed=3)
    with products.rounded():
        y = products.blocks(x, weight, bias)
        dx, dw, db = _gradients(y, (x, weight, bias), grad)
    assert torch.equal(y, torch.baddbmm(bias[:, None], _rounded(x), _rounded(weight)))
    assert torch.equal(dx, _rounded(grad) @ _rounded(weight).transpose(1, 2))
    assert torch.equal(dw, _rounded(x).transpose(1, 2) @ _rounded(grad))
    assert torch.allclose(db, grad.sum(1))


def test_a_flag_that_rounds_is_set_for_the_block_and_put_back(monkeypatch):
    monkeypatch.setattr(products._state, "rounds", True)
    before = torch.backends.mkldnn.matmul.fp32_precision
    with products.rounded():
        assert torch.backends.mkldnn.matmul.fp32_precision == "bf16"
        with products.rounded(False):
            assert products.linear(_drawn(2, 3), _drawn(4, 3)).shape == (2, 4)
    assert torch.backends.mkldnn.matmul.fp32_precision == before


@pytest.mark.parametrize("weight_type", [torch.float32, BFLOAT16])
@pytest.mark.parametrize("with_bias", [True, False])
def test_a_bfloat16_input_gives_the_float32_result_rounded_once(paths, weight_type, with_bias):
    x = _drawn(3, 5, 33, dtype=BFLOAT16).requires_grad_()
    weight = nn.Parameter(_drawn(17, 33, dtype=weight_type, seed=1))
    bias = nn.Parameter(_drawn(17, seed=2)) if with_bias else None
    grad, given = _drawn(3, 5, 17, dtype=BFLOAT16, seed=3), [each for each in (x, weight, bias) if each is not None]
    y = products.linear(x, weight, bias)
    gradients = _gradients(y, given, grad)
    assert [each.dtype for each in (y, *gradients)] == [BFLOAT16, *(each.dtype for each in given)]
    own = [_rounded(each).double().requires_grad_() for each in given]
    exact = F.linear(*own)
    for got, wanted in zip((y, *gradients), (exact, *_gradients(exact, own, grad.double())), strict=True):
        # One rounding of the result, and the float32 sums.
        assert torch.allclose(got.double(), wanted, rtol=2**-8, atol=1e-5 * float(wanted.detach().abs().max()))


def test_a_single_vector_has_a_gradient_too(paths):
    x_k, weight = torch.randn(8).bfloat16(), torch.randn(5, 8)
    (alone, of_one), (beside, of_many) = ([x.clone().requires_grad_() for x in (x, weight)] for x in (x_k, x_k[None]))
    y_m, y_1m = products.linear(alone, of_one), products.linear(beside, of_many)
    y_m.float().square().sum().backward()
    y_1m.float().square().sum().backward()
    for one, many in ((y_m, y_1m[0]), (alone.grad, beside.grad[0]), (of_one.grad, of_many.grad)):
        assert torch.equal(one, many)


@pytest.mark.parametrize("kind", ["mm", "a.t", "b.t", "bmm", "linear"])
def test_factors_are_rounded_whatever_the_size(kind):
    """With units, torch leaves small products and those of one row to a library that does not round."""
    sides = (1, 2, 15, 16, 17, 33, 100)
    for i, (n, k, m) in enumerate((n, k, m) for n in sides for k in sides for m in sides):
        a, b = _drawn(n, k, seed=i), _drawn(k, m, seed=i + 1)
        if kind == "a.t":
            a = _drawn(k, n, seed=i).t()
        if kind in ("b.t", "linear"):
            b = _drawn(m, k, seed=i).t()
        if kind == "bmm":
            a, b = a.expand(3, n, k), _drawn(3, k, m, seed=i)
        x = a.to(BFLOAT16)
        if kind == "linear":
            y = products.linear(x, b.t(), wide=True)
        else:
            y = (products.bmm if kind == "bmm" else products.mm)(x, b, dtype=torch.float32)
        assert torch.allclose(y, _rounded(a) @ _rounded(b), atol=1e-4), (n, k, m)


def test_float32_is_given_where_it_is_wanted(paths):
    x, weight = _drawn(4, 33, dtype=BFLOAT16), _drawn(17, 33)
    wide = products.linear(x, weight, wide=True)
    assert wide.dtype == torch.float32
    assert torch.allclose(wide, F.linear(x.float(), _rounded(weight)), atol=1e-5)
    for got in (products.mm(x, weight.t(), dtype=torch.float32), products.mm(x, weight.t(), out=torch.empty(4, 17))):
        assert torch.allclose(got, wide, atol=1e-5)  # a CPU may sum in another order where a factor is transposed
        assert not torch.equal(got, got.bfloat16().float()), "it was rounded on the way"
    assert products.mm(x, weight.t()).dtype == BFLOAT16
    room = torch.empty(1, 4, 17)
    products.bmm(x[None], weight.t()[None], 0.5, out=room)
    assert torch.allclose(room[0], wide / 2)
    assert torch.allclose(products.bmm(x[None], weight.t()[None], 0.5).float()[0], wide / 2, rtol=2**-8)
    total = torch.ones(4, 17)
    assert torch.allclose(products.add_mm_(total, x, weight.t()), 1 + wide, atol=1e-6)


def test_a_weight_is_cast_once_within_casting_and_anew_once_it_changes(monkeypatch):
    weight = nn.Parameter(_drawn(5, 4))
    with products.casting():
        first = products.cast(weight)
        with products.casting():
            assert products.cast(weight) is first
        x = _drawn(2, 4, dtype=BFLOAT16)
        products.linear(x, weight)
        assert products.cast(weight) is first  # `linear` used it too
        with torch.no_grad():
            weight.add_(1)
        assert torch.equal(products.cast(weight), weight.detach().to(BFLOAT16))
        weight.data.add_(1)  # leaves no trace in the tensor
        products.forget()
        assert torch.equal(products.cast(weight), weight.detach().to(BFLOAT16))
        assert products.cast(x.float()) is not products.cast(x.float())  # what is no weight is not kept
        assert len(products._state.casts) == 1
    assert products._state.casts is None
    assert not products.is_casting()


def test_rounding_is_to_the_nearest_ties_to_even_also_of_numbers_that_are_not_finite(monkeypatch):
    monkeypatch.setattr(products._state, "rounds", False)
    step = 2.0**-7  # between neighbours from 1 on
    ties = torch.tensor([[1 + step / 2, 1 + 3 * step / 2, 1 + step / 2 + 2**-20, -1 - step / 2]])
    with products.rounded():
        got = products.mm(ties.t(), torch.ones(1, 1))[:, 0]
        assert got.tolist() == [1.0, 1 + 2 * step, 1 + step, -1.0]
        strange = products.mm(torch.tensor([[torch.nan], [torch.inf], [3.4e38]]), torch.ones(1, 1))[:, 0]
    assert strange[0].isnan()
    assert strange[1:].isinf().all()


@pytest.mark.parametrize(
    ("features", "limit", "expected"),
    [
        ("avx2", "", ""),
        ("avx2 avx512_bf16 amx_bf16", "", "AMX"),
        ("avx2 avx512_bf16", "", "AVX512-BF16"),
        ("avx2 avx512_bf16 amx_bf16", "AVX512_CORE_BF16", "AVX512-BF16"),
        ("avx2 avx512_bf16 amx_bf16", "avx512_core", ""),
        ("avx2 avx512_bf16 amx_bf16", "ALL", "AMX"),
        ("asimd bf16", "", "ARM BF16"),
    ],
)
def test_the_unit_is_what_the_cpu_has_and_the_library_may_use(features, limit, expected, monkeypatch):
    monkeypatch.setattr(products._state, "unit", None)
    monkeypatch.setattr(products, "cpu_features", lambda: set(features.split()))
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True)
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", limit)
    assert products.unit() == expected
