"""What failed is said arm by arm, with its reasons; speed and memory are in tables, report, figures and TensorBoard."""

import pytest

from analysis import plots, tables
from analysis.claims import judge
from analysis.report import write_report
from analysis.runs import load
from analysis.tensorboard import run_names, write_logs
from experiments.record import Failure, RunRecord


def change(folder, arm, **updates):
    """Rewrite the records of the arm's runs; a function gets the seed."""
    for path in sorted(folder.glob(f"arm{arm}-0123/seed-*")):
        record = RunRecord.read(path)
        values = {name: value(record.seed) if callable(value) else value for name, value in updates.items()}
        record.model_copy(update=values).write(path)


def not_finite(step, where="blocks.0.mixer", what="loss"):
    first = f", first in {where}" if where else ""
    return Failure(step=step, error="NonFinite", message=f"{what} not finite at step {step}{first}", what=what, where=where)


def test_an_arm_that_failed_everywhere_says_so_in_one_sentence(make_study):
    folder = make_study(seeds=2, failed=[("3:1", 0), ("3:1", 1)])
    change(folder, 1, failure=not_finite(0))
    study = load(folder)
    failures = study.failures("3:1")
    assert failures[:4] == (2, 2, "failed in 2 of 2 seeds (loss not finite at step 0, first in blocks.0.mixer)", (0, 1))
    assert failures.lost == 0 and study.failures("1:1") == (0, 2, "", (), 0, "")
    page = write_report(folder).read_text()
    assert f"<p class=failed>3:1: {failures.sentence}</p>" in page and ".failed { color: var(--failed); }" in page
    assert "<td>model</td>" in page


def test_reasons_are_grouped_and_their_steps_are_told(make_study):
    folder = make_study(seeds=5, failed=[("3:1", seed) for seed in range(4)])
    mistake = Failure(step=9, error="RuntimeError", message="shapes\ndiffer")
    reasons = {0: not_finite(3), 1: not_finite(7), 2: mistake, 3: not_finite(3)}
    change(folder, 1, failure=reasons.get)
    assert load(folder).failures("3:1").sentence == (
        "failed in 4 of 5 seeds (3: loss not finite at steps 3 and 7, first in blocks.0.mixer; "
        "1: RuntimeError at step 9: shapes differ)"
    )


@pytest.mark.parametrize("error", ["WorkerLost", "OSError", "MemoryError"])
def test_what_the_machine_made_fail_is_not_the_models_failure(error, make_study):
    folder = make_study(seeds=3, failed=[("3:1", 0), ("3:1", 1)])
    lost = Failure(step=4, error=error, message="its worker died of SIGKILL")
    change(folder, 1, failure=lambda seed: [lost, not_finite(0), None][seed])
    failures = load(folder).failures("3:1")
    assert (failures.failed, failures.seeds, failures.lost) == (1, (1,), 1)
    assert failures.sentence.startswith("failed in 1 of 3 seeds (loss not finite")
    assert failures.why_lost == f"failed in 1 of 3 seeds ({error} at step 4: its worker died of SIGKILL)"
    page = write_report(folder).read_text()
    assert "<td>machine</td>" in page and "a new start does them again" in page


def test_what_a_failed_run_took_with_it_is_told_once(make_study):
    folder = make_study(seeds=2, failed=[("3:1", 0), ("3:1", 1)])
    change(folder, 1, failure=lambda seed: Failure(step=0, error="NeedFailed", message=f"needs warm seed {seed}, which failed"))
    assert load(folder).failures("3:1").sentence == "failed in 2 of 2 seeds (needs warm, which failed)"


def test_runs_that_are_not_done_did_not_fail(make_study):
    folder = make_study(seeds=3, missing=[("3:1", 0)])
    change(folder, 1, status=lambda seed: ["finished", "interrupted", "running"][seed])
    assert load(folder).failures("3:1").failed == 0


def test_trials_and_helper_runs_that_did_not_finish_say_why(make_study, tuning_trials):
    failed = tuning_trials(["1:1"])[0].model_copy(update={"state": "failed", "run": "arm1-0123/seed-0", "value": None})
    folder = make_study(
        seeds=2,
        failed=[("3:1", 0), ("5:1", 0)],
        trials=[failed],
        helpers={"warm": {"0": "arm2-0123/seed-0", "1": "arm2-0123/seed-1"}},
    )
    change(folder, 1, failure=not_finite(11, "blocks.1.ffn"))
    change(folder, 2, failure=lambda seed: not_finite(5, "norm") if seed == 0 else None)
    page = write_report(folder).read_text()
    row = next(row for row in page.split("<tr>") if "1:1, trial optimizer.lr" in row)
    assert "loss not finite at step 11, first in blocks.1.ffn" in row
    row = next(row for row in page.split("<tr>") if "warm, seed 0 (helper run)" in row)
    assert "loss not finite at step 5, first in norm" in row and "warm, seed 1 (helper run)" not in page


