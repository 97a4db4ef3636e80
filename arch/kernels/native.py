"""Compiled paths: a C file beside this one, built on first use by the machine's own compiler and called by ctypes.

There is one for float32 on the CPU. Whatever is missing (a compiler, OpenMP, a folder to write to), `library` answers
None and the caller takes its torch path, whose last bits may differ: `path` says which one runs and why.
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
# No contraction: where the compiler's vector loop ends must not change bits. The other two only free sqrt from errno.
FLAGS = ["-O3", "-march=native", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-fopenmp", "-shared", "-fPIC"]


class Switch:
    """Paths of one kind that can be turned off in this process."""

    def __init__(self):
        self.off = False

    @contextmanager
    def turned_off(self):
        """Off until the end of the block."""
        before, self.off = self.off, True
        try:
            yield
        finally:
            self.off = before


_compiled_paths = Switch()


def disabled():
    """Torch paths only, in this process, until the end of the block."""
    return _compiled_paths.turned_off()


def names():
    """The kernels that have a C file."""
    return sorted(file.stem for file in Path(__file__).parent.glob("*.c"))


def path(name):
    """Which path float32 on the CPU takes for the kernel `name`: `compiled KEY`, or `torch: ` and the reason."""
    reason = _switched_off()
    if reason is None:
        found, said = _built(name)
        return said if found is None else f"compiled {said}"
    return f"torch: {reason}"


def library(name, tensors, signatures):
    """The compiled NAME.c with `signatures` {function: argtypes}, or None where it cannot take these tensors: only plain
    ones in CPU memory, float32, and while nobody traces what is done to them."""
    if _switched_off() or torch.compiler.is_compiling() or not all(map(_plain, tensors)):
        return None
    found = _built(name)[0]
    if found is not None and not hasattr(found, "declared"):
        for function, types in signatures.items():
            getattr(found, function).argtypes, getattr(found, function).restype = types, None
        found.declared = True
    return found


def _plain(x):
    return type(x) in (torch.Tensor, torch.nn.Parameter) and x.dtype is torch.float32 and x.is_cpu


def _switched_off():
    if _compiled_paths.off:
        return "switched off in this process"
    return "ARCHBENCH_NATIVE=0" if os.environ.get("ARCHBENCH_NATIVE") == "0" else None


@functools.cache
def _built(name):
    """(library, key) or (None, `torch: ` and why), once a process."""
    source = Path(__file__).with_name(f"{name}.c")
    compiler = shutil.which(os.environ.get("CC") or "cc")
    if compiler is None:
        return None, "torch: no C compiler"
    runtime = _openmp()
    try:
        version = subprocess.run([compiler, "--version"], capture_output=True, check=True, timeout=60).stdout
        text = b"".join(part.read_bytes() for part in (source, *sorted(source.parent.glob("*.h"))))
        parts = (text, version, " ".join((compiler, *FLAGS, *runtime, cpu())).encode())
        key = hashlib.sha256(b"\0".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()[:16]
        cache = Path(os.environ.get("ARCHBENCH_CACHE") or "~/.cache/archbench").expanduser()
        file = cache / "native" / f"{name}-{key}.so"
        if not file.exists():
            _compile([compiler, *FLAGS, str(source), "-Wl,--as-needed", *runtime, "-lm"], file)
        return ctypes.CDLL(str(file)), key
    except subprocess.CalledProcessError as error:
        said = (error.stderr or b"").decode(errors="replace").strip().splitlines()
        return None, f"torch: {compiler} failed: {said[0] if said else error}"
    except (OSError, subprocess.TimeoutExpired) as error:
        return None, f"torch: {error}"


def _compile(command, file):
    """Build beside the target and rename: of several processes at once each finds a whole file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    handle, scratch = tempfile.mkstemp(dir=file.parent, suffix=".tmp")
    os.close(handle)
    try:
        subprocess.run([*command, "-o", scratch], capture_output=True, check=True, timeout=120)
        os.replace(scratch, file)
    finally:
        Path(scratch).unlink(missing_ok=True)


def _openmp():
    """The OpenMP library that torch has loaded: with a second one, two sets of threads would fight for the cores."""
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
