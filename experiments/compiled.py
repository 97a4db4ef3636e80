"""Compile blocks with torch.compile: each distinct block once, with the programs kept on disk for the next run.

Compiled are a block's norms, linear maps, rotary embedding, convolution, gates and residuals. Attention, the recurrence
and the tensors that layers share through the layout stay outside: tiled attention would unroll into thousands of
operations, and attention and the recurrence already have fast kernels.

Evaluation and generation stay eager (`experiments.evaluate.evaluating`), because their shapes would need more programs.
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
# Functions that a block calls but that are not compiled. The layout's memo is one of them: otherwise the first layer,
# which fills the memo, would compile to a different program than the layers that find it filled.
OUTSIDE = ((TokenLayout, "memo"), (attention, "banded"), (attention, "blocked"))
_case = None


class CompileError(RuntimeError):
    """The blocks cannot be compiled. The message says what to do."""


def compile_blocks(model, device, *case):
    """Mark every block of `model` to be compiled at its first call in training; parameter names do not change.

    device: `cpu`, or the kind of accelerator that trains the model. case: what determines the programs besides the
    model's spec and the device (shapes, types). When it changes, the programs of the previous case are discarded;
    otherwise a process that trains many models would reach torch's recompile limit, after which blocks silently run
    eager. Reaching the limit anyway is an error.
    Returns a description of the compiler, for the record. Raises CompileError if a CPU run has no C++ compiler.
    """
    global _case  # noqa: PLW0603  compiled programs belong to the process
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
    """A description of the compiler for a device, for the record. Raises CompileError if a CPU has no C++ compiler."""
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
    """Keep compiled programs in our cache folder, unless the user set another one.

    The variable may already hold torch's default: importing Lightning makes torch set it.
    """
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
    """Exclude OUTSIDE from compilation, once per process.

    A decorator would import the compiler, which takes a second, wherever a model is built.
    """
    for owner, name in OUTSIDE:
        setattr(owner, name, torch.compiler.disable(getattr(owner, name)))


def kinds(spec):
    """The sorted names of the distinct blocks that a ModelSpec's layers use."""
    return sorted(set(spec.layer_blocks()))


def seconds_so_far():
    """Seconds this process has spent compiling."""
    return torch._dynamo.utils.calculate_time_spent()["total_wall_time"]


def explained(error):
    """The message of an error. For an error from compiling: what failed and what to do, in one line."""
    if isinstance(error, torch._dynamo.exc.TorchDynamoException | torch._dynamo.exc.FailOnRecompileLimitHit):
        said = " ".join(str(error).strip().splitlines()[:2]) or type(error).__name__
        return f"compiling the blocks failed: {said} (`train.compile: off` trains without)"
    return str(error)
