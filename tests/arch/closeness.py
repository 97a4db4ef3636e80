"""How near a result must be to the one it has to equal, where the true value may vanish."""


def relative_error(got, want, size):
    """The error's norm by the norm of `want`, or by a tenth of what entries of the given size would have.

    size: what an entry is of the order of, by the operands alone. Terms of this size may cancel to exactly 0 (the
    gradient of a query that sees one key): what is then left is their rounding, which differs from one CPU to another,
    and has no meaning beside a true value of 0.
    """
    got, want = got.detach().double(), want.detach().double()
    return float((got - want).norm() / want.norm().clamp(min=0.1 * size * want.numel() ** 0.5))


def near(got, want, tolerance, size, what):
    """Asserts that `got` has the type of `want`, is finite, and is within the tolerance of it."""
    assert got.dtype == want.dtype and got.shape == want.shape and got.isfinite().all(), what
    error = relative_error(got, want, size)
    assert error <= tolerance, f"{what}: {error:.1e}"
