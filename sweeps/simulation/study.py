"""One study that is drawn and not trained, judged by the functions that judge real ones.

Losses have a part that all arms of a seed share (SEED_SD) and one of the run itself, so that the paired difference of two
arms has the standard deviation PAIRED_SD. All differences go through the baseline, so they are correlated by a half.
"""

from collections.abc import Callable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache

import numpy as np

from arch.contracts import SeedsNeeded
from experiments.metrics import NEXT_TOKEN
from experiments.record import Failure, RunRecord
from sweeps import stats
from sweeps.judge import Ruling, counted, judge
from sweeps.looking import next_counts
from sweeps.record import ArmRecord, PlanRecord, StudyRecord

# In nats per token, so 0.01 is about 1 % of the perplexity.
SEED_SD, PAIRED_SD = 0.04, 0.012
LOSS = 4.0
METRIC = "report/loss"
SIZE = "cost/train_flops"


def normal(random, shape):
    """Noise with a mean of 0 and a standard deviation of 1, as every noise here."""
    return random.normal(0, 1, shape)


@dataclass(frozen=True)
class Failing:
    """Runs of some arms fail, each with this chance, and those that fail would have been worse by `worse` nats.

    by_machine: the machine is to blame; such a run is run again with the same result.
    """

    arms: tuple[str, ...]
    chance: float
    worse: float = 0.0
    by_machine: bool = False


@dataclass(frozen=True)
class Outcome:
    """How a study ended. rulings: {claim: Ruling}. seeds: {arm: how many seeds it had}. lost: {arm: how many of them failed}."""

    rulings: Mapping[str, Ruling]
    seeds: Mapping[str, int]
    lost: Mapping[str, int]

    def verdict(self, subject, claim=None):
        """The Verdict on a subject, by default of the first claim; None if it has none yet."""
        rulings = self.rulings[claim or next(iter(self.rulings))]
        return rulings.verdicts.get(subject)

    def word(self, subject, claim=None):
        """The word on a subject, or an empty text."""
        verdict = self.verdict(subject, claim)
        return verdict.word if verdict else ""


@dataclass(frozen=True, eq=False)
class Scenario:
    """A study to draw many times, and what is counted.

    arms: {label: how much worse its loss truly is than LOSS, in nats}, the baseline first. claims: as in a study. plans:
    tuples of looks. A study has one; with several the runs are read under each of them, and nothing pays for that.
    rows: {what is counted: function of the Outcomes, one per plan}. at_most, expected: what the rows should be.
    table, column: where the numbers stand. failing: which runs fail; repeated: those were run again. exponential: the arms'
    numbers are the logarithms of losses. sizes: {arm: training FLOPs}. first_seeds: {arm: the first of its seeds}, if not 0.
    """

    table: str
    column: str
    arms: Mapping[str, float]
    claims: Mapping[str, dict]
    plans: tuple[tuple[int, ...], ...]
    rows: Mapping[str, Callable[..., float]]
    at_most: float | None = None
    expected: Mapping[str, float] = field(default_factory=dict)
    noise: Callable = normal
    failing: Failing | None = None
    repeated: bool = False
    exponential: bool = False
    sizes: Mapping[str, float] = field(default_factory=dict)
    first_seeds: Mapping[str, int] = field(default_factory=dict)

    @property
    def name(self):
        """A name that is unique: it decides the random numbers."""
        return f"{self.table} / {self.column} / {next(iter(self.rows))}"

    @property
    def share(self):
        """The part of the usual number of studies: half for what takes long, and for what is no promise."""
        return 0.5 if self.at_most is None or any(len(plan) > 1 for plan in self.plans) else 1.0


