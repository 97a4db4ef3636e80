"""What a question would take that is not decided: how many seeds, and what so many seeds of the study cost."""

from dataclasses import dataclass
from typing import Any

import pandas as pd

from analysis.runs import StudyData
from arch import units
from arch.contracts import SeedsNeeded
from sweeps.stats import MOST_SEEDS

HEADING = "Undecided, with the seeds that would decide it:"
EXPLAINED = """\
What is undecided has a line below its study: how many seeds of a new study would decide it with a chance of 80 %, if the
difference stays as it was seen (in brackets over an 80 % interval of the spread), and what so many seeds of all arms take
on the study's machine."""


@dataclass(frozen=True)
class Cost:
    """What one seed of all arms costs on the machine that ran them: `seconds` of it, with as many runs at once as there were."""

    tokens: float
    seconds: float

    def told(self, seeds: float) -> str:
        """`82.0 M tokens and 2 h 40 min`, of so many seeds."""
        tokens = f"{units.count(round(seeds * self.tokens))} tokens and " if self.tokens else ""
        return f"{tokens}{units.duration(seeds * self.seconds)}"


def seed_cost(study: StudyData) -> Cost:
    """The mean over the study's seeds, of finished runs; its helper runs are part of it where each seed has its own, its search
    is not, as a new study may use what it found. A run that arms share counts once."""
    helpers = study.unreported[study.unreported.role == "helper"]
    own = helpers.groupby("arm").filter(lambda each: each.seed.nunique() > 1) if len(helpers) else helpers
    runs = pd.concat([frame[frame.status == "finished"] for frame in (study.runs, own) if len(frame)])
    runs = runs.drop_duplicates("folder")
    at_once = runs.runs_at_once.fillna(1).clip(lower=1) if "runs_at_once" in runs else 1
    spent = pd.DataFrame({"arm": runs.arm, "tokens": runs.tokens, "seconds": runs.wall_seconds / at_once})
    return Cost(*map(float, spent.groupby("arm").mean().sum()[["tokens", "seconds"]]))


def listing(study: StudyData, judged: list[Any]) -> str:
    """A Markdown list of a study's undecided questions; empty without one."""
    cost = seed_cost(study)
    lines = [
        f"* {f'{each.name}, ' if len(judged) > 1 else ''}{subject}: {_need(each.verdicts[subject], cost)}"
        for each in judged
        for subject in each.undecided
    ]
    return "\n".join([HEADING, "", *lines]) if lines else ""


def _need(verdict, cost):
    needed = verdict.needed
    if needed is None:
        return verdict.reason or "seeds alone do not decide it"
    if needed.seeds > MOST_SEEDS:
        return f"more than {MOST_SEEDS:,} seeds to show “{needed.word}”"
    return f"{seeds_needed(needed)}: {cost.told(needed.seeds)}"


def seeds_needed(needed: SeedsNeeded) -> str:
    """`24 (13 to 52) to show “worse”`; `>1000` (stats.MOST_SEEDS) for infinity."""
    span = f" ({_seeds(needed.low)} to {_seeds(needed.high)})" if needed.low != needed.high else ""
    return f"{_seeds(needed.seeds)}{span} to show “{needed.word}”"


def _seeds(count):
    return f">{MOST_SEEDS}" if count > MOST_SEEDS else f"{count:.0f}"
