"""What a machine is good for, in about ten lines: `archbench doctor`."""

import importlib.metadata
import os
import platform
import shutil
from pathlib import Path

import torch
from packaging.requirements import Requirement

from arch import units
from arch.errors import install
from arch.kernels import native, products
from experiments import auto
from experiments.data import cache
from experiments.device import cpu_name

WIDE = 2**20  # a model.dim that is wide enough for whatever gains with the width
NAMED = ("native", "inductor", "costs", "probes")  # folders of the cache; every other one is a tokenized corpus


def findings():
    """(what, what was found) for each line."""
    yield "versions", f"Python {platform.python_version()}, torch {torch.__version__}"
    cpu, vectors = cpu_name() or platform.machine(), torch.backends.cpu.get_cpu_capability()
    yield "cores", f"{len(os.sched_getaffinity(0))} of {cpu}; torch computes with {vectors}"
    yield "memory", _memory()
    yield "C compiler", f"{_found('CC', 'cc')}; compiled blocks (`train.compile: on`) need a C++ compiler: {_found('CXX', 'g++')}"
    yield "kernels", _kernels()
    yield "bfloat16", _bfloat16()
    yield "GPU", _gpu()
    missing = {extra: packages for extra, packages in extras().items() if packages}
    yield "extras", f"installed: {', '.join(extra for extra in extras() if extra not in missing) or 'none'}"
    if missing:
        yield "missing", "; ".join(f"{extra} ({', '.join(packages)})" for extra, packages in missing.items())
        yield "", f"to install one: {install(next(iter(missing)))}"
    yield "caches", _caches()


def extras():
    """{optional extra: its packages that are not installed}, as pyproject.toml declares them."""
    found = {}
    for line in importlib.metadata.requires("archbench") or ():
        requirement = Requirement(line)
        for extra in importlib.metadata.metadata("archbench").get_all("Provides-Extra", ()):
            if requirement.marker and requirement.marker.evaluate({"extra": extra}):
                found.setdefault(extra, [])
                if not _installed(requirement.name):
                    found[extra].append(requirement.name)
    return found


def _installed(name):
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _lines(path):
    """{key: value} of a file of `key: value` lines; empty where there is no such file."""
    try:
        text = Path(path).read_text()
    except OSError:
        return {}
    return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in text.splitlines())}


def _memory():
    found = _lines("/proc/meminfo")
    if "MemTotal" not in found:
        return "unknown on this system"
    total, free = (1024 * int(found[key].split()[0]) for key in ("MemTotal", "MemAvailable"))
    return f"{units.size(total)}, {units.size(free)} free"


def _found(variable, default):
    return shutil.which(os.environ.get(variable) or default) or "none"


def _kernels():
    paths = {name: native.path(name) for name in native.names()}
    compiled = [name for name, path in paths.items() if path.startswith("compiled ")]
    others = [f"{name} ({path})" for name, path in paths.items() if name not in compiled]
    parts = [f"compiled: {', '.join(compiled)}"] if compiled else []
    if others:
        parts.append(f"plain: {', '.join(others)}")
    return "; ".join(parts)


def _bfloat16():
    unit = products.unit()
    has = f"units for it on the CPU: {unit}" if unit else "no units for it on this CPU"
    wide, why = auto.precision("cpu", [WIDE])
    least = auto.LEAST_WIDTH.get(unit)
    became = f"{wide} from model.dim {least} on, 32-true below" if least else f"{wide}: {why}"
    return f"{has}; `train.precision: auto` becomes {became}"


def _gpu():
    if torch.cuda.is_available():
        devices = [torch.cuda.get_device_properties(k) for k in range(torch.cuda.device_count())]
        return ", ".join(f"{device.name} ({units.size(device.total_memory)})" for device in devices)
    return "Apple (mps)" if torch.backends.mps.is_available() else "none that this torch can use"


def _caches():
    root = cache.root()
    if not root.is_dir():
        return f"{root} (nothing yet)"
    sizes = {}
    for path in root.rglob("*"):
        if path.is_file():
            first = path.relative_to(root).parts[0]
            first = first if first in NAMED else "corpora"
            sizes[first] = sizes.get(first, 0) + path.stat().st_size
    parts = ", ".join(f"{name} {units.size(size)}" for name, size in sorted(sizes.items()))
    return f"{root}: {parts or 'empty'}; all of it can be made again: rm -r {root}"
