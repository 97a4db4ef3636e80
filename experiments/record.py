"""A run's record, `record.json` (packed in a kept copy): written when the run starts and when it ends, and read by all."""

import errno
import gzip
import json
import os
import zlib
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from arch.contracts import Chart, Documents, Metric, Picture, Points
from arch.document import node
from arch.errors import DataError, reason_of
from arch.spec import Spec, later, spelt
from experiments.files import write_atomically, write_first
from experiments.metrics import OF_RUNS

NAME = "record.json"
# Where `archbench run` puts runs: RUNS/single/NAME/run-DIGEST/seed-N.
SINGLE = "single"
# The training curves beside the record: one row per optimizer step. `seconds` and `tokens_per_second` count training;
# `step_seconds` is the step's own time, NaN while a process warms up; `select/*` are NaN where the select split was not
# evaluated. The columns are those that the run reported.
HISTORY_NAME = "history.parquet"
DOCUMENTS, PACKED = ".documents.json", ".gz"
# The names that a run's record may have: in a copy that is kept it is packed.
RECORDS = (NAME, f"{NAME}{PACKED}")
# What is said of a run that has a record alone.
GONE = "its run is finished, but its weights are gone, as in a kept copy"
# The folder of its evaluations, one file each.
EVALUATIONS = "evaluations"


SHORT = 12  # characters of a commit or a digest in `RunRecord.facts`
THREADS = "threads per run"
# Errors that the machine or its files cause and not the model: another start may go well. Names of exception classes.
MACHINE = ("WorkerLost", "OSError", "PermissionError", "FileNotFoundError", "MemoryError", "DataError")


class Failure(Spec):
    """Why a run failed.

    step: the optimizer step, -1 before the first. error: the exception's class. For a number that is not finite
    (`experiments.nonfinite`): what it was (`loss`, `gradient`, `weight`, or a metric's name); where, the first part of the
    pass that gave such a number, e.g. `blocks.0.mixer`, empty if not known; parameters, the names of that part's tensors
    that have one. where, of an error in a component of a user's own: the part in which it ran. machine: whether the machine
    caused it; None in records that do not say.
    """

    step: int
    error: str
    message: str
    parameters: list[str] = []
    what: str = ""
    where: str = ""
    machine: bool | None = None

    @property
    def by_machine(self) -> bool:
        """Whether the machine or its files caused it, and not the model."""
        return self.error in MACHINE if self.machine is None else self.machine

    @property
    def reason(self) -> str:
        """Why, in one line: `loss not finite at step 0, first in blocks.0.mixer`, or the error and its message."""
        if self.what:
            return self.message
        groups = f" ({', '.join(self.parameters)})" if self.parameters else ""
        return f"{self.error} at step {self.step}: {self.message}{groups}"


