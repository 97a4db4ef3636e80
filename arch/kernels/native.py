"""Compiled kernels: C files in this folder, built on first use by the machine's compiler and called by ctypes.

They take float32 on the CPU, and bfloat16 where the file includes `stored.h`: such a file is built once for each type of
activation, with float32 arithmetic in both. If something is missing (a compiler, OpenMP, a folder to write to), `library`
returns None and the caller takes its torch path, whose last bits may differ. `path` says which one runs and why.
`ARCHBENCH_NATIVE=0` turns the compiled paths off.
"""

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path

import torch

POINTER, INTEGER, REAL = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float
# -ffp-contract=off: bits must not depend on where the compiler's vector loop ends. -fno-math-errno, -fno-trapping-math:
# they only free sqrt from setting errno.
DEFINED: dict[torch.dtype, list[str]] = {torch.float32: [], torch.bfloat16: ["-DBFLOAT16"]}  # see stored.h
FLAGS = ["-O3", "-march=native", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-fopenmp", "-shared", "-fPIC"]


class Switch:
    """A switch that turns one kind of path off in this process."""

    def __init__(self):
        self.off = False

    @contextmanager
    def turned_off(self):
        """Turn the paths off until the end of the block."""
        before, self.off = self.off, True
        try:
            yield
        finally:
            self.off = before


_compiled_paths = Switch()


def disabled():
    """Use only torch paths, in this process, until the end of the block."""
    return _compiled_paths.turned_off()


def is_on():
    """Whether the compiled paths are allowed to run in this process."""
    return _switched_off() is None


def names():
    """Names of the kernels that have a C file."""
    return sorted(file.stem for file in Path(__file__).parent.glob("*.c"))


def path(name, dtype=torch.float32):
    """The path of the kernel `name` for activations of this type on the CPU: `compiled KEY`, or `torch: ` and the reason."""
    reason = _switched_off()
    if reason is None:
        found, said = _built(name, dtype)
        return said if found is None else f"compiled {said}"
    return f"torch: {reason}"


def library(name, tensors, signatures, small=(), dtype=None):
    """The compiled NAME.c for the one type of these tensors, or None if it is not available or cannot take them.

    It takes plain tensors in CPU memory, and not while torch.compile traces. small: tensors that the caller gives to C as
    float32 whatever their type here, such as weights. dtype: the type, if there are no other tensors. signatures: {function:
    argtypes}.
    """
    if _switched_off() or torch.compiler.is_compiling() or not all(map(_plain, (*tensors, *small))):
        return None
    types = {x.dtype for x in tensors} or {dtype or torch.float32}
    if len(types) > 1 or not types | {x.dtype for x in small} <= DEFINED.keys():
        return None
    found = _built(name, *types)[0]
    if found is not None and not hasattr(found, "declared"):
        for function, types in signatures.items():
            getattr(found, function).argtypes, getattr(found, function).restype = types, None
        found.declared = True
    return found


def _plain(x):
    return type(x) in (torch.Tensor, torch.nn.Parameter) and x.is_cpu


def _switched_off():
    if _compiled_paths.off:
        return "switched off in this process"
    return "ARCHBENCH_NATIVE=0" if os.environ.get("ARCHBENCH_NATIVE") == "0" else None


@functools.cache
def _built(name, dtype=torch.float32):
    """(library, key), or (None, reason). Built or loaded once per process and type."""
    source = Path(__file__).with_name(f"{name}.c")
    if dtype is not torch.float32 and '#include "stored.h"' not in source.read_text():
        return None, f"torch: {source.name} takes float32 alone"
    flags = [*FLAGS, *DEFINED[dtype]]
    compiler = shutil.which(os.environ.get("CC") or "cc")
    if compiler is None:
        return None, "torch: no C compiler"
    runtime = _openmp()
    try:
        version = subprocess.run([compiler, "--version"], capture_output=True, check=True, timeout=60).stdout
        text = b"".join(part.read_bytes() for part in (source, *sorted(source.parent.glob("*.h"))))
        parts = (text, version, " ".join((compiler, *flags, *runtime, cpu())).encode())
        key = hashlib.sha256(b"\0".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()[:16]
        cache = Path(os.environ.get("ARCHBENCH_CACHE") or "~/.cache/archbench").expanduser()
        file = cache / "native" / f"{name}-{key}.so"
        if not file.exists():
            _compile([compiler, *flags, str(source), "-Wl,--as-needed", *runtime, "-lm"], file)
        return ctypes.CDLL(str(file)), key
    except subprocess.CalledProcessError as error:
        said = (error.stderr or b"").decode(errors="replace").strip().splitlines()
        return None, f"torch: {compiler} failed: {said[0] if said else error}"
    except (OSError, subprocess.TimeoutExpired) as error:
        return None, f"torch: {error}"


def _compile(command, file):
    """Build next to the target, then rename, so that several processes at once always find a complete file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    handle, scratch = tempfile.mkstemp(dir=file.parent, suffix=".tmp")
    os.close(handle)
    try:
        subprocess.run([*command, "-o", scratch], capture_output=True, check=True, timeout=120)
        os.replace(scratch, file)
    finally:
        Path(scratch).unlink(missing_ok=True)


def _openmp():
    """The OpenMP library that torch has loaded. With a second one, two thread pools would compete for the cores."""
    try:
        with open("/proc/self/maps") as file:
            loaded = sorted({line.split()[-1] for line in file if "omp" in line.rpartition("/")[2]})
    except OSError:
        return ()
    return tuple(name for name in loaded if Path(name).name.startswith(("libgomp", "libiomp", "libomp")))[:1]


def cpu():
    """The CPU's type and features, as text: what a program compiled with `-march=native` depends on."""
    try:
        with open("/proc/cpuinfo") as file:
            lines = {line.split(":")[0].strip(): line for line in file if ":" in line}
        return " ".join(lines.get(name, "") for name in ("vendor_id", "cpu family", "model", "flags", "Features"))
    except OSError:
        return platform.processor() + platform.machine()
