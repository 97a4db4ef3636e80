"""The report is complete and self-contained, and works for every half-finished study."""

import io
import re
import signal
import subprocess
import sys

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from self_contained import SCRIPTS, assert_self_contained

from analysis import bill, drawing, plots, tables, tables_html
from analysis.__main__ import app
from analysis.claims import judge
from analysis.curves import bands
from analysis.report import write_report
from analysis.runs import history, load, study_frame
from analysis.study import Study, run
from analysis.tensorboard import write_logs
from arch.cli import main
from arch.errors import DataError
from experiments.metrics import EXECUTED, IDEAL
from sweeps import show
from sweeps.record import StudyRecord


def test_report_is_self_contained_and_escaped(make_study, tuning_trials):
    folder = make_study(
        seeds=2, question="Is <script>alert('x')</script> & co worse?", trials=tuning_trials(["1:1", "3:1"], best=0)
    )
    page = write_report(folder).read_text()
    assert_self_contained(page)
    assert "Is &lt;script&gt;" in page and "return &lt;x&gt;" in page
    assert page.count("<svg") == 4
    assert {path.name for path in folder.iterdir() if path.is_file()} == {
        "study.json",
        "report.html",
        "results.csv",
        "claims.csv",
        "runs.csv",
        "results.tex",
    }


def test_report_lists_what_did_not_finish(make_study, tuning_trials):
    folder = make_study(seeds=3, failed=[("3:1", 0)], missing=[("5:1", 1)], trials=tuning_trials(["1:1"]))
    page = write_report(folder).read_text()
    assert "NonFiniteLoss at step 200: the loss is nan (blocks.3.mixer)" in page
    assert "5:1, seed 1" in page and "pruned" in page and "2 of 3" in page


@pytest.mark.parametrize(
    "planted",
    [
        {"effects": {"only": 0.0}, "known_worse": ()},
        {"seeds": 1},
        {"seeds": 2, "failed": [(arm, seed) for arm in ("1:1", "3:1", "5:1", "local-only") for seed in (0, 1)]},
        {"seeds": 2, "missing": [(arm, seed) for arm in ("1:1", "3:1", "5:1", "local-only") for seed in (0, 1)]},
        {"seeds": 2, "failed": [("1:1", 0), ("1:1", 1)]},
        {"effects": {f"arm {i}": 0.0 for i in range(12)}, "known_worse": (), "seeds": 2},
    ],
    ids=["one arm", "one seed", "all failed", "none started", "baseline failed", "twelve arms"],
)
def test_report_of_any_study(make_study, planted):
    page = write_report(make_study(**planted)).read_text()
    assert_self_contained(page)
    words = re.sub(r"the loss is nan|<svg.*?</svg>", "", SCRIPTS.sub("", page), flags=re.DOTALL)
    assert not re.search(r"\bnan\b|\bNone\b|\binf\b", words)
    assert "NaN" not in SCRIPTS.sub("", page)


def test_csv_round_trip(make_study):
    study = load(make_study(failed=[("3:1", 0)]))
    raw = tables.results(study, judge(study))
    back = pd.read_csv(io.StringIO(tables.csv(raw)))
    for name in raw.frame:
        if pd.api.types.is_numeric_dtype(back[name]):
            assert back[name].to_numpy() == pytest.approx(pd.to_numeric(raw.frame[name]).to_numpy(), nan_ok=True), name
    assert list(back.arm) == list(study.record.arms)
    assert list(back.n) == [5, 4, 5, 5]


def test_tables_in_every_form(make_study):
    study = load(make_study())
    raw = tables.results(study, judge(study))
    for form in (tables.text, tables.markdown, tables.latex, tables_html.results):
        assert all(arm in form(raw) for arm in study.record.arms)
    assert r"\%" in tables.latex(raw) and not re.search(r"[^\\]%", tables.latex(raw))
    assert tables.latex(raw).isascii()


def test_frames(make_study):
    folder = make_study(failed=[("3:1", 0)], missing=[("5:1", 1)])
    runs, curves = study_frame(folder), history(folder)
    assert len(runs) == 20 and runs.status.value_counts().to_dict() == {"finished": 18, "failed": 1, "missing": 1}
    assert runs.loc[(runs.arm == "3:1") & (runs.seed == 0), "report/loss"].isna().all()
    assert curves.groupby(["arm", "seed"]).ngroups == 19
    assert curves["select/loss"].isna().any() and curves["train/loss"].notna().all()
    assert len(Study(folder).table()) == 4
    assert run(runs.folder[0]).record.status == "finished"


