"""What undecided questions would take: a line for each, with seeds and what so many seeds cost, and none for what is decided."""

import math
from pathlib import Path
from types import SimpleNamespace

import pytest

from analysis import claims, deciding
from analysis.runs import load
from arch.contracts import SeedsNeeded, Verdict
from arch.units import SPACE

RESULTS = Path(__file__).parents[2] / "results"


def test_what_is_decided_has_no_line_and_what_is_not_has_one(tmp_path, plant):
    decided = load(plant(tmp_path / "decided", seeds=8, spread=0.0005))
    assert deciding.listing(decided, claims.judgements(decided)) == ""
    study = load(plant(tmp_path / "open", seeds=5, spread=0.03))
    judged = claims.judgements(study)
    heading, *lines = filter(None, deciding.listing(study, judged).splitlines())
    assert heading == deciding.HEADING and len(lines) == len(judged[0].undecided) > 0
    assert all(line.startswith(f"* {subject}: ") for line, subject in zip(lines, judged[0].undecided, strict=True))


def test_a_seed_costs_what_its_runs_cost_and_a_helper_that_all_seeds_share_nothing():
    """Of post-training each seed has a start of its own, which is counted; all share one teacher."""
    study = load(RESULTS / "gemma2-post_training" / "laptop")
    helpers = study.unreported[study.unreported.role == "helper"]
    assert helpers.groupby("arm").seed.nunique().to_dict() == {"start": 3, "teacher": 1}
    each = [*study.runs.itertuples(), *(row for row in helpers.itertuples() if row.arm == "start")]
    assert {row.status for row in each} == {"finished"}
    cost = deciding.seed_cost(study)
    assert cost.tokens == pytest.approx(sum(row.tokens for row in each) / 3)
    assert sum(row.wall_seconds for row in each) / 3 / 2 <= cost.seconds <= sum(row.wall_seconds for row in each) / 3


@pytest.mark.parametrize(
    ("needed", "reason", "says"),
    [
        (SeedsNeeded("worse", 10, 7, 28), "", "10 (7 to 28) to show “worse”: 40.0 M tokens and 20 min"),
        (SeedsNeeded("worse", 10, 7, math.inf), "", "10 (7 to >1000) to show “worse”: 40.0 M tokens and 20 min"),
        (SeedsNeeded("better", math.inf, 2000, math.inf), "", "more than 1,000 seeds to show “better”"),
        (None, "the claim names no control", "the claim names no control"),
        (None, "", "seeds alone do not decide it"),
    ],
)
def test_a_need_in_words(needed, reason, says, monkeypatch):
    monkeypatch.setattr(deciding, "seed_cost", lambda study: deciding.Cost(4e6, 120.0))
    verdict = Verdict("undecided", needed=needed, reason=reason)
    judgement = SimpleNamespace(name="quality", undecided=["arm"], verdicts={"arm": verdict})
    assert deciding.listing(None, [judgement]).splitlines()[-1].replace(SPACE, " ") == f"* arm: {says}"


def test_what_needs_no_tokens_costs_time_alone():
    assert deciding.Cost(0.0, 120.0).told(15).replace(SPACE, " ") == "30 min"
