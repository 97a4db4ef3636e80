"""Matrix products, the one place where they are computed: what type their factors have, and what is rounded where.

| factors | result |
|---|---|
| float32 | float32, by torch's own calls |
| float32, within `rounded()` | float32 sums of factors that are rounded to bfloat16 |
| bfloat16, or bfloat16 and float32 | float32 sums of factors rounded to bfloat16; rounded once, unless float32 is wanted |
| another type, or another device than a CPU | by torch's own calls |

Rounding is to the nearest, ties to even, as torch rounds. Where this CPU has units for bfloat16, oneDNN multiplies. Without
them torch's own bfloat16 product is a loop over numbers that takes 10 times as long as float32 (AVX2); so the factors are
widened, multiplied in float32 and the result is rounded, which gives the same numbers but for the order of the sums.

A float32 weight beside a bfloat16 factor is cast once within `casting()`, however often it is used, and its gradient is
float32. So its owner keeps one tensor, the float32 one.

`linear` and `blocks` have gradients. The others are for code that computes gradients itself.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

BFLOAT16, FLOAT32 = torch.bfloat16, torch.float32
# Torch lets oneDNN, which rounds factors to bfloat16, multiply float32 matrices with longer sides; with smaller ones not always.
LEAST = 16
# A feature as /proc/cpuinfo names it, and the unit that multiplies in bfloat16 where it is there; the best first.
UNITS = {"amx_bf16": "AMX", "avx512_bf16": "AVX512-BF16", "bf16": "ARM BF16"}
# The environment's limits of oneDNN, and the features that each leaves to be used; other limits forbid nothing.
LIMITS = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")
ALLOWED: dict[str, set[str]] = {
    **{limit: {"avx512_bf16"} for limit in ("AVX512_CORE_BF16", "AVX512_CORE_FP16", "AVX10_1_512")},
    **{limit: set() for limit in ("SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX2_VNNI_2", "AVX512_CORE", "AVX512_CORE_VNNI")},
}


class _State:
    """What this process's products do at the moment, and what is known of its CPU."""

    rounded = False
    casts: dict[int, tuple[Tensor, int, Tensor]] | None = None  # {id of a weight: (the weight, its version, its cast)}
    unit: str | None = None
    rounds: bool | None = None


_state = _State()


@contextmanager
def rounded(on: bool = True) -> Iterator[None]:
    """Round the factors of float32 products on the CPU to bfloat16, until the end of the block."""
    before, _state.rounded = _state.rounded, on
    try:
        with _flag("bf16" if on and rounds() else "none"):
            yield
    finally:
        _state.rounded = before


@contextmanager
def exact() -> Iterator[None]:
    """Compute in float32 until the end of the block, whatever is around it."""
    before, _state.casts = _state.casts, None
    try:
        with rounded(False):
            yield
    finally:
        _state.casts = before


@contextmanager
def casting() -> Iterator[None]:
    """Until the end of the outermost such block, models compute in bfloat16, and a float32 weight is cast once.

    Whoever changes weights within it calls `forget` afterwards: torch's fused optimizers leave no trace in a tensor.
    """
    before = _state.casts
    if before is None:
        _state.casts = {}
    try:
        yield
    finally:
        _state.casts = before


def is_casting() -> bool:
    """Whether models compute in bfloat16 from float32 weights (`casting`)."""
    return _state.casts is not None


def said() -> str:
    """What models of float32 weights compute in at the moment: `float32`, `casting` or `rounded`."""
    return "casting" if is_casting() else "rounded" if _state.rounded else "float32"


def casts() -> list[Tensor]:
    """The casts of weights that are kept now."""
    return [made for _, _, made in (_state.casts or {}).values()]


def forget() -> None:
    """Cast every weight anew at its next use, because weights have changed."""
    if _state.casts is not None:
        _state.casts.clear()


def cast(x: Tensor) -> Tensor:
    """x in bfloat16, without a gradient; a weight is cast once within `casting`."""
    if _state.casts is None or not _is_kept(x):
        return x.detach().to(BFLOAT16)
    found = _state.casts.get(id(x))
    if found is None or found[0] is not x or found[1] != x._version:
        found = _state.casts[id(x)] = (x, x._version, x.detach().to(BFLOAT16))
    return found[2]


def _is_kept(x):
    return isinstance(x, nn.Parameter) and x.dtype != BFLOAT16 and not torch.compiler.is_compiling()


def unit() -> str:
    """This CPU's unit for bfloat16 products that oneDNN may use, by the names of UNITS; empty if there is none."""
    if _state.unit is None:
        limit = next((os.environ[name].upper() for name in LIMITS if os.environ.get(name)), "")
        features = cpu_features() & ALLOWED.get(limit, set(UNITS))
        found = [name for feature, name in UNITS.items() if feature in features]
        _state.unit = found[0] if found and torch.ops.mkldnn._is_mkldnn_bf16_supported() else ""
    return _state.unit


