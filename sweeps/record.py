"""A study's record: `study.json` in its folder, from which a report is made."""

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from arch import units
from arch.spec import ABSENT, Count, List, Spec, later
from experiments.record import read_record, write_record
from sweeps.spec import DEFAULT_CLAIM, renamed

NAME = "study.json"


NOT_THERE = {"absent": True}  # ABSENT in JSON, where null is a value of its own


def packed(changes):
    """The differences of two specs (`arch.spec.diff`) for JSON: {dotted key: [value, value]}, NOT_THERE for ABSENT."""
    return {key: [NOT_THERE if value is ABSENT else value for value in pair] for key, pair in changes.items()}


def unpacked(changes):
    """What `packed` was given."""
    return {key: (_there(before), _there(after)) for key, (before, after) in changes.items()}


def _there(value):
    return ABSENT if value == NOT_THERE else value


class ArmRecord(Spec):
    """One arm. changes: how it differs from the baseline, as `packed`. cost: what `arch.cost` computes.

    resolved: whether `changes` compares resolved specs, in which every default is filled in. Older records compare the
    texts as written: there, null also stands for a key that is not written. unwritten: the keys of `changes` that only
    follow from the type of a component (see `arch.spec.unwritten`).
    identities: of its runs; the run with seed s has `identity_of(s)`. There are several where tuning with several seeds
    chose several values, and one otherwise. runs: seed -> the run's folder, relative to the study's folder.
    tuned: dotted key -> the value that each tuning seed chose, see `tuned_of`. bounds: dotted key -> the ends of its
    tuning range that are the key's own bounds, so that nothing lies beyond them. evaluations: SPLIT.NAME -> the file,
    in each run's folder of evaluations, that the study shows; none in records before these files.
    costs: {`cost/NAME`: number} of the costs that the study's claims and figures name (`sweeps.costs`). seeds: how many
    seeds it has or is to have so far; None: all. first_seed: from which they count. measured_by: {SPLIT/METRIC: the evaluator
    that measures it} of the metrics that claims read; none in older records.
    """

    changes: dict[str, list[Any]]
    resolved: bool = later(False)
    unwritten: list[str] = later([])
    cost: dict[str, Any]
    identities: Annotated[list[str], Field(min_length=1)]
    runs: dict[str, str]
    tuned: dict[str, Annotated[list[float], Field(min_length=1)]] = {}
    bounds: dict[str, list[float]] = later({})
    evaluations: dict[str, str] = {}
    costs: dict[str, float] = {}
    seeds: int | None = None
    first_seed: int = later(0)
    measured_by: dict[str, str] = {}

    @property
    def differences(self) -> dict[str, tuple[Any, Any]]:
        """{dotted key: (baseline value, own value)}, with ABSENT where one has no such key or, in an older record, wrote none."""
        known = unpacked(self.changes)
        if self.resolved:
            return known
        said = lambda value: ABSENT if value is None else value  # noqa: E731
        return {key: (said(before), said(own)) for key, (before, own) in known.items()}

    @property
    def listed(self) -> list[str]:
        """The keys of `differences` to show: those that do not merely follow from the type of a component."""
        return [key for key in self.changes if key not in self.unwritten]

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
    """One run of a trial of a search, or a trial that trained nothing (seed None).

    arm: the arm whose search it is (`tune`); empty for the study's own `search`. number: Optuna's. values: dotted key, or
    name of a dimension, -> a number, or the name of a choice. value: the first objective, None if the run has none.
    objectives: {metric: value} of all. constraints: {quantity: how far it lies above its limit; at most 0 is feasible}.
    why: why it failed, is infeasible or was pruned. run: the run's folder, empty if nothing was trained.
    """

    arm: str
    values: dict[str, float | str]
    seed: int | None
    value: float | None
    state: Literal["finished", "failed", "pruned", "running", "infeasible"]
    run: str = ""
    number: int | None = later(None)
    objectives: dict[str, float] = later({})
    constraints: dict[str, float] = later({})
    why: str = later("")


class MatchRecord(Spec):
    """What `match` made of one arm. target: the cost of the arm `to`, or a number (`to` is empty). varies: the dotted keys
    that could change; none for an arm that stays as written. values: those that were solved; none where the arm had the
    target's cost already. value: the arm's cost; residual: how far it is above the target, as a fraction of it.
    """

    arm: str
    quantity: str
    to: str
    target: float
    tolerance: float
    varies: List[str]
    values: dict[str, int]
    value: float
    residual: float

    @property
    def words(self):
        """`model.blocks.local.ffn.hidden = 184 makes cost/parameters 557,152: -0.04 % from 557,376 of 'griffin'`."""
        solved = ", ".join(f"{key} = {value}" for key, value in self.values.items())
        how = f"{solved} makes" if solved else "as written it has" if self.varies else "it is not varied and has"
        of = f" of {self.to!r}" if self.to else ""
        many = how.replace(" makes", " make") if len(self.values) > 1 else how
        return f"{many} {self.quantity} {self.value:,.0f}, {units.percent(self.residual)} from {self.target:,.0f}{of}"


