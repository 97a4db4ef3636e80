"""What evaluators measured is drawn for every arm, from tables and charts alone."""

import html
import itertools
import json
import math
import re
import signal
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from self_contained import SCRIPTS, assert_self_contained
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from analysis import chart_axes, charts
from analysis.__main__ import app
from analysis.claims import judgements
from analysis.evaluated import Run, wrong
from analysis.report import write, write_report
from analysis.runs import load
from analysis.tensorboard import run_names, write_logs
from arch.cli import main
from arch.contracts import Chart, Metric
from experiments.record import EvaluationRecord, RunRecord

ARMS = ["1:1", "3:1", "local-only"]
POSITION = Chart(
    kind="curve",
    x="position",
    y="loss",
    by="context",
    title="loss by position",
    labels={"position": "position, tokens", "loss": "loss, nats per token", "context": "context, tokens"},
    log=["position"],
)
NEEDLE = Chart(kind="grid", x="length", y="depth", value="accuracy", title="needle", bounds={"accuracy": [0, 1]})
DECAY = Chart(kind="histogram", x="low", to="high", y="share", by="layer", title="decay of the channels")
LARGEST = Chart(kind="curve", x="layer", y="largest", by="place", title="largest activation", log=["largest"])
LONE = Chart(kind="curve", x="x", y="y", by="b", title="lone")
CHARTS = {"by_position": POSITION, "needle": NEEDLE, "decay": DECAY, "activations": LARGEST}


def table(kind, arm, seed):
    """A table as an evaluator of this name has it, different for every arm and seed."""
    shift = 0.1 * ARMS.index(arm) + 0.01 * seed if arm in ARMS else 0.0
    if kind == "by_position":
        places = [(context, position) for context in (64, 256) for position in (0, 1, 4, 16)]
        return [{"context": c, "position": p, "loss": 4 + 3 / (1 + p) + shift} for c, p in places]
    if kind == "needle":
        places = [(length, depth) for length in (64, 128, 256) for depth in (0.0, 0.5, 1.0)]
        return [{"length": n, "depth": d, "accuracy": round(0.9 - shift - n / 1000, 6)} for n, d in places]
    if kind == "decay":
        bins = [(layer, i / 4) for layer in (0, 2) for i in range(4)]
        return [{"layer": n, "low": low, "high": low + 0.25, "share": 0.25 + shift * (low - 0.375)} for n, low in bins]
    places = [(layer, place) for layer in range(3) for place in ("residual", "ffn")]
    return [{"layer": n, "place": p, "largest": 10.0 ** (n + shift)} for n, p in places]


def measure(folder, name, rows, drawn, identity, seed, values=None, info=None, digest="0123456789ab", split="report", **options):
    """Write an evaluation into a run's folder, as `experiments.evaluate` does."""
    EvaluationRecord(
        split=split,
        name=name,
        evaluator={"type": name, "rows": 8} | options,
        identity=identity,
        seed=seed,
        values=values or {},
        metric_info=info or {},
        table=rows,
        charts=drawn,
    ).write(folder, f"{split}.{name}-{digest}.json")


def measure_study(folder, names=tuple(CHARTS), arms=None, **more):
    """Measure every run of a study's folder that has a finished record."""
    for (arm, seed), path in run_folders(folder).items():
        if arms is None or arm in arms:
            for name in names:
                measure(path, name, table(name, arm, seed), [CHARTS[name]], f"identity of {arm}", seed, **more)


def run_folders(folder):
    runs = load(folder).runs
    return {(row.arm, row.seed): folder / row.folder for row in runs.itertuples() if row.status == "finished"}


@pytest.fixture(scope="module")
def measured(plant, tmp_path_factory):
    """A study of three arms and two seeds, one run failed; all measured by four evaluators. (folder, StudyData, page)."""
    folder = plant(tmp_path_factory.mktemp("charts"), dict.fromkeys(ARMS, 0.0), seeds=2, failed=[("3:1", 1)])
    measure_study(folder)
    page = write_report(folder).read_text()
    return folder, load(folder), page


def lines_of(figure):
    """{colour of each line that has points}."""
    return {line.get_color() for axes in figure.axes for line in axes.get_lines() if len(line.get_xdata())}


