"""Compiled kernels of training at the ends of what numbers can be, as its processes run them: finite where plain torch is.

Training flushes numbers below 1e-38 to zero, so a decay that no gate opens is exactly 1 there, and a square root exactly 0.
"""

import itertools

import pytest
import torch
from kernel_paths import compiled_or_skip
from torch.nn import functional as F

from arch.kernels import attention, convolution, cross_entropy, distillation, glu, kept, linear_scan, native, rg_lru
from arch.layout import TokenLayout
from arch.norm import RMSNorm
from arch.rotary import rotary

# Zeros of both signs, numbers that are flushed and that are not, what saturates a sigmoid or an exponential, and large ones.
ENDS = [0.0, -0.0, 1e-45, -1e-45, 1e-38, -1e-38, 1e-20, -1e-4, 1.0, -17.0, 86.97, -86.97, -87.5, 88.8, -104.0, 1e4, -1e4]
SHARES = [0.0, -0.0, 1e-45, 1e-38, 1e-20, 2.5e-7, 0.5, 1 - 2**-24, 1.0]


@pytest.fixture(autouse=True, params=[False, True], ids=["denormals", "flushed"])
def flush(request):
    """Whether numbers too small to be normal are taken for zero; the setting is the calling thread's."""
    compiled_or_skip("rg_lru", "linear_scan", "glu", "rms_norm", "softcap", "convolution", "rotary", "distillation", "kept")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.set_flush_denormal(request.param)
    yield request.param
    torch.set_flush_denormal(False)
    torch.set_num_threads(threads)


def pairs(*values):
    """A tensor of each combination of the values, (1, n, 1): as many tokens of one channel."""
    found = torch.tensor(list(itertools.product(*values)))
    return [column.reshape(1, -1, 1).contiguous() for column in found.T]


def outcomes(operation, given):
    leaves = [x.detach().clone().requires_grad_() for x in given]
    y = operation(*leaves)
    weight = torch.linspace(0.1, 1.0, y.numel()).reshape(y.shape).to(y.dtype)
    return [y.detach(), *torch.autograd.grad((y * weight).sum(), leaves)]


def alike(operation, given, tolerance=1e-4):
    """The compiled form against plain torch, value and gradients: not finite only where that is not, and close elsewhere."""
    mine = outcomes(operation, given)
    with native.disabled():
        plain = outcomes(operation, given)
    assert any(torch.isfinite(each).any() for each in plain)
    for k, (got, want) in enumerate(zip(mine, plain, strict=True)):
        name = f"gradient {k - 1}" if k else "value"
        fine = torch.isfinite(want)
        lost = (~torch.isfinite(got) & fine).nonzero()
        assert not len(lost), f"{name}: {len(lost)} numbers are not finite, first at {lost[0].tolist()}"
        torch.testing.assert_close(got[fine].float(), want[fine].float(), rtol=tolerance, atol=tolerance, msg=name)


def scanned(reset):
    def operation(rho, iota, u, slope, h0):
        return rg_lru.rg_lru(rho, iota, u, slope, reset, h0)[0]

    return operation


TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 2e-2}
each_dtype = pytest.mark.parametrize("dtype", TOLERANCE, ids=str)


@pytest.mark.parametrize("slope", [0.0, -1e-45, -1e-38, -0.27, -8.0, -100.0])
@each_dtype
def test_gates_that_never_open(slope, dtype):
    """Each token is a row of its own, so that what one of them overflows is not carried to the others."""
    rho, iota = (x.reshape(-1, 1, 1).to(dtype) for x in pairs(ENDS, ENDS))
    u, h0 = torch.full_like(rho, 10.9), torch.full((len(rho), 1), 3.8)
    reset = torch.zeros(len(rho), 1, dtype=torch.bool)
    given = [rho, iota, u, torch.tensor([slope]), h0]
    alike(scanned(reset), given, TOLERANCE[dtype])
    # A tile of 64 channels and a rest, which are loops of their own.
    alike(scanned(reset), [x.expand(*x.shape[:-1], 85) for x in given], TOLERANCE[dtype])


def test_a_recurrence_that_forgets_nothing_and_one_that_keeps_nothing():
    a, b = pairs(SHARES, [0.0, -1e-45, 1.0, -1e4])
    alike(linear_scan.linear_scan, [a, b, torch.tensor([[2.0]])])


