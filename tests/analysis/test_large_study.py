"""A study of 300 arms and 1,500 runs stays usable: what is read and written is bounded. `make test-large` prints the times."""

import io
import os
import re
import time

import pytest
from large_studies import USUAL, WINDOWS, plant_large
from rich.console import Console
from self_contained import charts_of

from analysis import crowd, thinning
from analysis.claims import judge
from analysis.report import write_report
from analysis.runs import load
from analysis.tensorboard import write_logs
from sweeps import status

ARMS, SEEDS = 300, 5
MB = 1e6


def timed(what, do):
    """What `do` returns; the seconds are printed, never asserted."""
    began = time.perf_counter()
    done = do()
    print(f"\n{what}: {time.perf_counter() - began:.1f} s", end="")
    return done


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    return plant_large(tmp_path_factory.mktemp("large"), ARMS, SEEDS)


@pytest.mark.slow
def test_the_report_of_1500_runs_is_small_and_names_few_arms(large):
    page = timed("report of 1,500 runs", lambda: write_report(large).read_text())
    print(f", {len(page) / MB:.2f} MB", end="")
    assert len(page) < 3 * MB
    named = crowd.named(study := load(large), judge(study))
    assert len(named) <= 1 + crowd.BEST + crowd.WORST
    answer = re.search(r"<section class=answer>.*?</section>", page, re.DOTALL)[0]
    assert len(answer) < 20_000 and "more" in answer
    assert page.count("<details><summary>All 300 arms</summary>") == 1
    assert (large / "results.csv").read_text().count("\n") == ARMS + 1


@pytest.mark.slow
def test_tensorboard_of_1500_runs_is_small(large):
    logs = timed("TensorBoard of 1,500 runs", lambda: write_logs(large))
    size = sum(path.stat().st_size for path in logs.rglob("*") if path.is_file())
    print(f", {size / MB:.1f} MB", end="")
    assert size < 50 * MB


@pytest.mark.slow
def test_the_status_of_1500_runs_reads_each_record_once(large, monkeypatch):
    from experiments import record

    read = []
    original = record.read_record
    monkeypatch.setattr(record, "read_record", lambda cls, path: read.append(path) or original(cls, path))
    with Console(width=160, record=True).capture():
        timed("status of 1,500 runs", lambda: status.printed(large, Console(width=160)))
    assert len(read) <= (1 + len(USUAL)) * ARMS * SEEDS and len(set(read)) == len(read)


def test_a_crowd_keeps_the_baseline_the_controls_and_both_ends(make_study):
    effects = {f"arm {i}": 0.001 * i for i in range(crowd.MANY + 6)}
    study = load(make_study(effects=effects, seeds=2, spread=0.0001, known_worse=["arm 15"]))
    judgement = judge(study)
    named = crowd.named(study, judgement)
    arms = list(effects)
    assert set(named) == {*arms[: crowd.BEST], "arm 15", *arms[-crowd.WORST :]} and named[0] == "arm 0"
    assert set(crowd.few(study, judgement)) == {*arms[: crowd.FEW_BEST], *arms[-crowd.FEW_WORST :]}
    assert crowd.ranked(judgement) == arms


def test_few_arms_are_all_named(make_study):
    study = load(make_study(seeds=2))
    assert crowd.named(study, judge(study)) == crowd.few(study, judge(study)) == list(study.record.arms)


@pytest.mark.slow
def test_a_report_of_many_arms_shows_the_crowd(tmp_path):
    folder = plant_large(tmp_path / "many", crowd.MANY + 6, 2, steps=40, failed=1)
    page = write_report(folder).read_text()
    others = crowd.MANY + 6 - len(crowd.named(study := load(folder), judge(study)))
    assert f"{others} other arms" in page and f"All {crowd.MANY + 6} arms" in page
    others = r"the loss is nan|<svg.*?</svg>|<pre>.*?</pre>|<script.*?</script>"
    assert not re.search(r"\bnan\b|\bNone\b", re.sub(others, "", page, flags=re.DOTALL))
    assert WINDOWS < crowd.MANY  # more than one base is among the arms


@pytest.mark.slow
def test_an_arm_has_one_colour_in_every_figure(tmp_path):
    """Also where a page names only some arms, and charts of evaluators show fewer still."""
    from analysis import charts, plots

    measured = ("select.loss", "report.loss", "report.by_position")
    study = load(plant_large(tmp_path / "many", crowd.MANY + 6, 2, steps=40, failed=0, evaluators=measured))
    judgement = judge(study)
    few, looks = crowd.few(study, judgement), crowd.looks(study, judgement)
    drawn = plots.figures(study, judgement) | charts.figures([each.only(few) for each in study.evaluated], few, looks)
    assert sum(name.startswith("evaluation") for name in drawn) and set(few) < set(study.record.arms)
    page = write_report(study.folder).read_text()
    seen: dict[str, set[str]] = {}
    for axes in (axes for figure in drawn.values() for axes in figure.axes):
        for line in axes.get_lines():
            if line.get_label() in study.record.arms:
                seen.setdefault(line.get_label(), set()).add(line.get_color())
    assert set(few) <= set(seen) and {arm: {looks[arm].colour} for arm in seen} == seen
    names = {each["name"]: each["colour"] for each in live_names(page) if each["name"]}
    assert set(few) <= set(names) and all(colour == looks[arm].colour for arm, colour in names.items())


def live_names(page):
    """Every entry of a legend of the charts of a page; an arm that has two colours fails."""
    found = [each for chart in charts_of(page) for each in chart["names"]]
    assert len({each["name"] for each in found}) == len({(each["name"], each["colour"]) for each in found})
    return found


def test_event_files_are_those_of_tensorboards_own_writer():
    """Byte for byte the format that its RecordWriter writes, also of texts longer than what is summed up at once."""
    from tensorboard.summary.writer.record_writer import RecordWriter

    from analysis.events import ROWS, records

    texts = [os.urandom(n) for n in (9, 60, 61, 300, ROWS - 1, ROWS, ROWS + 1, ROWS + 3, 2 * ROWS, 2 * ROWS + 5, 3 * ROWS - 8)]
    file = io.BytesIO()
    writer = RecordWriter(file)
    for each in texts:
        writer.write(each)
    assert records(texts) == file.getvalue()


@pytest.mark.parametrize("most", [24, 60, 500])
def test_thinned_curves_keep_ends_spikes_and_the_smallest_value(most):
    import numpy as np

    random = np.random.default_rng(0)
    x = np.arange(2000)
    y = 3 + np.exp(-x / 300) + random.normal(0, 0.01, len(x))
    y[777], y[1234] = 9.0, 1.0
    kept = thinning.thinned(x, y, most)
    assert 0.8 * most <= len(kept) <= most and (np.diff(kept) > 0).all()
    assert {0, 777, 1234, len(x) - 1} <= set(kept)
    assert np.abs(np.interp(x, x[kept], y[kept]) - y)[np.r_[0:600, 950:1050, 1500:2000]].max() < 0.5
    assert (thinning.thinned(x, y, None) == x).all() and (thinning.thinned(x[:most], y[:most], most) == x[:most]).all()


def test_curves_are_whole_until_a_study_has_many_points():
    assert thinning.most_points(12, thinning.POINTS) is None
    assert thinning.most_points(16_500, 16_500_000) == max(thinning.FEWEST, thinning.POINTS // 16_500)
