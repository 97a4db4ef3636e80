"""What a test of compiled kernels needs: that they are there."""

import pytest

from arch.kernels import native

ABSENT = ("torch: no C compiler", "torch: ARCHBENCH_NATIVE=0")


def compiled_or_skip(*names):
    """Skips, with the reason, where there is no C compiler or the kernels are turned off; one that does not build fails."""
    for name in names:
        path = native.path(name)
        if path in ABSENT:
            pytest.skip(path)
        assert path.startswith("compiled "), path