class RunRecord(Spec):
    """One run: its spec, where it ran, its cost, how it ended and its metrics.

    identity: digest of everything that determines the result besides the seed. spec: the resolved ExperimentSpec.
    data: fingerprint and sizes of the corpus. cost: as `arch.cost` computes it for this context.
    metrics: final numbers, named SPLIT/METRIC, e.g. `report/loss` (nats per token), `report/perplexity`,
        `report/bits_per_byte`, `select/loss`. The same identity and seed give the same metrics to the last bit,
        but for the times that the evaluator `decode_speed` measures where a spec asks for it.
    metric_info: what each metric is; records before it existed have none.
    versions: what else can change the last bits: package versions, the path of each `kernel NAME`, and `blocks`
        (eager, or which compiler).
    timing: numbers that differ from run to run: train_seconds, evaluate_seconds; if blocks are compiled also
        compile_seconds, the part of train_seconds that this process spent compiling. runs_at_once: how many runs the study
        did at a time, at most. others: of evaluations that measure times, as `EvaluationRecord` says it, the largest that is
        shown. memory_before_bytes: what the process held before its first step. And, if they could be
        measured, the metrics of OF_RUNS in `experiments.metrics`, see `measured`. Older records have tokens_per_second, a
        mean with warm-up and compilation, and peak_memory_bytes, of all runs that the process had done.
    sample: text sampled from the trained model.
    runs: {option of the objective: the run that it used}, as `experiments.start.Parent`; folders as seen from this run's.
    resumed: the optimizer step from which each later start of the run went on; 0 where no checkpoint could be used (`notes`).
    command: of a single run, the command that does it again.
    All times are in seconds.
    """

    version: Literal[1] = Field(default=1, alias="schema")
    status: Literal["running", "finished", "failed", "interrupted", "pruned"]
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
    metric_info: dict[str, Metric] = {}
    timing: dict[str, float] = {}
    sample: str = ""
    notes: list[str] = []
    failure: Failure | None = None
    runs: dict[str, dict[str, Any]] = later({})
    resumed: list[int] = later([])
    command: str = later("")

    @property
    def measured(self) -> dict[str, float]:
        """Speed and memory of the training as metrics (`experiments.metrics.OF_RUNS`); none before they were recorded."""
        return {name: self.timing[name] for name in OF_RUNS if name in self.timing}

    @property
    def facts(self) -> dict[str, str]:
        """{name: value as text} of what may decide a result beside the spec: machine, threads, code, versions, plug-ins, data."""
        facts: dict[str, Any] = {f"the machine's {name}": value for name, value in self.hardware.items()}
        facts[THREADS] = self.threads
        facts |= {"the code's commit": str(self.git["commit"])[:SHORT]} if "commit" in self.git else {}
        facts |= {"uncommitted changes of the code": self.git["dirty"]} if "dirty" in self.git else {}
        facts |= {_in_words(name): value for name, value in self.versions.items()}
        facts |= {f"the source of {module}": sha256[:SHORT] for module, sha256 in self.plugins.items()}
        facts |= {"the data": str(self.data["fingerprint"])[:SHORT]} if "fingerprint" in self.data else {}
        return {name: spelt(value) for name, value in facts.items()}

    def write(self, folder):
        """Write `record.json` atomically: a reader never sees a partial file."""
        write_record(self, Path(folder) / NAME)
        packed_file(Path(folder) / NAME).unlink(missing_ok=True)  # of a kept copy that goes on

    def write_first(self, folder):
        """Write `record.json` as `write` does, but only where there is none. Raises OSError, also where the record is there."""
        if (packed := packed_file(Path(folder) / NAME)).exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(packed))
        write_first(Path(folder) / NAME, json.dumps(self.dump(), indent=1, allow_nan=False).encode())

    @classmethod
    def read(cls, folder):
        """The record in a run's folder, or None if there is none. Raises SpecError or ValueError if it is broken."""
        found = read_record(cls, record_file(folder))
        return found or read_record(cls, record_file(folder))  # the packed one may have been replaced in between

    @classmethod
    def read_whole(cls, folder):
        """The record in a run's folder, or None if there is none or it cannot be read."""
        try:
            return cls.read(folder)
        except (OSError, ValueError):
            return None


def _in_words(name):
    """The name of an entry of `RunRecord.versions`: a package, the path of a kernel, or how the blocks run."""
    return "how the blocks run" if name == "blocks" else f"the {'path' if name.startswith('kernel ') else 'version'} of {name}"


class EvaluationRecord(Spec):
    """What was measured. identity, seed: the run's. values: {SPLIT/METRIC: number}, with what each is in `metric_info`.

    table: plain rows of a curve or a grid. charts: how they are drawn. text: to be read. seconds: what measuring took.
    pictures: what the model was shown, with what it said.
    others: the share of all cores' time that other programs took meanwhile, where times were measured and the system says so.
    documents: what was measured of each document. points: vectors to be looked at. Both are written beside the record, because
    they are longer than the rest and few readers need them.
    """

    version: Literal[1] = Field(default=1, alias="schema")
    split: str
    name: str
    evaluator: dict[str, Any]
    identity: str
    seed: int
    values: dict[str, float]
    metric_info: dict[str, Metric] = {}
    table: list[dict[str, Any]] = []
    text: str = ""
    seconds: float = 0.0
    others: float | None = later(None)
    documents: Documents | None = later(None)
    points: Points | None = later(None)
    charts: list[Chart] = later([])
    pictures: list[Picture] = later([])

    def write(self, folder: Path | str, file: str) -> None:
        """Write it below a run's folder, whole or not at all."""
        (Path(folder) / EVALUATIONS).mkdir(exist_ok=True)
        beside = documents_file(folder, file)
        if self.documents is not None:  # first: a record that is there has its documents
            write_atomically(beside, json.dumps(self.documents.dump(), allow_nan=False).encode())
        else:
            beside.unlink(missing_ok=True)
        packed_file(beside).unlink(missing_ok=True)  # of a kept copy that goes on
        for path, content in zip(points_files(folder, file), _tables(self.points), strict=True):
            if content is not None:
                write_atomically(path, content.encode())
            else:
                path.unlink(missing_ok=True)
        place = Path(folder) / EVALUATIONS / file
        write_record(self.model_copy(update={"documents": None, "points": None}), place)
        packed_file(place).unlink(missing_ok=True)


def documents_file(folder: Path | str, file: str) -> Path:
    """Where the documents of the evaluation `file` of a run are."""
    return Path(folder) / EVALUATIONS / f"{Path(file).stem}{DOCUMENTS}"


def packed_file(path: Path) -> Path:
    """Where a copy that is kept has a record or a file of an evaluation."""
    return path.with_name(f"{path.name}{PACKED}")


def as_it_lies(path: Path) -> Path:
    """A record or a file of an evaluation, or its packed one where only that is there."""
    packed = packed_file(path)
    return packed if packed.is_file() and not path.is_file() else path


