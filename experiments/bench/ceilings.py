"""This machine's best rates: a large square matrix product, a copy, and a * b into freshly allocated memory."""

import torch

# Large enough not to fit in any cache, small enough to take only seconds.
SQUARE = {"cpu": 2048, "cuda": 8192}
ELEMENTS = {"cpu": 1 << 25, "cuda": 1 << 28}


def measure(journal, device, dtype):
    """Time the three in turns. Rates are FLOPs for the product, bytes read and written for the other two."""
    square, count = SQUARE[device.type], ELEMENTS[device.type]
    a, b, out = (torch.randn(square, square, device=device).to(dtype) for _ in range(3))
    x, y, existing = (torch.randn(count, device=device).to(dtype) for _ in range(3))
    sides = {
        "square product": lambda: torch.mm(a, b, out=out),
        "copy": lambda: existing.copy_(x),
        "fresh a * b": lambda: x * y,
    }
    works = {"square product": 2 * square**3, "copy": 2 * x.nbytes, "fresh a * b": 3 * x.nbytes}
    of = {"square product": "FLOP", "copy": "B", "fresh a * b": "B"}
    journal.time("ceiling", sides, {"square": square, "elements": count}, works, of)