@pytest.fixture
def measured(make_study):
    """A study whose runs have measured their speed and memory."""

    def make(**planted):
        folder = make_study(**planted)
        for arm, speed in enumerate([5000.0, 6000.0, 7000.0, 9000.0]):
            timing = lambda seed, speed=speed: {  # noqa: E731
                "train_seconds": 100.0,
                "runs_at_once": 2.0,
                "memory_before_bytes": 5.1e8 + seed,
                "speed/tokens_per_second": speed + 100 * seed,
                "memory/peak_bytes": 7e8 + 1e6 * seed,
            }
            change(folder, arm, timing=timing)
        return folder

    return make


def test_speed_and_memory_are_in_every_table_with_their_spread_and_the_machine(measured):
    import io

    import pandas as pd

    folder = measured(seeds=3)
    page = write_report(folder).read_text()
    study = load(folder)
    table = tables.readable(tables.results(study, judge(study)))
    assert table["training speed, tokens/s [min, max]"][1] == "6,099 [6,000, 6,200]"  # the geometric mean, as of a claim
    assert table["peak memory [min, max]"][0] == "701\N{NO-BREAK SPACE}MB [700\N{NO-BREAK SPACE}MB, 702\N{NO-BREAK SPACE}MB]"
    assert "training speed, tokens/s [min, max]" in page and "the median time of a step" in page
    assert "<dd>on a synthetic CPU, up to 2 runs at once\n" in page
    runs = pd.read_csv(io.StringIO((folder / "runs.csv").read_text()))
    assert runs.loc[0, "speed/tokens_per_second"] == 5000 and runs.loc[2, "memory/peak_bytes"] == 7.02e8
    results = pd.read_csv(folder / "results.csv")
    assert results.tokens_per_second_max.tolist() == [5200, 6200, 7200, 9200]


def test_speed_and_memory_are_in_tensorboard(measured):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = measured(seeds=1)
    logs = write_logs(folder)
    events = EventAccumulator(str(logs / run_names(load(folder).record.arms)["3:1"] / "seed-0"), size_guidance={"scalars": 0})
    events.Reload()
    assert events.Scalars("final/speed/tokens_per_second")[0].value == 6000
    assert events.Scalars("final/memory/peak_bytes")[0].value == pytest.approx(7e8)


def test_a_failed_run_has_no_speed(measured):
    study = load(measured(seeds=3, failed=[("3:1", 1)]))
    assert list(study.values("speed/tokens_per_second")["3:1"]) == [0, 2]


def test_a_claim_on_speed_is_judged_with_its_own_better_side(measured):
    folder = measured(
        seeds=5,
        claims={"fast": {"type": "against_baseline", "metric": "speed/tokens_per_second", "margin": 0.01, "known_worse": []}},
    )
    study = load(folder)
    verdicts = judge(study).verdicts
    assert verdicts["3:1"].word == verdicts["local-only"].word == "better"
    page = write_report(folder).read_text()
    assert "Training speed compared with 1:1" in page


def test_quality_is_drawn_against_speed_where_it_was_measured(measured, make_study):
    study = load(measured(seeds=3))
    made = plots.figures(study, judge(study))
    assert {"quality_cache", "quality_speed"} <= made.keys()
    label = made["quality_speed"].axes[0].get_xlabel()
    assert label == "training speed, tokens/s (right is better); bars: least and most over the runs"
    page = write_report(study.folder).read_text()
    assert "<h2>Quality against cache size</h2>" in page and "<h2>Quality against training speed</h2>" in page


def test_a_study_names_the_axes_that_it_draws_quality_against(measured):
    axes = ["memory/peak_bytes", "cost/parameters", "cost/cache_bytes@131072", "cost/flops_per_token"]
    study = load(measured(seeds=2, spec={"figures": {"x": axes}}))
    made = plots.figures(study, judge(study))
    names = [name for name in made if name.startswith("quality_")]
    assert names == ["quality_memory", "quality_cost_parameters", "quality_cache", "quality_cost_flops_per_token"]
    assert made["quality_cost_parameters"].axes[0].get_xlabel() == "parameters (left is cheaper)"
    for name in names:
        low, high = made[name].axes[0].get_xlim()
        points = [x for line in made[name].axes[0].get_lines() for x in line.get_xdata()]
        assert points and all(low < x < high for x in points)
    page = write_report(study.folder).read_text()
    assert page.index("Quality against peak memory") < page.index("Quality against cache size")


def test_records_without_speed_still_give_a_report(make_study):
    study = load(make_study(seeds=2))
    table = tables.readable(tables.results(study, judge(study)))
    assert not any("speed" in name or "peak" in name for name in table)
    assert "quality_speed" not in plots.figures(study, judge(study))
    assert "Training speed" not in write_report(study.folder).read_text()
