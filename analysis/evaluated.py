"""What evaluators measured of the runs of a study, or of one run: read from their folders, and put side by side.

A run's folder of evaluations holds one file each, also of evaluators that no spec asks for and that were measured later.
Files of the same SPLIT.NAME with the same options belong together: one `Evaluated`, with what every arm has of it. How a
table is drawn, its charts say (`arch.contracts.Chart`); nothing here knows an evaluator.
"""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from arch.contracts import Chart, Metric
from arch.spec import ABSENT, diff, spelt
from experiments.record import EvaluationRecord, evaluation_files, read_record
from sweeps.compare import off_scale, on_scale
from sweeps.stats import Estimate, mean_interval

# RUN/evaluations/SPLIT.NAME-DIGEST.json; what is measured of each document lies beside it and is another file.
FILE = re.compile(r"(?P<key>.+)-(?P<digest>[0-9a-f]{12})\.json")


class Run(NamedTuple):
    """A folder to read. identity: of its run; None for a checkpoint that is no run. shown: files that its study shows.

    reused: whether the run is another study's, which may have measured the same with other options.
    """

    folder: Path
    identity: str | None
    shown: Iterable[str] = ()
    reused: bool = False

    def asked_elsewhere(self, file: str) -> bool:
        """Whether a file is what another study asked where this one asks the same SPLIT.NAME with other options."""
        key = file.rpartition("-")[0]
        return self.reused and file not in self.shown and any(each.rpartition("-")[0] == key for each in self.shown)


@dataclass(frozen=True)
class Evaluated:
    """One evaluator with one set of options, on one split, of every arm.

    evaluator: the options. options: those in which it differs from others of the same SPLIT.NAME, in words; empty if there
    are no others. digest: as in the files' names. records: {arm: {seed: EvaluationRecord}}, without arms that have none.
    absent: arms that have none. older: how many files were left out because another version of the evaluator, with the same
    options, wrote them. charts: those that can be drawn of its tables.
    """

    split: str
    name: str
    evaluator: dict[str, Any]
    digest: str
    records: dict[str, dict[int, EvaluationRecord]]
    absent: tuple[str, ...] = ()
    options: str = ""
    older: int = 0
    charts: tuple[Chart, ...] = ()
    metric_info: dict[str, Metric] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """SPLIT.NAME."""
        return f"{self.split}.{self.name}"

    @property
    def stem(self) -> str:
        """How files and figures of it are called: unique in a study."""
        return f"evaluation-{self.key}{f'-{self.digest}' if self.options else ''}"

    @property
    def tag(self) -> str:
        """How it is called in TensorBoard: NAME for the report split, else SPLIT.NAME; with the options where there are several."""
        name = self.name if self.split == "report" else self.key
        return f"{name} ({self.options})" if self.options else name

    @property
    def has_rows(self) -> bool:
        """Whether some table has a row."""
        return any(record.table for records in self.records.values() for record in records.values())

    @property
    def frame(self) -> pd.DataFrame:
        """Every row of every table: arm, seed, then the table's columns (`table.arm` if a table has an `arm` of its own)."""
        clash = {"arm": "table.arm", "seed": "table.seed"}
        runs = [(arm, seed, record.table) for arm, records in self.records.items() for seed, record in records.items()]
        rows = pd.DataFrame([row for _, _, table in runs for row in table]).rename(columns=clash)
        if self.has_rows:
            counts = [len(table) for _, _, table in runs]
            rows.insert(0, "arm", np.repeat(np.array([arm for arm, _, _ in runs], dtype=object), counts))
            rows.insert(1, "seed", np.repeat([seed for _, seed, _ in runs], counts))
        return rows

    def only(self, arms: Iterable[str]) -> "Evaluated":
        """The same of some arms only."""
        kept = set(arms)
        records = {arm: runs for arm, runs in self.records.items() if arm in kept}
        return replace(self, records=records, absent=tuple(arm for arm in self.absent if arm in kept))

    def of(self, arm: str) -> list[EvaluationRecord]:
        """The records of an arm, by seed."""
        return list(self.records.get(arm, {}).values())

    @property
    def metrics(self) -> list[str]:
        """Its metrics, SPLIT/NAME, in the order in which records have them."""
        return list(dict.fromkeys(name for runs in self.records.values() for record in runs.values() for name in record.values))

    def estimate(self, arm: str, metric: str) -> Estimate:
        """A metric's mean over an arm's seeds with its 95 % interval, formed on the scale of `sweeps.compare`."""
        values = [record.values[metric] for record in self.records[arm].values() if metric in record.values]
        kind = self.metric_info.get(metric, Metric())
        if kind.compare == "ratio" and any(value <= 0 for value in values):
            kind = Metric()
        found = mean_interval([on_scale(value, kind) for value in values])
        mean, low, high = (off_scale(end, kind) for end in (found.mean, found.low, found.high))
        return Estimate(mean, low, high, found.n)

    def points(self, arm: str, seed: int, chart: Chart) -> pd.DataFrame:
        """The rows of one run's table that a chart draws: its `places`, and `height`; none if the run was not measured."""
        record = self.records.get(arm, {}).get(seed)
        return _points(record.table if record else [], chart)

    def over_seeds(self, chart: Chart) -> dict[str, pd.DataFrame]:
        """{arm: a row per point, cell or bar of a chart}: its `places`, then mean, low, high (least and most seed) and n.

        Of an arm's rows that all its seeds have; of all rows where they share none. Rows with the same place in one table
        count as their mean. Arms without a row are left out.
        """
        found = {}
        for arm, runs in self.records.items():
            parts = [self.points(arm, seed, chart).assign(seed=seed) for seed in runs]
            points = pd.concat(parts, ignore_index=True)
            if points.empty:
                continue
            by_seed = points.pivot_table(index=list(places(chart)), columns="seed", values="height", aggfunc="mean", sort=False)
            shared = by_seed.dropna()
            values = shared if len(shared) else by_seed
            ends = {"mean": values.mean(axis=1), "low": values.min(axis=1), "high": values.max(axis=1), "n": values.count(axis=1)}
            found[arm] = pd.DataFrame(ends).reset_index()
        return found