def test_what_another_study_asked_of_a_run_is_no_part_of_this_one():
    mine, theirs, other = "report.far-0123456789ab.json", "report.far-ba9876543210.json", "report.needle-ba9876543210.json"
    own, reused = (Run(Path("run"), "id", [mine], reused) for reused in (False, True))
    assert [reused.asked_elsewhere(file) for file in (mine, theirs, other)] == [False, True, False]
    assert not any(own.asked_elsewhere(file) for file in (mine, theirs, other))  # `archbench evaluate` of this study wrote it


def test_every_arm_of_every_chart_is_drawn_in_its_colour(measured):
    _, study, _ = measured
    figures = charts.figures(study.evaluated, ARMS)
    assert sorted(figures) == sorted(f"evaluation-report.{name}-1" for name in CHARTS)
    for name in ("by_position", "decay", "activations"):
        assert lines_of(figures[f"evaluation-report.{name}-1"]) == {look.colour for look in charts.looks(ARMS).values()}
    titles = [axes.get_title(loc="left") for axes in figures["evaluation-report.needle-1"].axes]
    assert titles[:3] == ARMS
    by = [axes.get_title(loc="left") for axes in figures["evaluation-report.by_position-1"].axes]
    assert by == ["context 64", "context 256"]


def test_lines_are_means_over_seeds_and_bands_span_them(measured):
    _, study, _ = measured
    each = next(each for each in study.evaluated if each.name == "by_position")
    drawn = each.over_seeds(POSITION)
    for arm, rows in drawn.items():
        seeds = [pd.DataFrame(table("by_position", arm, seed)).loss.to_numpy() for seed in each.records[arm]]
        assert rows["mean"].to_numpy() == pytest.approx(np.mean(seeds, axis=0))
        assert (rows.low <= rows["mean"] + 1e-12).all() and (rows["mean"] <= rows.high + 1e-12).all()
        assert rows.high.to_numpy() == pytest.approx(np.max(seeds, axis=0))
    figure = charts.draw(each, POSITION, ARMS)
    line = figure.axes[0].get_lines()[0]
    own = drawn["1:1"][drawn["1:1"].by == 64]
    assert line.get_xdata() == pytest.approx(own.x.to_numpy()) and line.get_ydata() == pytest.approx(own["mean"].to_numpy())


def test_grids_share_their_colours_and_few_cells_have_numbers(measured):
    _, study, _ = measured
    each = next(each for each in study.evaluated if each.name == "needle")
    *panels, bar = charts.draw(each, NEEDLE, ARMS).axes
    meshes = [axes.collections[0] for axes in panels]
    assert {(mesh.norm.vmin, mesh.norm.vmax) for mesh in meshes} == {(0, 1)} and len(meshes) == 3 and bar.get_ylabel() == "accuracy"
    for axes, mesh, arm in zip(panels, meshes, ARMS, strict=True):
        mean = each.over_seeds(NEEDLE)[arm].pivot_table(index="y", columns="x", values="mean")
        assert mesh.get_array().filled().ravel().tolist() == pytest.approx(mean.to_numpy().ravel().tolist())
        assert [text.get_text() for text in axes.texts] == [f"{value:.2f}" for value in mean.to_numpy().ravel()]


def test_a_histogram_falls_to_the_ground_where_bars_do_not_meet():
    rows = pd.DataFrame({"x": [0.0, 1.0, 3.0], "to": [1.0, 2.0, 4.0], "mean": [2.0, 1.0, 3.0], "low": 1.0, "high": 4.0, "n": 1})
    axes = charts.Figure().subplots()
    charts._steps(axes, rows, charts.looks(["a"])["a"], "a", filled=True)
    line = axes.get_lines()[0]
    corners = list(zip(line.get_xdata(), line.get_ydata(), strict=True))
    assert corners == [(0, 0), (0, 2), (1, 2), (1, 1), (2, 1), (2, 0), (3, 0), (3, 3), (4, 3), (4, 0)]


def test_the_report_has_a_figure_per_chart_and_says_what_is_drawn(measured):
    _, _, page = measured
    assert_self_contained(page)
    part = SCRIPTS.sub("", page.split("<h2>What else was measured</h2>")[1].split("</section>")[0])
    assert part.count("<svg") == part.count("<details>") == len(CHARTS)
    assert "Loss by position, on the report split; lines are means over 1 to 2 seeds, bands span them." in part
    assert "Measured by <code>by_position</code> (rows: 8)." in part
    assert not re.search(r"\bnan\b|\bNone\b", re.sub(r"<svg.*?</svg>", "", part, flags=re.DOTALL))
    assert "var(--arm1)" in part and charts.COLOURS[0] not in part  # the colours are those of the page's theme


