"""A study's record: `study.json` in its folder, from which a report is made."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from arch.spec import Count, List, Spec, later
from experiments.record import read_record, write_record
from sweeps.spec import DEFAULT_CLAIM, renamed

NAME = "study.json"


class ArmRecord(Spec):
    """One arm. changes: dotted key -> [baseline value, this arm's value], as written. cost: what `arch.cost` computes.

    runs: seed -> the run's folder, relative to the study's folder. tuned: the values that tuning chose. evaluations:
    SPLIT.NAME -> the file, in each run's folder of evaluations, that the study shows; none in records before these files.
    costs: {`cost/NAME`: number} of the costs that the study's claims and figures name (`sweeps.costs`). seeds: how many
    seeds it has or is to have so far; None: all.
    """

    changes: dict[str, list[Any]]
    cost: dict[str, Any]
    identity: str
    runs: dict[str, str]
    tuned: dict[str, float] = {}
    evaluations: dict[str, str] = {}
    costs: dict[str, float] = {}
    seeds: int | None = None


class TrialRecord(Spec):
    """One run of a tuning trial. value: the tuning metric, None if the run has none. run: the run's folder."""

    arm: str
    values: dict[str, float]
    seed: int
    value: float | None
    state: Literal["finished", "failed", "pruned", "running"]
    run: str


class PlanRecord(Spec):
    """When the verdicts may be read: the numbers of seeds of its looks, and how many questions share the error."""

    looks: List[Count]
    questions: Annotated[int, Field(ge=0)]


class LookRecord(Spec):
    """A look that was taken. words: {claim: {subject: word}}, without those that had none yet."""

    seeds: int
    time: str
    words: dict[str, dict[str, str]]


class EarlierRecord(Spec):
    """An earlier plan of which looks were taken at some of the same runs. study: its folder, if it is another study's.

    why: what of the plan changed since.
    """

    plan: PlanRecord
    looks: list[LookRecord]
    study: str = ""
    why: str = ""


class StudyRecord(Spec):
    """A study at one scale: the question, the arms and the folders of their runs. The first arm is the baseline.

    claims: name -> the resolved claim. edges: sentences about tuned values at an end of their range.
    helpers: {helper run: {seed: its folder}}; helper runs were made because an arm needs them and are not reported.
    command: the command that starts the study again. seeds: those that some arm has had so far. plan: when its verdicts
    may be read, as stated before the runs; none in older records, which were read once. looks: those that were taken.
    earlier: plans that were looked at before this one, at some of the same runs: the study is then exploratory.
    """

    version: Literal[1] = Field(default=1, alias="schema")
    name: str
    scale: str | None
    question: str
    arms: dict[str, ArmRecord]
    seeds: list[int]
    spec: dict[str, Any]
    claims: dict[str, dict[str, Any]]
    long_context: int
    larger_scale: str | None = None
    trials: list[TrialRecord] = []
    helpers: dict[str, dict[str, str]] = later({})
    tune_space: dict[str, Any] = {}
    edges: list[str] = []
    command: str = ""
    plan: PlanRecord | None = None
    looks: list[LookRecord] = []
    earlier: list[EarlierRecord] = []

    @model_validator(mode="before")
    @classmethod
    def _one_claim(cls, data):
        """Records used to have a single claim, always against the baseline; and that claim had another name."""
        if not isinstance(data, dict):
            return data
        if isinstance(data.get("claim"), dict):
            data = {**data, "claims": {"claim": {"type": DEFAULT_CLAIM, **data["claim"]}}}
            del data["claim"]
        if isinstance(data.get("claims"), dict):
            data = {**data, "claims": {name: renamed(each) for name, each in data["claims"].items()}}
        return data

    def write(self, folder):
        """Write `study.json` atomically: whole or not at all."""
        write_record(self, Path(folder) / NAME)

    @classmethod
    def read(cls, folder):
        """The record in a study's folder, or None if there is none."""
        return read_record(cls, Path(folder) / NAME)

    @classmethod
    def read_whole(cls, folder):
        """The record in a study's folder, or None if there is none or it cannot be read."""
        try:
            return cls.read(folder)
        except (OSError, ValueError):
            return None
