"""The folders of runs under RUNS, and the search for finished runs.

    RUNS/STUDY/SCALE/ARM-DIGEST12/seed-N           a reported run
    RUNS/STUDY/SCALE/tune/ARM-DIGEST12/seed-N      a run of a tuning trial
    RUNS/STUDY/SCALE/retrained/ARM-DIGEST12/seed-N a run that is trained once more for its weights (`sweeps.retraining`)

The first lie at another depth, so a search for reported runs never finds one of the others.
"""

import json
import os
import re
import unicodedata
from functools import lru_cache
from pathlib import Path

from experiments.record import NAME, RECORDS, RunRecord, record_file

DIGEST = 12
TUNE, RETRAINED = "tune", "retrained"
WEIGHTS = "model.safetensors"  # as `arch.checkpoint` calls them, which needs torch
LONGEST = 60
LONGEST_BYTES = 180  # a file system allows 255 bytes, of which a digest and a number take some
UNSCALED = "base"


def study_name(reference):
    """A study's name: the shipped name, or the name of its file without the suffix."""
    if reference.endswith((".yaml", ".yml")):
        return Path(reference).stem
    return reference.removeprefix("sweeps/")


def study_folder(runs, name, scale, scales=()):
    """RUNS/STUDY/SCALE. A study's name becomes a single folder, so that all runs lie at a known depth.

    scales: the names of all scales of the study, so that each has a folder of its own.
    """
    below = UNSCALED if scale is None else safe_names([*scales, scale], taken=(UNSCALED,))[scale]
    return Path(runs) / safe_name(name) / below


def safe_name(label):
    """A label as a file name that is safe in a shell and on every file system: `1:1` becomes `1to1`.

    Letters, marks and digits of every script stay, in the composed form (NFC) that all file systems agree on.
    """
    name = re.sub(r"(?<=\d):(?=\d)", "to", unicodedata.normalize("NFC", label))
    kept = (char if char in "._+-" or unicodedata.category(char)[0] in "LMN" else " " for char in name)
    name = re.sub(" +", "-", "".join(kept)).strip("-.")[:LONGEST]
    return name.encode()[:LONGEST_BYTES].decode(errors="ignore") or "unnamed"


def safe_names(labels, taken=()):
    """`{label: file name}`; the names are unique, and none of `taken`, even on a file system that ignores case."""
    names, used = {}, {name.casefold() for name in taken}
    for label in dict.fromkeys(labels):
        name, n = safe_name(label), 2
        while name.casefold() in used:
            name, n = f"{safe_name(label)}-{n}", n + 1
        used.add(name.casefold())
        names[label] = name
    return names


def run_folder(parent, arm, identity, seed):
    """The folder of one run; `parent` is the study's folder or its `tune`."""
    return parent / f"{arm}-{identity[:DIGEST]}" / f"seed-{seed}"


def relative(folder, start):
    """The path of a run's folder relative to the study's folder `start`, as the study's record stores it."""
    return os.path.relpath(folder, start)


class Finished:
    """The finished runs under RUNS, listed once. trials: the runs of tuning trials instead of the reported ones."""

    def __init__(self, runs, trials=False):
        above = f"*/*/{TUNE}" if trials else "*/*"
        self.folders: dict[tuple[str, str], list[Path]] = {}
        found = Path(runs).glob(f"{above}/*-{'?' * DIGEST}/seed-*/{NAME}*")
        for folder in sorted({path.parent for path in found if path.name in RECORDS}):
            self.folders.setdefault((folder.parent.name[-DIGEST:], folder.name), []).append(folder)

    def folder(self, identity, seed, first, weights=False):
        """The folder of a finished run with this identity and seed: `first` or any other; None if there is none.

        A folder's name holds only the first characters of the identity, so the full identity is compared with the record.
        weights: whether its weights must be there too.
        """
        places = (first, *self.folders.get((identity[:DIGEST], f"seed-{seed}"), ()))
        found = (folder for folder in places if is_finished(folder, identity, seed))
        return next((folder for folder in found if not weights or has_weights(folder)), None)


def is_finished(folder, identity, seed):
    """Whether this folder holds a finished run with this identity and seed."""
    record = record_of(folder)
    return record is not None and (record.status, record.identity, record.seed) == ("finished", identity, seed)


def has_weights(folder):
    """Whether a run's weights are there, in a file of the size that its header says.

    A kept copy has none. Where large files are kept elsewhere, as by Git LFS, a few lines may lie in their place.
    """
    file = Path(folder) / WEIGHTS
    try:
        about = os.stat(file)
    except OSError:
        return False
    return _is_whole(os.path.realpath(file), about.st_mtime_ns, about.st_size, about.st_ino)


@lru_cache(maxsize=10_000)
def _is_whole(file, modified, size, inode):
    """Whether a file is as long as a safetensors file with its header: 8 bytes with the header's length, JSON, the tensors."""
    try:
        with open(file, "rb") as opened:
            length = int.from_bytes(opened.read(8), "little")
            if not 0 < length <= size - 8:
                return False
            tensors = json.loads(opened.read(length))
            ends = [each["data_offsets"][1] for name, each in tensors.items() if name != "__metadata__"]
    except (OSError, ValueError, AttributeError, LookupError, TypeError):
        return False
    return size == 8 + length + max(ends, default=0)


def record_of(folder):
    """The RunRecord in a run's folder, or None if it has none that can be read. Read again only if its file changed."""
    try:
        about = os.stat(record_file(folder))
    except OSError:
        return None
    return _record(os.path.realpath(folder), about.st_mtime_ns, about.st_size, about.st_ino)


@lru_cache(maxsize=10_000)
def _record(folder, modified, size, inode):
    return RunRecord.read_whole(folder)
