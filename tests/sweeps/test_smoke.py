"""Every shipped study at its scale `smoke`: it runs to its end, and every metric that it claims something of is there."""

import gc
import math
from functools import cache

import pytest
from rich.console import Console

from analysis.claims import judgements
from analysis.report import write
from analysis.runs import load
from arch import document
from experiments.metrics import is_cost
from experiments.record import RunRecord
from sweeps import origin, study, workers
from sweeps.job import Event, Outcome
from sweeps.judge import metrics_of
from sweeps.run import run_study

pytestmark = pytest.mark.smoke
# Of a run at `smoke`, also of one that arms need, such as a teacher.
MOST_STEPS = 8
# Studies whose claimed metrics may be equal in all arms after a few steps: what they count does not happen yet.
TOO_FEW_STEPS = {"gemma/memorization", "gemma2/post_training", "gemma3/format", "tasks/mqar"}
TOO_FEW_STEPS |= {"gemma3/resolution", "gemma3/span_rule", "gemma3/pan_and_scan"}


@cache
def trainer():
    from sweeps.worker import trainer

    made = trainer(1)
    gc.freeze()  # a run gives its memory back, and to look through all that is imported takes a third of a second each time
    return made


class Here:
    """A pool that does every run in this process: to start a process for each study takes longer than its runs."""

    def __init__(self, *_, **__):
        self.size = 1

    def run(self, take, report, tick=None):
        while job := take():
            record = RunRecord.parse(trainer()(job.dump(), lambda state: None, lambda: None))
            report(
                Event("ended", job, outcome=Outcome(job, record.status, record, record.failure.reason if record.failure else ""))
            )

    def close(self):
        """There is nothing to end."""


@pytest.mark.parametrize("name", document.shipped("sweeps"))
def test_smoke(name, tmp_path, monkeypatch):
    monkeypatch.setattr(workers, "Pool", Here)
    root = document.load(name, "sweeps")
    spec, arms = study.check(root, "smoke")
    runs = [each for arm in arms for each in (arm, *(need for need, _ in arm.runs(0)))]
    assert max(each.spec.train.steps for each in runs) <= MOST_STEPS, "a run that an arm needs has steps of its own"
    planned = study.plan(name, "smoke", spec, arms, tmp_path, written=origin.of(name, root))
    result = run_study(planned, 1, Console(quiet=True))
    assert result.complete, [outcome.message for outcome in result.outcomes]
    data = load(planned.folder)
    assert not data.problems
    assert set(data.runs.status) == {"finished"}
    for claim, names in metrics_of(spec).items():
        for metric in names:
            if is_cost(metric):
                continue
            values = data.values(metric)
            asked = [arm for arm in spec.arms if values[arm]]
            assert len(asked) >= 2 or len(spec.arms) == 1, f"{claim}: only {asked} have {metric}"
            assert all(map(math.isfinite, (value for arm in asked for value in values[arm].values())))
            means = {sum(values[arm].values()) / len(values[arm]) for arm in asked}
            counted = data.metric(metric).varies == "never"  # a count may be the same, as a state is that which is foreseen
            assert len(means) > 1 or counted or name in TOO_FEW_STEPS, f"{claim}: {metric} is the same in every arm"
    judged = judgements(data)
    assert all(each.verdicts or each.missing for each in judged)
    assert write(data, judged).stat().st_size > 10_000