def test_csv_round_trip_equals_the_records(measured):
    folder, study, _ = measured
    for each in study.evaluated:
        if not each.charts:
            continue
        back = pd.read_csv(folder / f"evaluation-{each.key}.csv")
        rows = [
            {"arm": arm, "seed": seed, **row}
            for arm, runs in each.records.items()
            for seed in runs
            for row in table(each.name, arm, seed)
        ]
        assert back.to_dict("records") == rows


def test_a_kept_report_leaves_out_the_rows_of_tables_and_names_no_file_that_is_not_there(measured, tmp_path):
    _, study, page = measured
    assert "<code>evaluation-report.by_position.csv</code>" in page
    kept = write(study, judgements(study), out=tmp_path, rows=False)
    assert not list(tmp_path.glob("evaluation-*.csv")) and (tmp_path / "evaluations.csv").is_file()
    named = re.findall(r"<code>([\w.-]+\.csv)</code>", kept.read_text())
    assert named and all((tmp_path / name).is_file() for name in named)


def test_metrics_beyond_the_main_table_have_means_and_intervals(make_study):
    folder = make_study(effects=dict.fromkeys(ARMS, 0.0), seeds=3, known_worse=())
    for (arm, seed), path in run_folders(folder).items():
        values = {"report/recall": 0.5 + 0.1 * seed, "report/loss": 4.0}
        info = {"report/recall": Metric(unit="points", better="higher")}
        measure(path, "recall", [], [], f"identity of {arm}", seed, values, info)
    page = write_report(folder).read_text()
    part = page.split("<h2>What else was measured</h2>")[1].split("</section>")[0]
    half = 4.302653 * 0.1 / math.sqrt(3)
    assert part.count(f"0.6000<small>[{0.6 - half:.4f}, {0.6 + half:.4f}]</small>") == 3
    assert "points, higher is better" in part and "loss" not in part and "Means over 3 seeds" in part
    numbers = pd.read_csv(folder / "evaluations.csv")
    assert numbers[numbers.metric == "report/recall"].value.tolist() == pytest.approx([0.5, 0.6, 0.7] * 3)


def test_each_group_of_equal_options_is_a_picture_of_its_own(make_study):
    folder = make_study(effects=dict.fromkeys(ARMS, 0.0), seeds=1, known_worse=())
    measure_study(folder, ["needle"], lengths=[64, 128], digest="a" * 12)
    measure_study(folder, ["needle"], arms=ARMS[:2], lengths=[64, 4096], digest="b" * 12)
    measure_study(folder, ["needle"], lengths=[64, 4096], digest="c" * 12)  # the same options, a newer version
    study = load(folder)
    assert [each.options for each in study.evaluated] == ["lengths: [64, 128]", "lengths: [64, 4096]"]
    assert [(each.digest, each.older) for each in study.evaluated] == [("a" * 12, 0), ("c" * 12, 2)]
    page = write_report(folder).read_text()
    assert "needle on the report split: lengths: [64, 4096]" in page and "2 files with the same options" in page
    figures = charts.figures(study.evaluated, ARMS)
    assert len(figures) == 2 and all(len(figure.axes) == 4 for figure in figures.values())
    back = pd.read_csv(folder / "evaluation-report.needle.csv")
    assert back.groupby("options").size().tolist() == [27, 27]


def test_an_arm_without_a_finished_seed_is_left_out_and_named(make_study):
    folder = make_study(effects=dict.fromkeys(ARMS, 0.0), seeds=1, failed=[("3:1", 0)], known_worse=())
    measure_study(folder, ["by_position"])
    page = write_report(folder).read_text()
    assert "3:1 has no finished run with this evaluation and is left out." in page
    (each,) = load(folder).evaluated
    assert each.absent == ("3:1",) and list(each.over_seeds(POSITION)) == ["1:1", "local-only"]


