"""The linear recurrence h_t = a_t h_{t-1} + b_t, channel by channel.

The paths are a plain loop (the reference); torch code that advances chunks in lockstep; C for float32 and bfloat16 on the
CPU (`linear_scan.c`: one pass forward, one backward); and Triton on CUDA (`linear_scan_triton.py`), only if
`ARCHBENCH_TRITON=1`. `native.path("linear_scan")` says whether C or torch runs on the CPU. `by` chooses one for a
measurement, also the associative scan, which no other run takes.

Shapes: B rows, T tokens, R channels, N chunks of L tokens. A reset is a_t = 0. No path divides by decays or takes the
exp of a sum of their logarithms, so nothing overflows and a = 0 is exact. On the CPU, bfloat16 states are float32 from token to
token, and rounded once.
"""

import math
from contextlib import contextmanager

import torch
from torch.utils.flop_counter import register_flop_formula

from arch.kernels import native, paths

SIGNATURES = {
    "linear_scan": [native.POINTER] * 4 + [native.INTEGER] * 4,
    "linear_scan_backward": [native.POINTER] * 7 + [native.INTEGER] * 4,
}


def reference(a_BTR, b_BTR, h0_BR):
    """All states h_BTR, computed by the definition."""
    h_BR, out = h0_BR, []
    for a_BR, b_BR in zip(a_BTR.unbind(1), b_BTR.unbind(1), strict=True):
        h_BR = a_BR * h_BR + b_BR
        out.append(h_BR)
    return torch.stack(out, dim=1)


def linear_scan(a_BTR, b_BTR, h0_BR):
    """All states h_BTR, by the fastest path that takes these tensors. Raises ValueError if shapes do not agree."""
    return _LinearScan.apply(a_BTR, b_BTR, h0_BR)


class _LinearScan(torch.autograd.Function):
    """The custom operations below with their gradient. Meta tensors, the FLOP counter and torch.compile see them.

    `torch.library.custom_op` with a registered gradient would add 25 us of overhead per forward and backward pass.
    """

    @staticmethod
    def forward(ctx, a_BTR, b_BTR, h0_BR):
        h_BTR = torch.ops.archbench.linear_scan(a_BTR, b_BTR, h0_BR)
        ctx.save_for_backward(a_BTR, h0_BR, h_BTR)
        return h_BTR

    @staticmethod
    def backward(ctx, g_BTR):
        if torch.is_grad_enabled():  # a second derivative is wanted: use differentiable steps
            return chunked_backward(g_BTR, *ctx.saved_tensors)
        return torch.ops.archbench.linear_scan_backward(g_BTR, *ctx.saved_tensors)


def _forward(a_BTR, b_BTR, h0_BR):
    rows, tokens, width = a_BTR.shape
    if b_BTR.shape != a_BTR.shape or h0_BR.shape != (rows, width):
        raise ValueError(f"linear_scan: shapes {[tuple(x.shape) for x in (a_BTR, b_BTR, h0_BR)]} do not agree")
    if a_BTR.numel() == 0:
        return torch.empty_like(a_BTR)
    if plain := PLAIN.get(_chosen[-1]):
        return plain(*_wide(a_BTR, b_BTR, h0_BR)).to(a_BTR.dtype)
    if triton := _triton(a_BTR):
        return triton.forward(a_BTR, b_BTR, h0_BR)
    library = native.library("linear_scan", (a_BTR, b_BTR), SIGNATURES, small=(h0_BR,))
    if library is None:
        return chunked(*_wide(a_BTR, b_BTR, h0_BR)).to(a_BTR.dtype)
    a_BTR, b_BTR, h0_BR = a_BTR.contiguous(), b_BTR.contiguous(), h0_BR.float().contiguous()
    h_BTR = torch.empty_like(a_BTR)
    pointers = (x.data_ptr() for x in (a_BTR, b_BTR, h0_BR, h_BTR))
    library.linear_scan(*pointers, rows, tokens, width, torch.get_num_threads())
    return h_BTR


def _wide(*tensors):
    return [x.to(torch.promote_types(x.dtype, torch.float32)) for x in tensors]


