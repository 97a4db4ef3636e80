"""Targets of a finished run, written to the cache on disk for students that learn from it."""

from __future__ import annotations

import time
from typing import Annotated, Any, Literal

from pydantic import Field
from rich.console import Console
from rich.progress import Progress

from arch.contracts import Dataset, Findings, Given, Metric
from arch.errors import SpecError
from arch.model import Model
from arch.registry import evaluator
from arch.spec import Count, Positive, Spec
from experiments.data.cache import root
from experiments.distillation import cache, packed
from experiments.distillation.teacher import Keeping, Teacher
from experiments.objectives.distill import about

# Steps of one row, where all rows are meant.
ALL = 2**31 - 1


@evaluator
class TeacherCache:
    """Writes what the objective `distill` keeps of this model as a teacher, of rows of its own training data, to disk.

    A student with `teacher:` this run, the same data and the same options finds it there (`docs/distillation.md`).
    """

    class Config(Spec):
        """mode, k, temperature, precision: as of `distill`. rows: the first that a run with this seed reads, by default all.

        The rows of a task (mqar, needle, ...) have no end, so there `rows` must be said.

        context: tokens per row, by default `data.context`.
        """

        mode: Literal["sampled", "counts", "top_k"] = "sampled"
        k: Count = 256
        temperature: Positive = 1.0
        precision: Literal["float32", "bfloat16"] = "float32"
        rows: Count | None = None
        context: Annotated[int, Field(ge=2)] | None = None

    needs = frozenset({"causal"})
    metrics = {
        "cached_tokens": Metric(unit="tokens", better="neither", compare="ratio"),
        "cache_bytes": Metric(unit="B", compare="ratio"),
        "cache_seconds_per_token": Metric(unit="s per token", compare="ratio"),
        "cache_tail_mass": Metric(better="neither"),
        "teacher_entropy": Metric(unit="nats per token", better="neither"),
    }

    def __init__(self, config: Config):
        self.config = config

    def check(self, dataset: Dataset, split: str) -> None:
        """Raises SpecError where rows have no numbers, or k does not fit."""
        if not (hasattr(dataset, "numbers") and hasattr(dataset, "numbered")):
            raise SpecError("its rows have no numbers, by which a cache could find them")
        if self.config.rows is None and not hasattr(dataset, "rows"):
            raise SpecError("the rows of this dataset have no end; expected how many to keep", ("rows",))
        if self.config.k > dataset.vocabulary:
            raise SpecError(f"{self.config.k:,} is more than the vocabulary of {dataset.vocabulary:,}", ("k",))
        if self.config.mode == "counts" and self.config.k > (most := packed.largest_code(dataset.vocabulary)):
            raise SpecError(f"a count of {self.config.k:,} does not fit into an entry; expected at most {most:,}", ("k",))

    def __call__(self, model: Model, dataset: Dataset, given: Given) -> Findings:
        """Fills the cache, and says what is in it. seconds_per_token: of what was missing; the table has it only if some was.

        Raises ValueError for a run that still trains: its weights are nobody's teacher yet.
        """
        if given.folder is None:
            raise ValueError("teacher_cache: a run that still trains is no teacher; measure it when it is finished")
        options, folder = self.config, given.folder
        context = options.context or given.context
        kept = Keeping(mode=options.mode, k=options.k, temperature=options.temperature, precision=options.precision)
        teachers: list[Teacher] = []

        def teacher() -> Teacher:
            if not teachers:  # with the precision that the option says, whatever the run was trained in
                teachers.append(Teacher.load(folder, options.precision).to(given.device))
            return teachers[0]

        numbers = dataset.numbers("train", options.rows or ALL, given.seed, 1, context)
        key = about(folder, dataset.fingerprint, context, kept)
        console, started, missing = Console(stderr=True, markup=False), time.perf_counter(), [0]
        with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
            task = bar.add_task("Writing targets")

            def progress(done: int, total: int, what: str) -> None:
                missing[0] = total
                bar.update(task, completed=done, total=total, description=what)

            written = cache.fill(key, teacher, dataset, numbers, given.device, progress)
        seconds = time.perf_counter() - started
        tail, entropy = written.means()
        values = {
            "cached_tokens": float(sum(shard.tokens for shard in written.shards)),
            "cache_bytes": float(written.bytes),
            "cache_tail_mass": tail,
            "teacher_entropy": entropy,
        }
        if missing[0]:
            values["cache_seconds_per_token"] = seconds / (missing[0] * context)
        return Findings(values, table=[{"cache": key.folder.name, "rows": len(written.place)}])

    def lasting(self, table: list[dict[str, Any]]) -> bool:
        """Whether the files that an earlier measurement with this table wrote are still there."""
        folder = root() / cache.FOLDER / str(table[0]["cache"]) if table else None
        return folder is not None and sum(shard.rows for shard in cache.index_of(folder)) >= table[0]["rows"]