def places(chart: Chart) -> dict[str, str]:
    """{by, x, y, to: column} of the columns that say where a row of a table stands in a chart; `by` only if there is one."""
    columns = {"by": chart.by} if chart.by else {}
    if chart.kind == "grid":
        return columns | {"y": chart.y, "x": chart.x}
    return columns | ({"x": chart.x, "to": chart.to} if chart.kind == "histogram" else {"x": chart.x})


def height(chart: Chart) -> str:
    """The column that a chart shows at these places."""
    return chart.value if chart.kind == "grid" else chart.y


def label(chart: Chart, column: str) -> str:
    """What stands at the axis of a column."""
    return chart.labels.get(column) or column.replace("_", " ")


def title(chart: Chart) -> str:
    """What a chart shows, a few words."""
    text = chart.title or f"{label(chart, height(chart))} by {label(chart, chart.x)}"
    return text[:1].upper() + text[1:]


def number(value: Any) -> float | None:
    """A value of a table as a finite number, or None."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value) if math.isfinite(value) else None


def _points(table: list[dict[str, Any]], chart: Chart) -> pd.DataFrame:
    """The rows of one table that a chart draws: its `places`, and `height`."""
    where, what, rows = places(chart), height(chart), []
    for row in table:
        point: dict[str, float | str | None] = {role: number(row.get(column)) for role, column in where.items()}
        point["height"] = number(row.get(what))
        if "by" in point and point["by"] is None and row.get(chart.by) is not None:
            point["by"] = str(row[chart.by])
        if all(value is not None for value in point.values()):
            rows.append(point)
    return pd.DataFrame(rows, columns=[*where, "height"])


def wrong(chart: Chart, tables: list[list[dict[str, Any]]]) -> str:
    """What is wrong with a chart of these tables, a clause; empty if nothing is."""
    extra = {"grid": {"value": chart.value}, "histogram": {"to": chart.to}}.get(chart.kind, {})
    for option, column in extra.items():
        if not column:
            return f"a {chart.kind} names a column `{option}`, and this one does not"
    rows = [row for table in tables for row in table]
    for column in (*places(chart).values(), height(chart)):
        if rows and not any(column in row for row in rows):
            columns = list(dict.fromkeys(key for row in rows for key in row))
            return f"no column {column!r} in its table, which has {', '.join(columns) or 'none'}"
        values = [row[column] for row in rows if row.get(column) is not None and column != chart.by]
        doubtful = [value for value in values if type(value) is not float or not math.isfinite(value)]  # `number` takes longer
        if not_numbers := [value for value in doubtful if number(value) is None]:
            return f"column {column!r} has {not_numbers[0]!r} where a number is expected"
    if rows and not any(_drawable(chart, table) for table in tables):
        return "no row of its table has a value in every column that it draws"
    return ""


def _drawable(chart: Chart, table: list[dict[str, Any]]) -> bool:
    """Whether a table has a row that the chart shows."""
    named = [chart.x, chart.y, height(chart), *([chart.to] if chart.kind == "histogram" else [])]
    return all(named) and not _points(table, chart).empty


def read(runs: Mapping[tuple[str, int], Run], arms: Iterable[str], problems: list[str]) -> list[Evaluated]:
    """What was measured of finished runs, {(arm, seed): Run}, in the order of the keys SPLIT.NAME as they are met.

    arms: every arm, so that it is known which have nothing. Appends to `problems` what cannot be read or drawn.
    """
    found: dict[str, dict[str, _Files]] = {}
    for (arm, seed), run in runs.items():
        for name, file in evaluation_files(run.folder).items():
            parts = FILE.fullmatch(name)
            record = _record(file, run, problems) if parts and not run.asked_elsewhere(name) else None
            if parts and record is not None:
                files = found.setdefault(f"{record.split}.{record.name}", {}).setdefault(parts["digest"], _Files())
                files.records.setdefault(arm, {})[seed] = record
                files.paths.append(file)
                files.shown |= name in run.shown
    everything, arms = [], list(arms)
    for key in sorted(found, key=lambda key: not key.startswith("report.")):
        everything += _groups(found[key], arms, problems)
    return everything


@dataclass
class _Files:
    """The files of one name. shown: whether a study asks for them."""

    records: dict[str, dict[int, EvaluationRecord]] = field(default_factory=dict)
    paths: list[Path] = field(default_factory=list)
    shown: bool = False

    @property
    def first(self) -> EvaluationRecord:
        return next(record for runs in self.records.values() for record in runs.values())

    @property
    def newest(self) -> float:
        return max(path.stat().st_mtime for path in self.paths)


def _record(file: Path, run: Run, problems: list[str]) -> EvaluationRecord | None:
    """The record in a file; None, and a problem, if it cannot be used."""
    try:
        record = read_record(EvaluationRecord, file)
    except (OSError, ValueError) as error:
        if not any(problem.startswith(f"{file}: ") for problem in problems):  # the study reads some of them too
            problems.append(f"{file}: cannot be read: {error}")
        return None
    if record is not None and run.identity is not None and record.identity != run.identity:
        problems.append(f"{file}: it is of another run than the record beside it; left out")
        return None
    return record


def _groups(files: dict[str, _Files], arms: list[str], problems: list[str]) -> list[Evaluated]:
    """The Evaluated of one SPLIT.NAME. files: {digest: _Files}."""
    kept: dict[str, _Files] = {}
    older: dict[str, int] = {}
    for digest, each in sorted(files.items(), key=lambda item: (item[1].shown, item[1].newest), reverse=True):
        same = next((other for other in kept if kept[other].first.evaluator == each.first.evaluator), None)
        if same is None:
            kept[digest], older[digest] = each, 0
        else:
            older[same] += len(each.paths)
    options = _differing({digest: kept[digest].first.evaluator for digest in files if digest in kept})
    return [_evaluated(digest, kept[digest], arms, said, older[digest], problems) for digest, said in options.items()]


def _differing(evaluators: dict[str, dict[str, Any]]) -> dict[str, str]:
    """{digest: `rows: 64, context: 512`}, the options in which evaluators differ; empty where there is only one."""
    first = next(iter(evaluators.values()))
    differences = {digest: diff(first, evaluator) for digest, evaluator in evaluators.items()}
    keys = list(dict.fromkeys(key for each in differences.values() for key in each))
    base = {key: next(each[key][0] for each in differences.values() if key in each) for key in keys}
    values = {digest: {key: each[key][1] if key in each else base[key] for key in keys} for digest, each in differences.items()}
    return {
        digest: ", ".join(f"{key}: {spelt(value)}" for key, value in own.items() if value is not ABSENT)
        or (f"type: {evaluators[digest].get('type')}" if keys else "")
        for digest, own in sorted(values.items(), key=lambda item: [_order(value) for value in item[1].values()])
    }


def _order(value: Any) -> tuple[bool, float, str]:
    """Numbers by size, then texts."""
    return number(value) is None, number(value) or 0.0, str(value)


def _evaluated(digest: str, files: _Files, arms: list[str], options: str, older: int, problems: list[str]) -> Evaluated:
    records = [record for runs in files.records.values() for record in runs.values()]
    charts: list[Chart] = []
    for chart in (chart for record in records for chart in record.charts):
        if chart not in charts:
            charts.append(chart)
    drawn = []
    for chart in charts:
        tables = [record.table for record in records]
        reason = wrong(chart, tables)
        if any(_drawable(chart, table) for table in tables):
            drawn.append(chart)
        if reason:
            left = "such rows are left out of the chart" if chart in drawn else "the chart is not drawn"
            problems.append(f"{files.paths[0]}: {left} {chart.title or chart.kind!r}: {reason}")
    return Evaluated(
        split=files.first.split,
        name=files.first.name,
        evaluator=files.first.evaluator,
        digest=digest,
        records={arm: dict(sorted(files.records[arm].items())) for arm in arms if arm in files.records},
        absent=tuple(arm for arm in arms if arm not in files.records),
        options=options,
        older=older,
        charts=tuple(drawn),
        metric_info={name: metric for record in records for name, metric in record.metric_info.items()},
    )
