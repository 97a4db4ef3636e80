"""A study's record: `study.json` in its folder, from which a report is made."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from arch.spec import Spec, later
from experiments.record import read_record, write_record
from sweeps.spec import DEFAULT_CLAIM

NAME = "study.json"


class ArmRecord(Spec):
    """One arm. changes: dotted key -> [baseline value, this arm's value], as written. cost: what `arch.cost` computes.

    identities: of its runs; the run with seed s has `identity_of(s)`. There are several where tuning with several seeds
    chose several values, and one otherwise. runs: seed -> the run's folder, relative to the study's folder.
    tuned: dotted key -> the value that each tuning seed chose, see `tuned_of`. bounds: dotted key -> the ends of its
    tuning range that are the key's own bounds, so that nothing lies beyond them. evaluations: SPLIT.NAME -> the file,
    in each run's folder of evaluations, that the study shows; none in records before these files.
    """

    changes: dict[str, list[Any]]
    cost: dict[str, Any]
    identities: Annotated[list[str], Field(min_length=1)]
    runs: dict[str, str]
    tuned: dict[str, Annotated[list[float], Field(min_length=1)]] = {}
    bounds: dict[str, list[float]] = later({})
    evaluations: dict[str, str] = {}

    @model_validator(mode="before")
    @classmethod
    def _one_for_all_seeds(cls, data):
        """Records used to have one identity, and one tuned value per key, for all seeds."""
        if isinstance(data, dict) and "identity" in data:
            data = {**data, "identities": [data["identity"]]}
            del data["identity"]
        if isinstance(data, dict) and isinstance(data.get("tuned"), dict):
            tuned = {key: value if isinstance(value, list) else [value] for key, value in data["tuned"].items()}
            data = {**data, "tuned": tuned}
        return data

    def identity_of(self, seed: int) -> str:
        """The identity of the run with this seed."""
        return self.identities[seed % len(self.identities)]

    def tuned_of(self, seed: int) -> dict[str, float]:
        """{dotted key: value} of the tuned keys in the run with this seed."""
        return {key: values[seed % len(values)] for key, values in self.tuned.items()}


class TrialRecord(Spec):
    """One run of a tuning trial. value: the tuning metric, None if the run has none. run: the run's folder."""

    arm: str
    values: dict[str, float]
    seed: int
    value: float | None
    state: Literal["finished", "failed", "pruned", "running"]
    run: str


class StudyRecord(Spec):
    """A study at one scale: the question, the arms and the folders of their runs. The first arm is the baseline.

    claims: name -> the resolved claim. edges: sentences about tuned values at an end of their range.
    choices: sentences about tuned values that were not chosen in the usual way, because runs of the search failed.
    helpers: {helper run: {seed: its folder}}; helper runs were made because an arm needs them and are not reported.
    command: the command that starts the study again.
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
    choices: list[str] = later([])
    command: str = ""

    @model_validator(mode="before")
    @classmethod
    def _one_claim(cls, data):
        """Records used to have a single claim, always against the baseline."""
        if isinstance(data, dict) and isinstance(data.get("claim"), dict):
            data = {**data, "claims": {"claim": {"type": DEFAULT_CLAIM, **data["claim"]}}}
            del data["claim"]
        return data

    def write(self, folder):
        """Write `study.json` atomically: whole or not at all."""
        write_record(self, Path(folder) / NAME)

    @classmethod
    def read(cls, folder):
        """The record in a study's folder, or None if there is none."""
        return read_record(cls, Path(folder) / NAME)
