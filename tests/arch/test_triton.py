"""The Triton kernels against the plain reference.

They run in Triton's interpreter on the CPU (`make test-triton`), or compiled if there is a CUDA device.
"""

import os

import pytest
import torch

from arch.kernels.linear_scan import reference

pytest.importorskip("triton", reason="needs the extra `triton`")
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
if not (INTERPRETED or torch.cuda.is_available()):
    pytest.skip("neither TRITON_INTERPRET=1 nor a CUDA device", allow_module_level=True)

from arch.kernels import linear_scan_triton  # noqa: E402

DEVICE = "cpu" if INTERPRETED else "cuda"
SHAPES = [(1, 1), (1, 11), (7, 3), (8, 8), (9, 9), (20, 17)]
if INTERPRETED:  # the interpreter is slow per element; small tiles test the same edge cases
    linear_scan_triton.TILE_T = linear_scan_triton.TILE_R = 8
else:
    SHAPES += [(64, 32), (65, 33), (200, 70)]
TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 8e-3}


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("resets", [False, True], ids=["flowing", "resets"])
@pytest.mark.parametrize("tokens, width", SHAPES)
def test_linear_scan_equals_the_reference(tokens, width, resets, dtype):
    generator = torch.Generator().manual_seed(tokens)
    draw = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    a = draw(2, tokens, width).sigmoid() ** 0.1
    if resets:
        a[torch.rand(2, tokens, generator=generator) < 0.1] = 0.0
    a, b, h0, g = (x.to(DEVICE, dtype) for x in (a, draw(2, tokens, width), draw(2, width), draw(2, tokens, width)))
    exact = [x.double().requires_grad_() for x in (a, b, h0)]
    want = reference(*exact)
    strided = b.transpose(1, 2).contiguous().transpose(1, 2)
    h = linear_scan_triton.forward(a, strided, h0)
    near("states", h, want, dtype)
    gradients = linear_scan_triton.backward(g, a, h0, h)
    for name, got, wanted in zip(("a", "b", "h0"), gradients, torch.autograd.grad(want, exact, g.double()), strict=True):
        near(f"gradient of {name}", got, wanted, dtype)


def near(what, got, want, dtype):
    error = (got.double() - want).norm() / want.norm().clamp(min=1e-6)
    assert got.dtype == dtype and got.shape == want.shape and error <= TOLERANCE[dtype], f"{what}: {error:.1e}"


def test_a_reset_is_exact():
    a, b, h0 = (x.to(DEVICE) for x in (torch.rand(1, 20, 3), torch.randn(1, 20, 3), torch.randn(1, 3)))
    a[:, 13] = 0.0
    other = b.clone()
    other[:, :13] *= 1e6
    mine, theirs = linear_scan_triton.forward(a, b, h0), linear_scan_triton.forward(a, other, h0 + 5)
    assert torch.equal(mine[:, 13:], theirs[:, 13:])