def cpu_features() -> set[str]:
    """This CPU's features as Linux names them; empty on other systems."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return set()
    return set(next((line.partition(":")[2].split() for line in lines if line.startswith(("flags", "Features"))), ()))


def rounds() -> bool:
    """Whether torch can be told to round the factors of float32 products; asked of a product, with its flag set."""
    if _state.rounds is None:
        x = torch.full((128, 128), 1 + 2**-12, device="cpu", dtype=FLOAT32)
        with _flag("bf16"):
            _state.rounds = bool((torch.mm(x, x) == 128).all())
    return _state.rounds


def imitates(x: Tensor) -> bool:
    """Whether products of this float32 tensor have rounded factors (`rounded`), and torch has to be given them rounded."""
    return _state.rounded and x.is_cpu and x.dtype == FLOAT32 and not rounds()


@contextmanager
def _flag(precision):
    """torch's flag for float32 products on the CPU at `bf16`, which rounds their factors, or `none`. It leaves CUDA alone."""
    matmul: Any = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before, matmul.fp32_precision = matmul.fp32_precision, precision
    try:
        yield
    finally:
        matmul.fp32_precision = before


def path(of_float32: bool = False) -> str:
    """How this machine multiplies bfloat16, or float32 factors that are rounded to it: for a record."""
    by_unit = rounds() if of_float32 else bool(unit())
    return f"by {unit() or 'oneDNN'}" if by_unit else "by rounding and float32: this CPU has no units for it"


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, wide: bool = False) -> Tensor:
    """x W^T + b of x (..., k) and W (m, k), in the type of x; in float32 at least if `wide`."""
    if _autocasts(x):
        with torch.autocast("cpu", enabled=False):
            return linear(x.to(BFLOAT16), weight, bias, wide)
    if _is_torchs(x, weight, bias) and not (wide and x.dtype == BFLOAT16):
        return F.linear(x, weight, bias)
    if x.ndim == 1:
        return linear(x[None], weight, bias, wide)[0]
    return _Linear.apply(x, weight, bias, FLOAT32 if wide else x.dtype)


def blocks(x_NXr: Tensor, weight_Nrs: Tensor, bias_Ns: Tensor) -> Tensor:
    """x W + b for each of N blocks, in the type of x."""
    if _autocasts(x_NXr):
        with torch.autocast("cpu", enabled=False):
            return blocks(x_NXr.to(BFLOAT16), weight_Nrs, bias_Ns)
    if _is_torchs(x_NXr, weight_Nrs, bias_Ns):
        return torch.baddbmm(bias_Ns[:, None], x_NXr, weight_Nrs)
    return _Blocks.apply(x_NXr, weight_Nrs, bias_Ns)


def operand(x: Tensor, beside: Tensor) -> Tensor:
    """x as it is best given to several products beside that factor: cast here where each of them would cast it."""
    return cast(x) if beside.dtype == BFLOAT16 and not (beside.is_cpu and rounds()) else x


def mm(a: Tensor, b: Tensor, out: Tensor | None = None, dtype: Any = None) -> Tensor:
    """a b of two matrices, without a gradient. Its type: that of `out`, or `dtype`, or bfloat16 if a factor is."""
    if _is_torchs(a, b) and _wanted(a, b, out, dtype) == a.dtype:
        return torch.mm(a, b) if out is None else torch.mm(a, b, out=out)
    return _product(torch.mm, a, b, _wanted(a, b, out, dtype), out)


def bmm(a: Tensor, b: Tensor, alpha: float = 1.0, out: Tensor | None = None, dtype: Any = None) -> Tensor:
    """alpha a b of two stacks of matrices, without a gradient. Its type is as of `mm`; alpha multiplies the sums."""
    if alpha == 1 and out is None:
        multiply: Callable[..., Tensor] = torch.bmm
    else:
        multiply = _scaled(alpha)
    if _is_torchs(a, b) and _wanted(a, b, out, dtype) == a.dtype:
        return multiply(a, b) if out is None else multiply(a, b, out=out)
    return _product(multiply, a, b, _wanted(a, b, out, dtype), out)


def add_mm_(total: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """total += a b, which is returned. A float32 total gets the sums as they are, whatever the factors' types."""
    multiply = lambda a, b, out: torch.addmm(out, a, b, out=out)  # noqa: E731
    if _is_torchs(a, b) and total.dtype == a.dtype:
        return multiply(a, b, total)
    if total.dtype == FLOAT32 and a.is_cpu:
        return _product(multiply, a, b, FLOAT32, total)
    return total.add_(mm(a, b))


def _scaled(alpha):
    def multiply(a, b, out=None):
        room = a.new_empty(a.shape[0], a.shape[1], b.shape[2]) if out is None else out
        return torch.baddbmm(room, a, b, beta=0, alpha=alpha, out=room)

    return multiply


def _wanted(a, b, out, dtype):
    return out.dtype if out is not None else dtype or (BFLOAT16 if BFLOAT16 in (a.dtype, b.dtype) else a.dtype)


def _autocasts(x):
    """Whether torch's autocast on the CPU would cast x to bfloat16, in which its own product may be slow."""
    return x.is_cpu and torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == BFLOAT16


def _is_torchs(*factors):
    """Whether torch's own call, in the type of its factors, is what is wanted."""
    device, types = factors[0].device.type, {x.dtype for x in factors if x is not None}
    if not types <= {FLOAT32, BFLOAT16} or (torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)):
        return True
    if device != "cpu" or len(types) > 1:
        return len(types) == 1
    return unit() != "" if BFLOAT16 in types else not _state.rounded or rounds()


