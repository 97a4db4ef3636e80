"""What is known of a run: `record.json`, written when it starts and when it ends, and read by everyone else."""

import json
import os
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from arch.spec import Spec

NAME = "record.json"
# The curves beside it: a row an optimizer step; `seconds` and `tokens_per_second` are of training, `select/*` are NaN
# where the select split was not evaluated.
HISTORY_NAME = "history.parquet"
HISTORY_COLUMNS = (
    "step",
    "tokens",
    "seconds",
    "train/loss",
    "lr",
    "grad_norm",
    "tokens_per_second",
    "select/loss",
    "select/perplexity",
    "select/bits_per_byte",
)


class Failure(Spec):
    """Why a run failed. `step`: the optimizer step, -1 before the first; `parameters`: the groups of parameters named."""

    step: int
    error: str
    message: str
    parameters: list[str] = []


class RunRecord(Spec):
    """One run: what it was, where it ran, what it cost, how it ended and what it measured.

    identity: digest of everything that decides the result but the seed. spec: the resolved ExperimentSpec.
    data: fingerprint and sizes of what was read. cost: as `arch.cost` says for this context.
    metrics: final numbers, named SPLIT/METRIC, e.g. `report/loss` (nats a token), `report/perplexity`,
    `report/bits_per_byte`, `select/loss`; for the same identity and seed they are the same to the last bit.
    versions: what else decides last bits: packages, the path of each `kernel NAME`, and `blocks`, eager or compiled
    and by what. timing: what is not the same: tokens_per_second, train_seconds (of which this process spent
    compile_seconds compiling, where blocks are compiled), evaluate_seconds, peak_memory_bytes. Times are in seconds.
    sample: text that the trained model wrote.
    """

    version: Literal[1] = Field(default=1, alias="schema")
    status: Literal["running", "finished", "failed", "interrupted"]
    identity: str
    seed: int
    spec: dict[str, Any]
    data: dict[str, Any] = {}
    plugins: dict[str, str] = {}
    versions: dict[str, str] = {}
    git: dict[str, Any] = {}
    hardware: dict[str, Any] = {}
    threads: int = 1
    cost: dict[str, Any] = {}
    started: str = ""
    ended: str | None = None
    wall_seconds: float = 0.0
    steps: int = 0
    tokens: int = 0
    metrics: dict[str, float] = {}
    timing: dict[str, float] = {}
    sample: str = ""
    notes: list[str] = []
    failure: Failure | None = None

    def write(self, folder):
        """Write `record.json` whole or not at all: a reader never sees half of one."""
        write_record(self, Path(folder) / NAME)

    @classmethod
    def read(cls, folder):
        """The record in a run's folder, or None where there is none. Raises SpecError or ValueError for a broken one."""
        return read_record(cls, Path(folder) / NAME)

    @classmethod
    def read_whole(cls, folder):
        """The record in a run's folder, or None where there is none that can be read."""
        try:
            return cls.read(folder)
        except (OSError, ValueError):
            return None


def write_record(record, path):
    """A record as JSON, whole or not at all."""
    write_atomically(path, json.dumps(record.dump(), indent=1, allow_nan=False).encode())


def read_record(cls, path):
    """The record of class `cls` in a file, or None where there is no file. Raises SpecError, json.JSONDecodeError."""
    return cls.parse(json.loads(path.read_text())) if path.is_file() else None


def write_atomically(path, content):
    """Write bytes to a file, whole or not at all."""
    durably(path, lambda scratch: scratch.write_bytes(content))


def durably(path, write):
    """Have `write(scratch)` write beside `path`, flush it to disk, rename it over `path`; on failure leave nothing.

    A kill or a crash at any moment leaves the old file or the new one.
    """
    path = Path(path)
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        write(scratch)
        flush(scratch)
        os.replace(scratch, path)
        flush(path.parent)
    finally:
        scratch.unlink(missing_ok=True)


def flush(path):
    """Have a file's content, or a folder's list of names, on disk before this returns."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
