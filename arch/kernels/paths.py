"""Which path a kernel takes where there are several: the switch of those that no device has passed yet, and what a
record says of all of them."""

import os

import torch

from arch.kernels import native

_triton = native.Switch()


def without_triton():
    """Torch's paths in place of Triton's, in this process, until the end of the block."""
    return _triton.turned_off()


def triton_asked_for(device):
    """Whether kernels that run through Triton are to be taken on this device: on CUDA, where `ARCHBENCH_TRITON=1`."""
    return device.type == "cuda" and os.environ.get("ARCHBENCH_TRITON") == "1" and not _triton.off


def recorded():
    """{`kernel NAME`: the path float32 on the CPU takes}, and, where torch finds a CUDA device, {`kernel NAME on cuda`:
    the path there}: what decides speed and last bits beside a package's version."""
    found = {f"kernel {name}": native.path(name) for name in native.names()}
    if torch.cuda.is_available():
        asked = triton_asked_for(torch.device("cuda"))
        found["kernel attention on cuda"] = "flex where it takes them, else torch" if asked else "torch"
        found["kernel linear_scan on cuda"] = "triton for float32 and bfloat16, else torch" if asked else "torch"
    return found