@each_dtype
@pytest.mark.parametrize("activation", glu.COMPILED)
def test_gated_products(activation, dtype):
    gate, up = (x.to(dtype) for x in pairs(ENDS, ENDS))
    alike(lambda gate, up: glu.glu(gate, up, activation), [gate, up], TOLERANCE[dtype])


@each_dtype
@pytest.mark.parametrize("value", ENDS)
def test_norms_of_rows_of_one_number(value, dtype):
    norm = RMSNorm(64, eps=1e-6).to(dtype)
    norm.weight.data.fill_(1.0)
    x = torch.full((2, 3, 64), value)
    x[1, 1, 5] = 1.0
    alike(norm, [x.to(dtype)], TOLERANCE[dtype])


@each_dtype
def test_the_convolution(dtype):
    x, tail = pairs(ENDS, ENDS)
    given = x.expand(1, -1, 3), tail[:, :3].expand(1, 3, 3), torch.ones(4, 3), torch.zeros(3)
    pos = TokenLayout.whole(1, x.shape[1]).pos_BT
    operation = lambda x, tail, weight, bias: convolution.convolution(x, tail, pos, weight, bias)  # noqa: E731
    alike(operation, [each.to(dtype) for each in given], TOLERANCE[dtype])


@each_dtype
def test_rotated_heads(dtype):
    first, second = pairs(ENDS, ENDS)
    x = torch.cat([first, second], -1)[:, :, None]
    angle = torch.arange(x.shape[1]).reshape(1, -1, 1, 1) * 0.1
    alike(lambda x: rotary(x, angle.cos().expand(-1, -1, -1, 2), angle.sin()), [x.to(dtype)], TOLERANCE[dtype])


@pytest.mark.parametrize("mode", kept.MODES)
@pytest.mark.parametrize("largest", [0.0, 1e-38, 30.0, 200.0, 1e4])
def test_what_is_kept_of_a_distribution(largest, mode):
    """From all tokens alike to one that has everything: masses and entropy are numbers, and those that plain torch has."""
    z = torch.linspace(-1, 1, 300).repeat(2, 1) * torch.tensor([[largest], [-largest]])
    rest = torch.tensor([0, 1]), torch.tensor([5, 6]), 4, mode
    mine, plain = kept.kept(z.clone(), *rest), kept.reference(z.clone(), *rest)
    for name in ("values_nk", "tail_n", "entropy_n"):
        got, want = getattr(mine, name), getattr(plain, name)
        assert torch.isfinite(got).all() and (got >= 0).all(), name
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5, msg=name)


LOGITS = [0.0, 1e-38, 87.5, -104.0, 1e4]


@pytest.mark.parametrize("softcap", [None, 30.0])
@pytest.mark.parametrize("largest", LOGITS)
def test_losses(softcap, largest):
    """Logits so far apart that all probabilities but one are zero, and the target's too."""
    hidden = torch.eye(6)[:4] * largest
    weight = torch.linspace(-1, 1, 6 * 300).reshape(300, 6).round(decimals=1)
    targets = torch.tensor([0, 299, 150, 3])
    alike(lambda h, w: cross_entropy.linear_cross_entropy(h, w, targets, softcap), [hidden, weight])
    alike(lambda h, w: distillation.full(h, w, targets, weight[:4], weight, softcap).loss, [hidden, weight])
    ids, p = torch.tensor([[0, 1], [2, 299], [5, 6], [7, 8]]), torch.tensor([[0.5, 0.5], [1.0, 0.0], [1e-38, 1.0], [1.0, 0.0]])
    alike(lambda h, w: distillation.sparse(h, w, targets, ids, p, softcap=softcap).loss, [hidden, weight])


@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("softcap", [None, 50.0])
@pytest.mark.parametrize("largest", LOGITS)
def test_attention(largest, softcap, window):
    tokens = 40
    q = F.normalize(torch.randn(1, tokens, 2, 8, generator=torch.Generator().manual_seed(0)), dim=-1) * largest
    high = torch.arange(tokens)[None]
    low = high * 0 if window is None else (high - window + 1).clamp(min=0)
    reach = (None, 0) if window is None else (window - 1, 0)
    alike(lambda q, k, v: attention.attend(q, k, v, low, high, 1.0, reach, softcap=softcap), [q, q[:, :, :1], q[:, :, 1:]], 1e-3)