class BudgetRecord(Spec):
    """The steps that `budget` gives an arm. kind: `flops`, `tokens` or `seconds`. amount: what it may spend; to: the arm whose
    own steps say so, or empty. spent: by these steps; residual: how far that is above the amount, as a fraction of it.
    step_seconds: of a step, as it was measured, and pace: the digest of what was measured; for `seconds` alone.
    """

    arm: str
    kind: Literal["flops", "tokens", "seconds"]
    amount: float
    to: str
    steps: Count
    spent: float
    residual: float
    step_seconds: float | None = None
    pace: str = ""

    @property
    def words(self):
        """`train.steps = 412 takes 1.93 TFLOP (ideal), +0.02 % from 1.93 TFLOP of 'base'`."""
        of = f" of {self.to!r}" if self.to else ""
        each = f" at {units.duration(self.step_seconds)} a step" if self.step_seconds else ""
        ideal = " (ideal)" if self.kind == "flops" else ""  # beside a table that has executed ones too
        took = f"train.steps = {self.steps} takes {self.taken}{ideal}{each}"
        return f"{took}, {units.percent(self.residual)} from {self._printed(self.amount)}{of}"

    @property
    def taken(self):
        """What was spent, with its unit."""
        return self._printed(self.spent)

    def _printed(self, number):
        if self.kind == "tokens":
            return f"{units.count(number)} tokens"
        return units.flops(number) if self.kind == "flops" else units.duration(number)


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

    why: what of the plan changed since. stated: a digest of all that the study stated then; empty in older records.
    """

    plan: PlanRecord
    looks: list[LookRecord]
    study: str = ""
    why: str = ""
    stated: str = later("")


class Origin(Spec):
    """Where a study was written: the path of its file, relative to the study's folder, or the name of a `shipped` study.

    content: digest of the whole study, every scale included.
    """

    file: str | None = None
    shipped: str | None = None
    content: str


class StudyRecord(Spec):
    """A study at one scale: the question, the arms and the folders of their runs. The first arm is the baseline.

    origin: where it was written; None in older records. remarks: what is probably not meant (`experiments.remarks`).
    claims: name -> the resolved claim. edges: sentences about tuned values at an end of their range.
    choices: sentences about tuned values that were not chosen in the usual way, because runs of the search failed.
    helpers: {helper run: {seed: its folder}}; helper runs were made because an arm needs them and are not reported.
    helper_evaluations: {helper run: {SPLIT.NAME: file}}, what the study measures of each, as `ArmRecord.evaluations`.
    command: the command that starts the study again. seeds: 0, 1, ..., as many as some arm has had so far, counted from the
    first seed of each arm (`seeds_of`). plan: when its verdicts
    may be read, as stated before the runs; none in older records, which were read once. looks: those that were taken.
    earlier: plans that were looked at before this one, at some of the same runs: the study is then exploratory.
    matched: what `match` made of each arm. budget: the steps that `budget` gave it.
    search: of a study with `search`: {objectives, constraints, space, base: the arm, sampler, pruner, trials, seeds, front:
    numbers of trials, winners: {label: number of its trial}, widened: {dimension: its range now}, study: Optuna's name of it}.
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
    helper_evaluations: dict[str, dict[str, str]] = later({})
    tune_space: dict[str, Any] = {}
    edges: list[str] = []
    choices: list[str] = later([])
    command: str = ""
    plan: PlanRecord | None = None
    looks: list[LookRecord] = []
    earlier: list[EarlierRecord] = []
    origin: Origin | None = later(None)
    remarks: list[str] = later([])
    matched: list[MatchRecord] = later([])
    search: dict[str, Any] = later({})
    budget: list[BudgetRecord] = later([])

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

    @property
    def first_seeds(self) -> dict[str, int]:
        """{label: first seed} of the arms whose seeds do not count from 0."""
        return {label: arm.first_seed for label, arm in self.arms.items() if arm.first_seed}

    def seeds_of(self, label: str) -> list[int]:
        """The seeds that an arm has, or is to have so far."""
        arm = self.arms[label]
        return [arm.first_seed + place for place in self.seeds[: arm.seeds]]

    @property
    def bare_command(self) -> str:
        """`command` without `--runs`: where somebody's runs are is no part of the study."""
        return re.sub(r" --runs[ =]\S+", "", self.command)

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
