"""The API for notebooks: `Study(folder).runs()` and `run(folder).spec`."""

from dataclasses import dataclass
from pathlib import Path

from analysis import tables
from analysis.claims import judge
from analysis.runs import load
from arch.errors import DataError
from experiments.record import RunRecord
from experiments.spec import ExperimentSpec


class Study:
    """A study's folder. Every call reads it again, so that a running study can be watched."""

    def __init__(self, folder):
        self.folder = Path(folder)

    @property
    def record(self):
        """The StudyRecord."""
        return load(self.folder).record

    def runs(self):
        """A DataFrame with one row per arm and seed (StudyData.runs)."""
        return load(self.folder).runs

    def history(self):
        """A long DataFrame of all curves (StudyData.curves)."""
        return load(self.folder).curves

    def judgement(self, claim=None):
        """The verdicts and the answer of the first claim, or of a named one (claims.Judgement)."""
        return judge(load(self.folder), claim)

    def table(self, claim=None):
        """The results table of the same claim, unrounded (tables.Results.frame)."""
        study = load(self.folder)
        return tables.results(study, judge(study, claim)).frame


@dataclass(frozen=True)
class Run:
    """One run's folder and its record."""

    folder: Path
    record: RunRecord

    @property
    def spec(self):
        """The resolved ExperimentSpec."""
        return ExperimentSpec.parse(self.record.spec)

    def model(self):
        """The trained model (arch.model.Model). Only this method needs torch."""
        from experiments.checkpoint import load_model

        return load_model(self.folder)


def run(folder):
    """The Run of a folder. Raises DataError if the folder has no record."""
    record = RunRecord.read(folder)
    if record is None:
        raise DataError(f"{folder}: no record of a run in it")
    return Run(Path(folder), record)