def record_file(folder: Path | str) -> Path:
    """Where a run's record is, or would be."""
    return as_it_lies(Path(folder) / NAME)


def evaluation_files(folder: Path | str) -> dict[str, Path]:
    """{name: where it is} of the JSON files of a run's evaluations, sorted; what is packed has the name of what it was."""
    place = Path(folder) / EVALUATIONS
    names = sorted({path.name.removesuffix(PACKED) for path in place.iterdir()}) if place.is_dir() else []
    return {name: as_it_lies(place / name) for name in names if name.endswith(".json")}


def evaluation_file(folder: Path | str, file: str) -> Path:
    """Where the evaluation `file` of a run is, or would be."""
    return as_it_lies(Path(folder) / EVALUATIONS / file)


def evaluation_of(folder: Path | str, file: str) -> EvaluationRecord | None:
    """The evaluation `file` of a run; None if it has none. Raises SpecError or ValueError for a broken file."""
    return read_record(EvaluationRecord, evaluation_file(folder, file))


def points_files(folder: Path | str, file: str) -> tuple[Path, Path]:
    """Where the points of the evaluation `file` of a run are: their vectors, and what is known of each, tables as in `_tables`."""
    stem = Path(folder) / EVALUATIONS / Path(file).stem
    return stem.with_name(f"{stem.name}.vectors.tsv"), stem.with_name(f"{stem.name}.points.tsv")


def _tables(points: Points | None) -> tuple[str | None, str | None]:
    """The two files of points, as TensorBoard's projector reads them: a line per point, its numbers or texts with tabs between.

    White space in a text becomes one space. The second file has a line of names first, but if there is only one column: then the
    projector takes every line for a point.
    """
    if points is None:
        return None, None
    vectors = ["\t".join(f"{number:.6g}" for number in vector) for vector in points.vectors]
    rows = zip(*points.columns.values(), strict=True)
    about = [points.columns] if len(points.columns) > 1 else []
    lines = ["\t".join(" ".join(text.split()) for text in row) for row in [*about, *rows]]
    return "".join(f"{line}\n" for line in vectors), "".join(f"{line}\n" for line in lines)


def documents_of(folder: Path | str, file: str) -> Documents | None:
    """What the evaluation `file` of a run says of each document; None if nothing. Raises ValueError for a broken file."""
    return read_record(Documents, as_it_lies(documents_file(folder, file)))


def shown(record, folder, files, problems):
    """A run's record with the metrics of the evaluations `files`, {SPLIT.NAME: file}, in place of those of its own spec.

    What was measured when the run ended may be of another spec: other rows, other evaluators. Without files, or of a run
    that is not finished, the record as it is. Appends to `problems` what is missing or cannot be read.
    """
    if not files or record.status != "finished":
        return record
    values = {name: value for name, value in record.metrics.items() if name.startswith("train/")}
    info, timing = dict(record.metric_info), dict(record.timing)
    for key, name in files.items():
        file = evaluation_file(folder, name)
        try:
            evaluation = read_record(EvaluationRecord, file)
        except (OSError, ValueError) as error:
            problems.append(f"{file}: cannot be read: {reason_of(error, file)}")
            continue
        if evaluation is None:
            problems.append(f"{file}: missing; `archbench study run` measures {key}")
            continue
        values |= evaluation.values
        info |= evaluation.metric_info
        if evaluation.others is not None:
            timing["others"] = max(evaluation.others, timing.get("others", 0.0))
    return record.model_copy(update={"metrics": values, "metric_info": info, "timing": timing})


def with_performance(record):
    """A finished run's record with speed and memory among its metrics; any other as it is."""
    if record.status != "finished" or not record.measured:
        return record
    return record.model_copy(update={"metrics": record.metrics | record.measured})


def content_of(path: Path) -> Any:
    """What a JSON file, packed or not, holds. Raises OSError, or DataError for one that is not whole."""
    try:
        content = path.read_bytes()
        return json.loads(gzip.decompress(content) if path.suffix == PACKED else content)
    except (ValueError, gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{path}: not whole: {error}", key=None) from None


def write_record(record, path):
    """Write a record as JSON, atomically."""
    write_atomically(path, json.dumps(record.dump(), indent=1, allow_nan=False).encode())


def read_record(cls, path):
    """The record of class `cls` in a file, or None if there is no file. Raises OSError, or DataError or SpecError that name it."""
    if path.is_dir():
        raise DataError(f"{path}: expected a file, and it is a folder", key=None)
    if not path.is_file():
        return None
    data = content_of(path)
    try:
        return cls.model_validate(data)
    except ValidationError:
        # This says what is wrong, and takes ten times as long: large studies have 10,000 files.
        return cls.parse(node(data, str(path)))
