"""What is exported: runs with their curves, and where they come from, the same for every format."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from analysis import run_report
from analysis.claims import Judgement, judgements
from analysis.runs import StudyData, curve_of_run, load
from arch.errors import DataError
from experiments.record import RunRecord, record_file
from sweeps.record import NAME as STUDY


@dataclass(frozen=True)
class ExportedRun:
    """One run. arm: its arm, or what a single run is called. metrics: {SPLIT/METRIC: number}, with speed and memory.

    curve: a row per logged step, with the columns that the run has; None without one. verdict: the arm's, of the first claim.
    """

    arm: str
    record: RunRecord
    metrics: Mapping[str, float]
    curve: pd.DataFrame | None
    verdict: str = ""

    @property
    def name(self) -> str:
        """`5:1 seed 0`."""
        return f"{self.arm} seed {self.record.seed}"

    @property
    def options(self) -> dict[str, Any]:
        """The resolved spec with the seed as {dotted key: value}."""
        return {"seed": self.record.seed, **flat(self.record.spec)}

    def points(self) -> list[tuple[int, dict[str, float]]]:
        """[(step, {column: number})] of its curve, without what is not there at a step."""
        if self.curve is None:
            return []
        numbers = self.curve.drop(columns=["arm", "seed"], errors="ignore").select_dtypes("number")
        steps = numbers.pop("step").astype(int).tolist()
        rows = ({key: float(value) for key, value in row.items() if pd.notna(value)} for row in numbers.to_dict("records"))
        return list(zip(steps, rows, strict=True))


@dataclass(frozen=True)
class Exported:
    """A study, or a single run. name: of the project or experiment. about: sentences: the question and the answer.

    study, judged: the study and its Judgements; None and none for a single run.
    """

    folder: Path
    name: str
    about: tuple[str, ...]
    runs: tuple[ExportedRun, ...]
    study: StudyData | None = None
    judged: tuple[Judgement, ...] = ()


def exported(folder: Path | str) -> Exported:
    """What is exported of the folder of a study or of a run. Raises DataError for any other folder."""
    folder = Path(folder)
    if not (folder / STUDY).is_file() and record_file(folder).is_file():
        return _single(folder)
    study = load(folder)
    judged = tuple(judgements(study))
    curves = dict(iter(study.curves.groupby(["arm", "seed"], sort=False))) if len(study.curves) else {}
    first = judged[0] if judged else None
    runs = tuple(
        ExportedRun(
            arm,
            record,
            study.metrics.get((arm, seed), {}),
            curves[arm, seed].dropna(axis="columns", how="all") if (arm, seed) in curves else None,
            first.word(arm) if first and first.per_arm else "",
        )
        for (arm, seed), record in study.records.items()
    )
    name = f"{study.record.name}{f' {study.record.scale}' if study.record.scale else ''}"
    said = [text for each in judged for text in each.sentences]
    return Exported(folder, name, tuple(dict.fromkeys([study.record.question, *said])), runs, study, judged)


def _single(folder: Path) -> Exported:
    try:
        record = RunRecord.read(folder)
    except (OSError, ValueError) as error:
        raise DataError(f"{record_file(folder)}: cannot be read: {error}", key=None) from None
    assert record is not None
    name = run_report.called(folder.resolve())
    arm = name.rpartition("/")[0] or name
    run = ExportedRun(arm, record, {**record.metrics, **record.measured}, curve_of_run(folder))
    return Exported(folder, arm, (), (run,))


def flat(data: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Nested plain data as {dotted key: scalar or list}."""
    found: dict[str, Any] = {}
    for key, value in data.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{above}{key}.")
        else:
            found[f"{above}{key}"] = value
    return found