def _triton(a_BTR):
    """The Triton kernels if they are on and can take a_BTR, else None. Raises ImportError without the extra."""
    if not (paths.triton_asked_for(a_BTR.device) and a_BTR.dtype in (torch.float32, torch.bfloat16)):
        return None
    from arch.kernels import linear_scan_triton

    return linear_scan_triton


def chunked(a_BTR, b_BTR, h0_BR):
    """All states h_BTR, in torch: each row is cut into about sqrt(T) chunks.

    First all chunks run in parallel from a state of 0. Then the true state at the end of each chunk is computed from
    the one before. Last, each chunk adds the contribution of the state at its start.
    """
    rows, tokens, width = a_BTR.shape
    length = max(1, math.isqrt(tokens))
    chunks = -(-tokens // length)
    spare = chunks * length - tokens
    a_LBNR = _lockstep(a_BTR, chunks, spare)
    h_LBNR = _lockstep(b_BTR, chunks, spare)
    reached_LBNR = a_LBNR.clone()
    for t in range(1, length):
        h_LBNR[t].addcmul_(a_LBNR[t], h_LBNR[t - 1])
        reached_LBNR[t].mul_(reached_LBNR[t - 1])
    carry_BNR = torch.empty_like(h_LBNR[0])
    carry_BR = h0_BR
    for n in range(chunks):
        carry_BNR[:, n] = carry_BR
        carry_BR = torch.addcmul(h_LBNR[-1, :, n], reached_LBNR[-1, :, n], carry_BR)
    h_LBNR.addcmul_(reached_LBNR, carry_BNR)
    return h_LBNR.permute(1, 2, 0, 3).reshape(rows, chunks * length, width)[:, :tokens].contiguous()


def associative(a_BTR, b_BTR, h0_BR):
    """All states h_BTR, in about 2 log2 T steps of whole rows: a parallel prefix (Blelloch 1990) over h -> a h + b."""
    reached_BTR, h_BTR = _prefix(a_BTR, b_BTR)
    return h_BTR.addcmul(reached_BTR, h0_BR[:, None])


def _prefix(a_BTR, b_BTR):
    """(a, b) of all steps up to each token as one step: neighbours are joined, then scanned; what lies between follows."""
    tokens = a_BTR.shape[1]
    if tokens < 2:
        return a_BTR, b_BTR
    even, odd = slice(0, tokens - 1, 2), slice(1, tokens, 2)
    pairs = _prefix(a_BTR[:, even] * a_BTR[:, odd], torch.addcmul(b_BTR[:, odd], a_BTR[:, odd], b_BTR[:, even]))
    reached_BTR, h_BTR = torch.empty_like(a_BTR), torch.empty_like(b_BTR)
    reached_BTR[:, 0], h_BTR[:, 0] = a_BTR[:, 0], b_BTR[:, 0]
    reached_BTR[:, odd], h_BTR[:, odd] = pairs
    if tokens > 2:
        before = [each[:, : (tokens - 1) // 2] for each in pairs]
        reached_BTR[:, 2::2] = before[0] * a_BTR[:, 2::2]
        h_BTR[:, 2::2] = torch.addcmul(b_BTR[:, 2::2], a_BTR[:, 2::2], before[1])
    return reached_BTR, h_BTR


PLAIN = {"step": reference, "associative": associative, "chunked": chunked}
FORMS = (*PLAIN, "compiled")
_chosen: list[str | None] = [None]


@contextmanager
def by(form):
    """Compute the recurrence by one of FORMS, in this process until the end of the block; also inside of the RG-LRU.

    `step` goes token by token; `associative` in parallel, in about 2 log2 T steps; `chunked` advances chunks in lockstep;
    `compiled` is the C or Triton kernel. The gradient goes backwards in time by the same form. For measurements: without it, the
    fastest path runs. Raises ValueError for another word.
    """
    if form not in FORMS:
        raise ValueError(f"no form {form!r} of the scan; there are {', '.join(FORMS)}")
    _chosen.append(form)
    try:
        yield
    finally:
        _chosen.pop()


def chosen():
    """The form that `by` has chosen, or None."""
    return _chosen[-1]


def unavailable(form, device, dtype):
    """Why a form cannot be chosen for tensors like these, in words; empty if it can."""
    if form != "compiled":
        return ""
    if device.type == "cpu":
        path = native.path("linear_scan", dtype)
        return "" if path.startswith("compiled") else path.removeprefix("torch: ")
    return "" if paths.triton_asked_for(device) else "it is Triton's, and ARCHBENCH_TRITON is not 1"


def _lockstep(x_BTR, chunks, spare):
    """(B, T, R) as (L, B, N, R), so that step t of all chunks is contiguous. `spare` zeros pad the end of each row."""
    if spare:
        x_BTR = torch.nn.functional.pad(x_BTR, (0, 0, 0, spare))
    return x_BTR.unflatten(1, (chunks, -1)).permute(2, 0, 1, 3).clone(memory_format=torch.contiguous_format)


def _backward(g_BTR, a_BTR, h0_BR, h_BTR):
    """The gradients of a, b and h0, given those of the states."""
    if a_BTR.numel() == 0:
        return torch.empty_like(a_BTR), torch.empty_like(a_BTR), torch.zeros_like(h0_BR)
    if chosen() in PLAIN:
        return chunked_backward(g_BTR, a_BTR, h0_BR, h_BTR)
    if triton := _triton(a_BTR):
        return triton.backward(g_BTR, a_BTR, h0_BR, h_BTR)
    library = native.library("linear_scan", (g_BTR, a_BTR, h_BTR), SIGNATURES, small=(h0_BR,))
    if library is None:
        return chunked_backward(g_BTR, a_BTR, h0_BR, h_BTR)
    inputs = [x.contiguous() for x in (g_BTR, a_BTR, h0_BR.float(), h_BTR)]
    da_BTR, db_BTR, dh0_BR = torch.empty_like(inputs[1]), torch.empty_like(inputs[1]), torch.empty_like(inputs[2])
    pointers = (x.data_ptr() for x in (*inputs, da_BTR, db_BTR, dh0_BR))
    library.linear_scan_backward(*pointers, *a_BTR.shape, torch.get_num_threads())
    return da_BTR, db_BTR, dh0_BR.to(h0_BR.dtype)


def chunked_backward(g_BTR, a_BTR, h0_BR, h_BTR):
    """The gradients by the same recurrence, backwards in time: s_t = g_t + a_{t+1} s_{t+1}; da_t = s_t h_{t-1}."""
    given, given_h0 = a_BTR.dtype, h0_BR.dtype
    g_BTR, a_BTR, h0_BR, h_BTR = _wide(g_BTR, a_BTR, h0_BR, h_BTR)
    a_next_BTR = torch.cat([a_BTR[:, 1:], torch.zeros_like(a_BTR[:, :1])], dim=1)
    s_BTR = linear_scan(a_next_BTR.flip(1), g_BTR.flip(1), torch.zeros_like(h0_BR)).flip(1)
    before_BTR = torch.cat([h0_BR[:, None], h_BTR[:, :-1]], dim=1)
    return (s_BTR * before_BTR).to(given), s_BTR.to(given), (a_BTR[:, 0] * s_BTR[:, 0]).to(given_h0)


def _fake(a_BTR, b_BTR, h0_BR):
    return a_BTR.new_empty(a_BTR.shape)


def _fake_backward(g_BTR, a_BTR, h0_BR, h_BTR):
    return a_BTR.new_empty(a_BTR.shape), a_BTR.new_empty(a_BTR.shape), h0_BR.new_empty(h0_BR.shape)


OPERATIONS = torch.library.Library("archbench", "FRAGMENT")
for schema, real, fake in (
    ("linear_scan(Tensor a, Tensor b, Tensor h0) -> Tensor", _forward, _fake),
    (
        "linear_scan_backward(Tensor g, Tensor a, Tensor h0, Tensor h) -> (Tensor, Tensor, Tensor)",
        _backward,
        _fake_backward,
    ),
):
    name = OPERATIONS.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
    OPERATIONS.impl(name, real, "CompositeExplicitAutograd")
    torch.library.register_fake(f"archbench::{name}", fake, lib=OPERATIONS)


@register_flop_formula([torch.ops.archbench.linear_scan, torch.ops.archbench.linear_scan_backward])
def _flops(first_shape, *shapes, out_shape=None, **kwargs):
    """One multiply and one add per channel and token, on every path.

    The carries between chunks and the products outside of the recurrence are not counted.
    """
    return 2 * math.prod(first_shape)
