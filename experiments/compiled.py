"""Blocks compiled by torch.compile, each distinct one once, and kept on disk for the next run.

A block's programs are what stands around its attention, its recurrence and what the layers share of a layout: norms,
maps, rotary, convolution, gates, residuals. Attention by tiles would unroll into thousands of operations, and it and
the recurrence have fast paths of their own.

Evaluation and generation stay eager (`experiments.evaluate.evaluating`): their shapes would be further programs.
"""

import functools
import hashlib
import os
import subprocess

import torch

from arch.kernels import attention, native
from arch.layout import TokenLayout
from experiments.data import cache

VARIABLE, FOLDER = "TORCHINDUCTOR_CACHE_DIR", "inductor"
EAGER = "eager"
# Of what a block calls, these run as they are. A look into a layout's memo is among them: the first layer, which fills
# it, would otherwise be another program than the layers that find it full.
OUTSIDE = ((TokenLayout, "memo"), (attention, "banded"), (attention, "blocked"))
_case = None


class CompileError(RuntimeError):
    """Blocks that were to be compiled and cannot be. The message says what to do."""


def compile_blocks(model, device, *case):
    """Have every block of `model` compiled when it is first called in training; parameters keep their names.

    device: `cpu`, or the kind of accelerator it is trained on. case: what decides the programs beside the model's spec
    (shapes, types): those of another case are thrown away, so that a process that trains one model after another never
    meets torch's limit, past which blocks would run eager in silence; what meets it all the same fails.
    Returns what compiles them, for a record. Raises CompileError where there is no C++ compiler for a CPU.
    """
    global _case  # noqa: PLW0603  the programs are the process's
    said = compiler(device)
    _keep_programs()
    _keep_outside()
    case = (model.spec, device, *case)
    if _case not in (None, case):
        torch._dynamo.reset()
    _case = case
    config = torch._dynamo.config
    config.fail_on_recompile_limit_hit = True
    config.recompile_limit = max(config.recompile_limit, 4 * len(kinds(model.spec)))
    for block in model.blocks:
        block.compile(dynamic=False)
    return said


def compiler(device):
    """What compiles blocks for a device, for a record. Raises CompileError where a CPU has no C++ compiler."""
    if device != "cpu":
        return "compiled by inductor"
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        command = [get_cpp_compiler(), "--version"]
        version = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    except (InvalidCxxCompiler, subprocess.SubprocessError, OSError):
        advice = "install g++ or name one in CXX, or say `train.compile: off`"
        raise CompileError(f"no C++ compiler to compile blocks with: {advice}") from None
    return f"compiled by inductor, {version.strip().splitlines()[0]}"


def _keep_programs():
    """In our cache folder, unless the user named another: importing Lightning already has torch name its own."""
    from torch._inductor.runtime.cache_dir_utils import default_cache_dir

    if os.environ.get(VARIABLE) in (None, os.path.abspath(default_cache_dir())):
        os.environ[VARIABLE] = str(programs())


def programs():
    """The folder of this CPU type's programs.

    torch finds a kept program by what it computes, and not by the vector width that it was generated for: one from
    another CPU, or from under another `ATEN_CPU_CAPABILITY`, would be compiled for this one and give wrong numbers.
    """
    kind = native.cpu() + os.environ.get("ATEN_CPU_CAPABILITY", "")
    return cache.root() / FOLDER / hashlib.sha256(kind.encode()).hexdigest()[:12]


@functools.cache
def _keep_outside():
    """Once a process, and not as a decorator: that would import the compiler, a second, wherever a model is built."""
    for owner, name in OUTSIDE:
        setattr(owner, name, torch.compiler.disable(getattr(owner, name)))


def kinds(spec):
    """The names of a ModelSpec's distinct blocks, as realised."""
    return sorted(set(spec.layer_blocks()))


def seconds_so_far():
    """Seconds this process has spent compiling."""
    return torch._dynamo.utils.calculate_time_spent()["total_wall_time"]


def explained(error):
    """A failure's message; of one that compiling brought, what failed and what to do."""
    if isinstance(error, torch._dynamo.exc.TorchDynamoException | torch._dynamo.exc.FailOnRecompileLimitHit):
        said = " ".join(str(error).strip().splitlines()[:2]) or type(error).__name__
        return f"compiling the blocks failed: {said} (`train.compile: off` trains without)"
    return str(error)