def test_an_objective_without_perplexity_is_reported_in_its_own_words(make_study, tuning_trials):
    spec = {"tune": {"metric": "select/accuracy"}}
    folder = make_study(accuracy=True, spread=0.0005, trials=tuning_trials(["1:1", "3:1"]), spec=spec)
    page = write_report(folder).read_text()
    study = load(folder)
    table = tables.readable(tables.results(study, judge(study)))
    assert "erplexity" not in page.replace(study.record.question, "") and "perplexity" not in " ".join(table)
    assert "Accuracy is the mean of <code>report/accuracy</code>" in page and "±0.01\N{NO-BREAK SPACE}points" in page
    frame = pd.read_csv(folder / "results.csv")
    assert {"accuracy", "accuracy_low", "difference", "difference_sd"} <= set(frame) and "loss_nats" not in frame
    assert frame.verdict.tolist() == ["baseline", "no difference", "no difference", "worse"]
    made = plots.figures(study, judge(study))
    labels = {name: [axes.get_xlabel() + axes.get_ylabel() for axes in figure.axes] for name, figure in made.items()}
    assert "accuracy against 1:1, points (right is better)" in labels["differences"][0]
    assert "accuracy (higher is better)" in labels["quality_cache"][0]
    assert labels["curves"] == ["accuracy on the select split, points", "accuracy against 1:1, points"]
    assert labels["tuning"] == ["optimizer.lraccuracy on the select split, points"]


def test_the_highest_accuracy_is_the_best_trial(make_study, tuning_trials):
    trials = tuning_trials(["1:1", "3:1"], best=1)  # the tuning metric is lowest at 3e-4
    best = {}
    for metric in ("loss", "accuracy"):
        folder = make_study(accuracy=True, seeds=1, trials=trials, spec={"tune": {"metric": f"select/{metric}"}})
        study = load(folder)
        figure = plots.figures(study, judge(study))["tuning"]
        best[metric] = figure.axes[0].get_lines()[1].get_xdata()[0]
    assert best == {"loss": pytest.approx(3e-4), "accuracy": pytest.approx(1e-2)}


def test_curves_have_the_columns_that_runs_have(make_study):
    folder = make_study(seeds=2)
    bare = pd.DataFrame({"step": [1, 2], "tokens": [8, 16], "train/reward": [0.5, 0.25]})
    bare.to_parquet(folder / "arm1-0123/seed-0/history.parquet")
    curves = history(folder)
    mine = (curves.arm == "3:1") & (curves.seed == 0)
    assert curves.loc[mine, "train/reward"].tolist() == [0.5, 0.25] and curves.loc[~mine, "train/reward"].isna().all()
    assert curves.loc[mine, "select/loss"].isna().all() and curves[["step", "tokens"]].notna().all(axis=None)
    assert write_report(folder).exists() and write_logs(folder).is_dir()


def test_broken_files_are_named(make_study):
    folder = make_study(seeds=3)
    (folder / "arm1-0123/seed-0/record.json").write_text('{"status": "fini')
    (folder / "arm2-0123/seed-1/history.parquet").write_bytes(b"PAR1 half a fi")
    (folder / "arm3-0123/seed-2/record.json").write_text("[]")
    study = load(folder)
    assert (study.runs.status == "unreadable").sum() == 2
    assert [re.search(r"arm\d", problem)[0] for problem in study.problems] == ["arm1", "arm2", "arm3"]
    page = write_report(folder).read_text()
    assert "arm2-0123/seed-1/history.parquet" in page


@pytest.mark.parametrize("content", [None, "", "{", "[]", '{"name": 3}'])
def test_no_study(tmp_path, content):
    if content is not None:
        (tmp_path / "study.json").write_text(content)
    with pytest.raises(DataError, match=r"study.json"):
        load(tmp_path)


def test_no_study_names_those_below(make_study, tmp_path):
    make_study()
    with pytest.raises(DataError, match=r"there are studies in .*study"):
        load(tmp_path)


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


def test_bad_folder_ends_with_one_message(command, tmp_path):
    code, out, errors = command("report", tmp_path / "none")
    assert (code, out) == (2, "") and errors.count("\n") == 1 and "no such folder" in errors


def test_commands_print_verdict_path_and_table(command, make_study):
    folder = make_study(seeds=3)
    code, out, _ = command("report", folder)
    assert code == 0 and out.splitlines()[-1] == str(folder / "report.html") and "local-only" in out
    code, out, _ = command("table", folder, "--format", "csv")
    assert code == 0 and out == (folder / "results.csv").read_text()