@pytest.mark.parametrize("arms", [1, 8])
def test_many_layers_and_many_arms_have_a_place_each(plant, tmp_path, arms):
    names = [f"arm {i}" for i in range(arms)]
    folder = plant(tmp_path / "many", dict.fromkeys(names, 0.0), seeds=1, known_worse=())
    rows = [{"layer": layer, "head": head, "entropy": layer + head / 10} for layer in range(26) for head in range(4)]
    lines = Chart(kind="curve", x="head", y="entropy", by="layer")
    cells = Chart(kind="grid", x="head", y="layer", value="entropy")
    for (arm, seed), path in run_folders(folder).items():
        measure(path, "attention", rows, [lines, cells], f"identity of {arm}", seed)
    made = charts.figures(load(folder).evaluated, names)
    by_colour, grid = made["evaluation-report.attention-1"], made["evaluation-report.attention-2"]
    panels = [axes for axes in by_colour.axes if axes.get_lines()]
    assert len(panels) == arms and all(len({line.get_color() for line in axes.get_lines()}) == 26 for axes in panels)
    assert sum(len(axes.collections) == 1 for axes in grid.axes[:-1]) == arms
    for figure in made.values():
        assert_no_overlap(figure)


def assert_no_overlap(figure):
    """No two labels of the same axis lie on each other, and no title on another panel's."""
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw(renderer)
    for axes in figure.axes:
        for labels in (axes.get_xticklabels(), axes.get_yticklabels()):
            boxes = [text.get_window_extent(renderer) for text in labels if text.get_text() and text.get_visible()]
            inside = [box for box in boxes if axes.get_window_extent(renderer).padded(3).overlaps(box)]
            assert not any(a.overlaps(b) for a, b in itertools.pairwise(inside))
    titles = [axes.title.get_window_extent(renderer) for axes in figure.axes if axes.title.get_text()]
    assert not any(a.overlaps(b) for i, a in enumerate(titles) for b in titles[i + 1 :])


AWKWARD = {
    "a single row": ([{"x": 3, "y": 0.5}], Chart(kind="curve", x="x", y="y", log=["x", "y"])),
    "missing values": ([{"x": 1, "y": None}, {"x": 2}, {"x": 4, "y": 1.0}, {}], Chart(kind="curve", x="x", y="y")),
    "zeros on a logarithmic axis": ([{"x": i, "y": i} for i in range(5)], Chart(kind="curve", x="x", y="y", log=["x", "y"])),
    "negative on a logarithmic axis": ([{"x": i, "y": i} for i in range(-2, 3)], Chart(kind="curve", x="x", y="y", log=["x", "y"])),
    "texts and numbers in by": (
        [{"x": i, "y": i, "b": b} for i in (1, 2) for b in ("a<b", 3, True, [1])],
        Chart(kind="curve", x="x", y="y", by="b"),
    ),
    "columns with the names of statistics": (
        [{"low": 0, "high": 1, "mean": 2, "n": "x"}],
        Chart(kind="histogram", x="low", to="high", y="mean", by="n"),
    ),
    "one column twice": ([{"x": i} for i in range(3)], Chart(kind="grid", x="x", y="x", value="x")),
    "equal cells": ([{"x": i, "y": 0, "v": 1} for i in range(3)], Chart(kind="grid", x="x", y="y", value="v", log=["v"])),
    "huge and tiny": ([{"x": 10.0**i, "y": 10.0 ** (-i)} for i in range(12)], Chart(kind="curve", x="x", y="y")),
    "own arm and seed": ([{"arm": 1, "seed": 2}, {"arm": 2, "seed": 3}], Chart(kind="curve", x="arm", y="seed")),
}


@pytest.mark.parametrize("rows, chart", AWKWARD.values(), ids=AWKWARD)
def test_awkward_tables_are_drawn(tmp_path, rows, chart):
    measure(tmp_path, "odd", rows, [chart], "", 0)
    (tmp_path / "model.safetensors").touch()
    path, problems = report_of(tmp_path)
    assert problems == [] and path.read_text().count("<svg") == 1


def report_of(folder):
    from analysis.run_report import write

    return write(folder)


BROKEN = {
    "no such column": (Chart(kind="curve", x="x", y="z"), "no column 'z' in its table, which has x, y, t"),
    "no `by`": (Chart(kind="curve", x="x", y="y", by="w"), "no column 'w' in its table, which has x, y, t"),
    "a grid of nothing": (Chart(kind="grid", x="x", y="y"), "a grid names a column `value`, and this one does not"),
    "a histogram without an end": (
        Chart(kind="histogram", x="x", y="y"),
        "a histogram names a column `to`, and this one does not",
    ),
    "text on an axis": (Chart(kind="curve", x="t", y="y"), "column 't' has 'one' where a number is expected"),
}