@cache
def _record(scenario, plan, seeds):
    """The StudyRecord of a study that has had `seeds` seeds so far."""
    sizes = {label: {SIZE: size} for label, size in scenario.sizes.items()}
    arms = {}
    for label in scenario.arms:
        first = scenario.first_seeds.get(label, 0)
        facts = {"changes": {}, "cost": {}, "runs": {str(first + i): "" for i in range(seeds)}, "first_seed": first}
        arms[label] = ArmRecord(identities=[label], costs=sizes.get(label, {}), **facts)
    planned = PlanRecord(looks=plan, questions=counted(scenario.claims, arms))
    more = {"name": "simulated", "scale": None, "question": scenario.table, "spec": {}, "long_context": 1, "schema": 1}
    return StudyRecord(arms=arms, seeds=list(range(seeds)), claims=dict(scenario.claims), plan=planned, **more)


FINISHED = RunRecord(schema=1, status="finished", identity="", seed=0, spec={}, metric_info={METRIC: NEXT_TOKEN["loss"]})
FAILED = RunRecord(schema=1, status="failed", identity="", seed=0, spec={})
NOT_FINITE = Failure(step=9, error="NonFinite", message="the loss is not finite")
KILLED = Failure(step=9, error="OSError", message="no space left on device")


def drawn(scenario, random):
    """{(arm, seed): RunRecord} up to the last look of the plans."""
    seeds, labels = max(max(plan) for plan in scenario.plans), list(scenario.arms)
    shape = len(labels), seeds
    firsts = [scenario.first_seeds.get(label, 0) for label in labels]
    of_seeds = {first: SEED_SD * random.normal(0, 1, seeds) for first in dict.fromkeys([0, *firsts])}
    values = np.array(list(scenario.arms.values()))[:, None] + np.stack([of_seeds[first] for first in firsts])
    values = values + PAIRED_SD / np.sqrt(2) * scenario.noise(random, shape)
    failing = scenario.failing
    fails = np.zeros(shape, dtype=bool)
    if failing:
        fails = (random.uniform(size=shape) < failing.chance) & np.isin(labels, failing.arms)[:, None]
        values = values + failing.worse * fails
    losses = np.exp(values) if scenario.exponential else LOSS + values
    failure = KILLED if failing and failing.by_machine else NOT_FINITE
    runs = {}
    for (i, place), loss in np.ndenumerate(losses):
        changes = {"failure": failure} if fails[i, place] and not scenario.repeated else {"metrics": {METRIC: float(loss)}}
        runs[labels[i], firsts[i] + place] = (FAILED if "failure" in changes else FINISHED).model_copy(update=changes)
    return runs


def outcome(scenario, plan, runs):
    """The Outcome of a study that takes the looks of a plan one after another, as `archbench study run` does."""
    counts = dict.fromkeys(scenario.arms, plan[0])
    while True:
        record = _record(scenario, plan, max(counts.values()))
        had = {label: {arm.first_seed + place for place in range(counts[label])} for label, arm in record.arms.items()}
        rulings = judge(record, {(arm, seed): run for (arm, seed), run in runs.items() if seed in had[arm]})
        after = next_counts(record, rulings, counts)
        if after is None:
            return Outcome(rulings, counts, _lost(runs, had))
        counts = after


def _lost(runs, had):
    return {arm: sum(runs[arm, seed].status == "failed" for seed in seeds) for arm, seeds in had.items()}


@contextmanager
def without_advice():
    """Inside, a verdict does not say how many seeds would decide: no word depends on it, and it takes most of the time."""
    advice = stats.seeds_to_pass
    stats.seeds_to_pass = lambda *_: SeedsNeeded("", np.inf, np.inf, np.inf)
    try:
        yield
    finally:
        stats.seeds_to_pass = advice


def counts(scenario, random, studies):
    """(sums, sums of squares) of a scenario's rows over a number of studies, as arrays."""
    rows = np.zeros((studies, len(scenario.rows)))
    with without_advice():
        for i in range(studies):
            runs = drawn(scenario, random)
            outcomes = [outcome(scenario, plan, runs) for plan in scenario.plans]
            rows[i] = [count(*outcomes) for count in scenario.rows.values()]
    return rows.sum(axis=0), (rows**2).sum(axis=0)