def test_analysis_imports_no_training_library():
    modules = [
        "__main__",
        "chart_axes",
        "charts",
        "claims",
        "curves",
        "evaluated",
        "measurements",
        "plots",
        "report",
        "run_report",
        "runs",
        "shown",
        "study",
        "style",
        "tables",
        "tensorboard",
    ]
    code = f"""
import sys, importlib
for name in {modules!r}: importlib.import_module("analysis." + name)
heavy = [name for name in ("torch", "pytorch_lightning", "lightning", "optuna") if name in sys.modules]
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_flops_have_one_name_and_one_number_in_the_preview_and_in_the_report(make_study):
    """With what an objective adds, such as a teacher's forward passes."""
    folder = make_study(seeds=2)
    record = StudyRecord.read(folder)
    costs = {label: arm.cost | {"objective": {"flops": 4.5e12}} for label, arm in record.arms.items()}
    arms = {label: arm.model_copy(update={"cost": costs[label]}) for label, arm in record.arms.items()}
    record.model_copy(update={"arms": arms}).write(folder)
    study = load(folder)
    given = tables.readable(tables.results(study, judge(study))).set_index("arm")[IDEAL]
    tokens = next(iter(study.records.values())).tokens
    for label, cost in costs.items():
        per_token = {kind: cost["flops_per_token"][kind]["train"] for kind in ("ideal", "executed")}
        arm = {"parameters": 1, "tokens": tokens, "flops_per_token": per_token, "objective": cost["objective"], "cache_bytes": 1}
        assert show._costs(label, arm | {"training_flops": 1, "long": cost["long"]}, None)[2] == given[label]
    assert list(bill.readable(bill.bill(study)))[1] == EXECUTED and "(ideal)" in IDEAL and "(executed)" in EXECUTED


def test_a_curve_with_a_number_that_is_not_finite_is_drawn_without_it(make_study):
    folder = make_study(seeds=3)
    path = folder / "arm0-0123" / "seed-0" / "history.parquet"
    curve = pd.read_parquet(path)
    curve.loc[curve["select/loss"].notna().idxmax(), "select/loss"] = np.inf
    curve.to_parquet(path)
    study = load(folder)
    band = bands(study, "select/loss")["1:1"]
    whole = bands(study, "select/loss")["3:1"]
    assert np.isfinite(band["mean"]).all() and len(band) == len(whole) - 1


@pytest.mark.parametrize("longest", [3, 30])
@pytest.mark.parametrize("arm", ["encoder-decoder", "b" * 150])
def test_a_long_title_stays_in_the_figure_whatever_room_names_take(longest, arm):
    figure = Figure(figsize=(drawing.WIDTH, 3), layout="constrained")
    with matplotlib.rc_context(drawing.STYLE):
        axes = figure.subplots()
        axes.set_yticks([0], ["n" * longest])
        drawing.titled(axes, f"Compared with {arm}: random and untrained are worse; decoder is better; the rest is undecided")
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw(renderer)
    title, plot = axes._left_title.get_window_extent(renderer), axes.get_window_extent(renderer)
    assert 0 <= title.x0 < title.x1 <= figure.bbox.x1 and plot.y1 < title.y0 and title.y1 <= figure.bbox.y1


def test_the_words_below_a_figure_stay_in_it(tmp_path, plant):
    study = load(plant(tmp_path / "long", {"1:1": 0.0, "n" * 40: 0.05, "3:1": 0.0}, known_worse=()))
    figure = plots.differences(study, judge(study))
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw(renderer)
    label = figure.axes[0].xaxis.label.get_window_extent(renderer)
    assert 0 <= label.x0 < label.x1 <= figure.bbox.x1 and label.y0 >= 0


@pytest.mark.parametrize("names", [("b" * 150,), ("b" * 150, "words that go on and on " * 6), tuple(c * 150 for c in "bcdefgh")])
def test_a_report_of_arms_with_long_names_draws_its_figures(tmp_path, plant, names):
    page = write_report(plant(tmp_path / "long", {name: 0.01 * i for i, name in enumerate(names)}, seeds=3)).read_text()
    assert "<svg" in page and names[0] in page


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("rate=high caps=off against rate=high caps=on", "rate=high: caps=off against caps=on"),
        ("a=1 b=2 c=3 against a=1 b=9 c=3", "a=1 c=3: b=2 against b=9"),
        ("caps=off against caps=on", "caps=off against caps=on"),
        ("a=1 against a=1 b=2", "a=1 against a=1 b=2"),
        ("short against long", "short against long"),
        ("deep, dim=4 against wide, dim=4", "deep, dim=4 against wide, dim=4"),
    ],
)
def test_what_two_cells_of_a_grid_share_stands_once(name, shown):
    assert drawing.short(name) == shown