def test_a_chart_that_cannot_be_drawn_is_a_problem_and_nothing_else(make_study):
    folder = make_study(effects={"only": 0.0}, seeds=1, known_worse=())
    rows = [{"x": 1, "y": 2, "t": "one"}, {"x": 2, "y": 3, "t": "two"}]
    ((_, path),) = run_folders(folder).items()
    good = Chart(kind="curve", x="x", y="y", title="good")
    measure(path, "odd", rows, [*(chart for chart, _ in BROKEN.values()), good], "identity of only", 0)
    for chart, reason in BROKEN.values():
        assert wrong(chart, [rows]) == reason
    said = [f"the chart is not drawn {chart.kind!r}: {reason}" for chart, reason in BROKEN.values()]
    problems = [problem for problem in load(folder).problems if "odd" in problem]
    assert len(problems) == len(said) and all(problem.endswith(end) for problem, end in zip(problems, said, strict=True))
    page = write_report(folder).read_text()
    part = SCRIPTS.sub("", page.split("<h2>What else was measured</h2>")[1].split("</section>")[0])
    assert part.count("<svg") == 1 and "Good, on the report split" in part and html.escape(said[0]) in page


def test_rows_without_numbers_are_left_out_and_the_rest_is_drawn(tmp_path):
    rows = [{"x": 1, "y": 2}, {"x": "two", "y": 3}, {"x": 3, "y": 4}]
    measure(tmp_path, "odd", rows, [Chart(kind="curve", x="x", y="y", title="mixed")], "", 0)
    path, problems = report_of(tmp_path)
    assert problems[0].endswith("such rows are left out of the chart 'mixed': column 'x' has 'two' where a number is expected")
    assert path.read_text().count("<svg") == 1


def test_broken_files_and_files_of_other_runs_are_problems(make_study):
    folder = make_study(effects=dict.fromkeys(ARMS, 0.0), seeds=1, known_worse=())
    measure_study(folder, ["needle"])
    paths = list(run_folders(folder).values())
    file = "evaluations/report.needle-0123456789ab.json"
    (paths[0] / file).write_text('{"split": "rep')
    content = json.loads((paths[1] / file).read_text())
    (paths[1] / file).write_text(json.dumps(content | {"identity": "of another"}))
    (paths[2] / "evaluations" / "notes.json").write_text("[]")  # not the name of an evaluation
    study = load(folder)
    assert len(study.problems) == 2 and str(paths[0] / file) in study.problems[0]
    assert study.problems[1] == f"{paths[1] / file}: it is of another run than the record beside it; left out"
    assert [list(each.records) for each in study.evaluated] == [["local-only"]]
    page = write_report(folder).read_text()
    assert file in page and "1:1 and 3:1 have no finished run with this evaluation" in page


def test_figures_and_curves_are_in_tensorboard(make_study):
    folder = make_study(effects={"1:1": 0.0, "3:1": 0.0}, seeds=1, known_worse=())
    measure_study(folder, ["by_position"])
    logs = write_logs(folder)
    read = lambda place: EventAccumulator(str(logs / place), size_guidance={"scalars": 0, "images": 0}).Reload()  # noqa: E731
    assert "evaluation/report.by_position-1" in read("study").Tags()["images"]
    for arm, name in run_names(["1:1", "3:1"]).items():
        points = read(f"{name}/seed-0").Scalars("evaluation/by_position/loss/context 64")
        expected = [row for row in table("by_position", arm, 0) if row["context"] == 64]
        assert [point.step for point in points] == [row["position"] for row in expected]
        assert [point.value for point in points] == pytest.approx([row["loss"] for row in expected])


def test_curves_that_rounding_would_join_are_no_scalars(measured):
    _, study, _ = measured
    each = next(each for each in study.evaluated if each.name == "decay")
    shares = Chart(kind="curve", x="low", y="share", by="layer")  # x from 0 to 0.75
    assert charts.scalars([replace(each, charts=(shares,))], "1:1", 0) == {}
    assert len(charts.scalars(study.evaluated, "1:1", 0)) == 4  # two contexts and two places


