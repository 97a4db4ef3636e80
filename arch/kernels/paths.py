"""The path that a kernel takes if it has several: the switch for untested Triton paths, plain torch, and what a record says.

Paths through Triton stay off by default, because their tests have not passed on a real device yet.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from arch.kernels import native

_triton = native.Switch()


def without_triton():
    """Use torch's paths instead of Triton's, in this process, until the end of the block."""
    return _triton.turned_off()


def triton_asked_for(device):
    """Whether to use kernels that run through Triton on this device: on CUDA, if `ARCHBENCH_TRITON=1`."""
    return device.type == "cuda" and os.environ.get("ARCHBENCH_TRITON") == "1" and not _triton.off


@contextmanager
def plain() -> Iterator[None]:
    """Use torch's paths alone, in this process, until the end of the block: none that is compiled or runs through Triton."""
    with native.disabled(), without_triton():
        yield


def switch(device: torch.device) -> str:
    """The setting that has the same effect as `plain` on this device; empty where no other path is on."""
    if device.type == "cpu":
        return "ARCHBENCH_NATIVE=0" if native.is_on() else ""
    return "ARCHBENCH_TRITON=0" if triton_asked_for(device) else ""


def recorded(precision="32-true"):
    """{`kernel NAME`: path for float32 on the CPU}, and {`kernel NAME on cuda`: path} if torch finds a CUDA device.

    With a precision that has activations in bfloat16, also {`kernel NAME in bfloat16`: its path on the CPU}. Besides
    package versions, these paths decide speed and last bits.
    """
    found = {f"kernel {name}": native.path(name) for name in native.names()}
    if precision.startswith("bf16"):
        found |= {f"kernel {name} in bfloat16": native.path(name, torch.bfloat16) for name in native.names()}
    if torch.cuda.is_available():
        asked = triton_asked_for(torch.device("cuda"))
        found["kernel attention on cuda"] = "flex where it takes them, else torch" if asked else "torch"
        found["kernel linear_scan on cuda"] = "triton for float32 and bfloat16, else torch" if asked else "torch"
    return found