def _product(multiply, a, b, dtype, out=None):
    """multiply(a, b) in `dtype`, of factors in bfloat16 or rounded to it."""
    if not a.is_cpu:
        y = multiply(cast(a), cast(b))
        return y.to(dtype) if out is None else out.copy_(y)
    if dtype == a.dtype == b.dtype == BFLOAT16 and unit():
        return multiply(a, b) if out is None else multiply(a, b, out=out)
    # Units for bfloat16 lose nothing of widened factors. So one product gives sums that are not rounded, on any machine.
    by_unit = rounds() and not torch.compiler.is_compiling() and _is_for_a_unit(a, b)
    a, b = _values(a, by_unit), _values(b, by_unit)
    into = out if dtype == FLOAT32 else None
    with _flag("bf16") if by_unit else nullcontext():
        y = multiply(a, b) if into is None else multiply(a, b, out=into)
    return y.to(dtype) if out is None else out if into is not None else out.copy_(y)


def _is_for_a_unit(a, b):
    """Whether torch is sure to let oneDNN multiply a and b, if it is told to round factors."""
    return min(a.dim(), b.dim()) >= 2 and min(*a.shape[-2:], *b.shape[-2:]) > LEAST


def _values(x, by_unit):
    """x as float32 numbers that bfloat16 has; a unit rounds them itself."""
    return x.to(FLOAT32) if x.dtype == BFLOAT16 or by_unit else cast(x).to(FLOAT32)


def _affine(multiply, x, weight, bias, dtype):
    """`multiply(x, weight, bias)` in `dtype`. A bias is rounded with what it is added to: units take it in that type."""
    bias = bias.to(dtype) if bias is not None and dtype == BFLOAT16 else bias
    if dtype == x.dtype == weight.dtype == BFLOAT16 and (not x.is_cpu or unit()):
        return multiply(x, weight, bias)
    bias = bias if bias is None else bias.to(FLOAT32)
    return _product(lambda x, weight: multiply(x, weight, bias), x, weight, dtype)


class _Linear(torch.autograd.Function):
    """Saves the input, and the weight as it was multiplied."""

    @staticmethod
    def forward(ctx, x, weight, bias, dtype):
        ctx.type = weight.dtype, None if bias is None else bias.dtype
        weight = cast(weight) if x.dtype == BFLOAT16 else weight
        ctx.save_for_backward(x, weight)
        return _affine(F.linear, x, weight, bias, dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        x, weight = ctx.saved_tensors
        g_Nm, x_Nk = grad.flatten(0, -2), x.flatten(0, -2)
        dx = _product(torch.mm, g_Nm, weight, x.dtype).view(x.shape) if ctx.needs_input_grad[0] else None
        dw = _product(torch.mm, g_Nm.t(), x_Nk, x.dtype).to(ctx.type[0]) if ctx.needs_input_grad[1] else None
        db = g_Nm.sum(0, dtype=FLOAT32).to(ctx.type[1]) if ctx.needs_input_grad[2] else None
        return dx, dw, db, None


class _Blocks(torch.autograd.Function):
    """As `_Linear`, for `blocks`."""

    @staticmethod
    def forward(ctx, x_NXr, weight_Nrs, bias_Ns):
        ctx.type = weight_Nrs.dtype, bias_Ns.dtype
        weight_Nrs = cast(weight_Nrs) if x_NXr.dtype == BFLOAT16 else weight_Nrs
        ctx.save_for_backward(x_NXr, weight_Nrs)
        multiply = lambda x, weight, bias: torch.baddbmm(bias, x, weight)  # noqa: E731
        return _affine(multiply, x_NXr, weight_Nrs, bias_Ns[:, None], x_NXr.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx, g_NXs):
        x_NXr, weight_Nrs = ctx.saved_tensors
        dx_NXr = _product(torch.bmm, g_NXs, weight_Nrs.transpose(1, 2), x_NXr.dtype) if ctx.needs_input_grad[0] else None
        dw_Nrs = _product(torch.bmm, x_NXr.transpose(1, 2), g_NXs, x_NXr.dtype) if ctx.needs_input_grad[1] else None
        db_Ns = g_NXs.sum(1, dtype=FLOAT32) if ctx.needs_input_grad[2] else None
        return dx_NXr, dw_Nrs if dw_Nrs is None else dw_Nrs.to(ctx.type[0]), db_Ns if db_Ns is None else db_Ns.to(ctx.type[1])