def test_panels_share_the_x_axis_and_one_arm_of_several_is_named(plant, tmp_path):
    folder = plant(tmp_path / "shared", dict.fromkeys(ARMS, 0.0), seeds=1, known_worse=())
    rows = [{"x": x, "y": x, "b": b} for b, most in (("short", 3), ("long", 30)) for x in range(1, most)]
    measure(folder / "arm0-0123/seed-0", "one", rows, [LONE], "identity of 1:1", 0)
    measure(folder / "arm0-0123/seed-0", "two", rows, [LONE], "identity of 1:1", 0)
    measure(folder / "arm2-0123/seed-0", "two", rows[:2], [LONE], "identity of local-only", 0)
    made = charts.figures(load(folder).evaluated, ARMS)
    lone, both = made["evaluation-report.one-1"], made["evaluation-report.two-1"]
    assert [legend.get_title().get_text() for legend in lone.legends] == ["Lone: 1:1"]
    assert [legend.get_title().get_text() for legend in both.legends] == ["Lone"]
    assert len(both.axes) == 2 and both.axes[0].get_xlim() == both.axes[1].get_xlim()
    assert lines_of(both) == {charts.looks(ARMS)[arm].colour for arm in ("1:1", "local-only")}


@pytest.fixture
def command(monkeypatch, capsys):
    """`command(*words)` runs `python -m analysis` in this process: (exit code, output, errors)."""
    monkeypatch.setattr(signal, "signal", lambda *args: None)

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["analysis", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main(app, "analysis")
        return ended.value.code, *capsys.readouterr()

    return run


def test_a_run_has_a_page_of_its_own(command, plant_run, tmp_path):
    folder = tmp_path / "mine-0123" / "seed-3"
    plant_run(folder, "1:1", 3, 4.0, np.random.default_rng(0))
    for name, chart in CHARTS.items():
        measure(folder, name, table(name, "1:1", 3), [chart], "identity of 1:1", 3, {"report/recall": 0.25})
    code, out, errors = command("report", folder)
    assert (code, out, errors) == (0, f"{folder / 'evaluations.html'}\n", "")
    page = (folder / "evaluations.html").read_text()
    assert_self_contained(page)
    assert page.count("<svg") == len(CHARTS) and "<h1>mine-0123/seed-3</h1>" in page
    assert "0.2500" in page and "return &lt;x&gt;" in page and "2.13.0" in page


def test_a_checkpoint_has_a_page_too_and_keeps_its_problems(command, tmp_path):
    (tmp_path / "model.safetensors").touch()
    measure(tmp_path, "needle", table("needle", "x", 0), [NEEDLE], "", 0)
    (tmp_path / "evaluations" / f"report.decay-{'d' * 12}.json").write_text("{")
    code, _, errors = command("report", tmp_path)
    assert code == 0 and errors.startswith("warning: ") and errors.count("\n") == 1
    page = (tmp_path / "evaluations.html").read_text()
    assert page.count("<svg") == 1 and "checkpoint" in page and f"report.decay-{'d' * 12}.json" in page


def test_what_has_no_evaluation_is_refused_in_one_line(command, plant_run, tmp_path):
    (tmp_path / "model.safetensors").touch()
    code, out, errors = command("report", tmp_path)
    assert (code, out) == (2, "") and errors.count("\n") == 1
    assert f"{tmp_path}: nothing was measured of it; `archbench evaluate" in errors
    assert not (tmp_path / "evaluations.html").exists()
    empty = tmp_path / "empty"
    empty.mkdir()
    code, _, errors = command("report", empty)
    assert code == 2 and errors.count("\n") == 1 and "study.json" in errors


def test_a_broken_record_of_a_run_is_a_problem(command, tmp_path):
    measure(tmp_path, "needle", table("needle", "x", 0), [NEEDLE], "i", 0)
    (tmp_path / "record.json").write_text("[")
    code, _, errors = command("report", tmp_path)
    assert code == 0 and "record.json: cannot be read" in errors
    assert RunRecord.read_whole(tmp_path) is None and (tmp_path / "evaluations.html").is_file()


def test_numbers_at_axes_are_short_and_plain():
    shown = {
        131072: "131,072",
        0.25: "0.25",
        0: "0",
        2.5e6: "2.50\N{NO-BREAK SPACE}M",
        -3: "\N{MINUS SIGN}3",
        1e-5: "1e\N{MINUS SIGN}05",
    }
    assert {value: charts.number_text(value) for value in shown} == shown


def test_ticks_that_are_close_have_texts_of_their_own():
    ticks = [4.6810, 4.6812, 4.6814]
    assert [chart_axes.number_text(tick, chart_axes._digits(ticks)) for tick in ticks] == ["4.681", "4.6812", "4.6814"]
    assert chart_axes._digits([0.25, 0.5, 1e6]) == 4
