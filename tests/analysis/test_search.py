"""How a search is shown: its trials as data, the front, importances, the report's section, and TensorBoard."""

import html
import re
from dataclasses import replace

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from search_studies import CACHE, WHY, plant_runs, search_of, trials_of
from self_contained import SCRIPTS
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata
from typer.testing import CliRunner

from analysis import search, search_figures, trials
from analysis.__main__ import app
from analysis.bill import bill
from analysis.importance import FEWEST, importances
from analysis.report import write_report
from analysis.runs import load
from analysis.tensorboard import write_logs
from analysis.trials import best_so_far, searched

ARMS = {"all global": 0.0, "best 1": -0.01, "best 2": 0.01}


@pytest.fixture(scope="module")
def planted(plant, tmp_path_factory):
    """The folder of a study with a search of two objectives, and its trials."""
    made = trials_of()
    folder = plant(tmp_path_factory.mktemp("two"), ARMS, seeds=2, trials=made, search=search_of(made), known_worse=())
    plant_runs(folder, made)
    return folder, made


@pytest.fixture(scope="module")
def page(planted):
    return write_report(planted[0]).read_text()


def test_a_trial_counts_by_the_mean_over_its_seeds(make_study):
    (first, *_) = [each for each in trials_of() if each.state == "finished"]
    second = first.model_copy(update={"seed": 1001, "objectives": {**first.objectives, "select/loss": 9.0}})
    record = load(make_study(effects=ARMS, seeds=2, trials=[first, second], search=search_of([first]), known_worse=())).record
    (trial,) = searched(record).trials
    assert trial.objectives["select/loss"] == pytest.approx((first.value + 9.0) / 2)
    assert trial.objectives[CACHE] == first.objectives[CACHE] and list(trial.runs) == [1000, 1001]


def test_dimensions_know_the_choice_that_brings_them(planted):
    found = searched(load(planted[0]).record)
    under = {each.name: dict(each.under) for each in found.dimensions}
    assert under["model.blocks.local.mixer.window"] == {"between": "window"} and under["optimizer.lr"] == {}
    window = next(each for each in found.dimensions if each.under == {"between": "window"})
    assert all(window.is_of(trial) == (trial.values["between"] == "window") for trial in found.trials)


def test_the_section_names_counts_winners_and_reasons(planted, page):
    _, made = planted
    shown = html.unescape(page[page.index("<h2>Search</h2>") :])
    states = [each.state for each in made]
    assert f"{len(made)} trials: {states.count('finished')} finished" in shown
    winners = search_of(made)["winners"]
    assert f"Chosen: best 1 is trial {winners['best 1']} and best 2 is trial {winners['best 2']}." in shown
    assert search.NOT_ITS_OWN in shown
    assert WHY["infeasible"] in shown and WHY["pruned"] in shown and WHY["failed"] in shown
    assert re.search(rf"<th scope=row>infeasible</th><td class=number>{states.count('infeasible')}</td>", shown)
    assert "trial  , " not in shown and "seed None" not in shown


def test_the_table_of_the_front_has_every_value(planted):
    study = load(planted[0])
    found = searched(study.record)
    best = search.best_trials(found)
    assert [trial.number for trial in best] == sorted(found.front, key=lambda n: found.trials[n].objectives["select/loss"])
    frame = trials.frame(found)
    assert len(frame) == len(found.trials) and frame.front.sum() == len(found.front)
    for row, trial in zip(frame.to_dict("records"), found.trials, strict=True):
        assert all(row[name] == value for name, value in trial.values.items())
        assert row["runs"] == " ".join(trial.runs.values())
    assert sorted(frame.winner[frame.winner != ""]) == ["best 1", "best 2"]


def test_every_trial_has_a_mark_in_the_front(planted):
    study = load(planted[0])
    (axes,) = search_figures.front(study, searched(study.record)).axes
    marked = sum(len(line.get_xdata()) for line in axes.get_lines() if line.get_marker() in "oxvs" and line.get_markersize() < 10)
    assert marked == len(searched(study.record).trials)


@pytest.mark.parametrize("span", [0.1, 0.15, 0.2, 0.256, 0.3, 0.4])
def test_the_labels_of_the_front_are_inside_of_the_picture(planted, span):
    """Also where the ticks change with the room that is left for them: a first layout does not know the last ticks."""
    study = load(planted[0])
    found = searched(study.record)
    done = found.of("finished")
    losses = {trial.number: 3.216 + span * place / (len(done) - 1) for place, trial in enumerate(done)}
    at = lambda trial: trial.objectives | ({"select/loss": losses[trial.number]} if trial.number in losses else {})  # noqa: E731
    figure = search_figures.front(study, replace(found, trials=[replace(each, objectives=at(each)) for each in found.trials]))
    FigureCanvasAgg(figure).draw()
    (axes,) = figure.axes
    for text in (axes.yaxis.label, axes.xaxis.label, axes.title):
        box = text.get_window_extent()
        assert box.x0 >= 0 and box.x1 <= figure.bbox.width and box.y0 >= 0 and box.y1 <= figure.bbox.height, text.get_text()


def test_importances_find_what_matters_and_say_what_chance_reaches(planted):
    found = searched(load(planted[0]).record)
    rows = importances(found)
    assert rows[0].name == "optimizer.lr" and rows[0].is_seen
    assert sum(each.share for each in rows) == pytest.approx(1)
    assert all(0 <= each.low <= each.high <= 1 for each in rows)
    fewer = replace(found, trials=found.trials[: FEWEST + 4])
    assert importances(fewer) == importances(fewer) != []  # the same trials, the same numbers


def test_few_trials_have_no_importances(make_study):
    made = [each for each in trials_of(FEWEST + 20) if each.state == "finished"][: FEWEST - 1]
    folder = make_study(effects=ARMS, seeds=2, trials=made, search=search_of(made), known_worse=())
    study = load(folder)
    assert importances(searched(study.record)) == [] and search_figures.importance(searched(study.record)) is None
    assert f"Importances need at least {FEWEST} finished trials; there are {FEWEST - 1}." in search.section(study)


def test_one_objective_shows_the_best_so_far(make_study):
    made = trials_of(25, objectives=("select/loss",))
    study = load(make_study(effects=ARMS, seeds=2, trials=made, search=search_of(made, ("select/loss",)), known_worse=()))
    values = [value for _, value in best_so_far(searched(study.record))]
    assert values == sorted(values, reverse=True)
    assert values[-1] == min(each.value for each in made if each.value)
    assert "Best so far over 25 trials" in search_figures.progress(study, searched(study.record)).axes[0].get_title(loc="left")


@pytest.mark.parametrize("count", [0, 1])
def test_a_search_that_began(make_study, count):
    made = [each for each in trials_of(40) if each.state == "infeasible"][:count]
    page = write_report(make_study(effects=ARMS, seeds=2, trials=made, search=search_of(made), known_worse=())).read_text()
    words = re.sub(r"<svg.*?</svg>", "", SCRIPTS.sub("", page), flags=re.DOTALL)
    assert "<h2>Search</h2>" in page and not re.search(r"\bnan\b|\bNone\b", words)


def test_what_widened_is_said(make_study):
    made = trials_of(12)
    grown = search_of(made, widened={"optimizer.lr": [1e-3, 1.0]})
    study = load(make_study(effects=ARMS, seeds=2, trials=made, search=grown, known_worse=()))
    assert "The range of optimizer.lr grew from 0.001 to 0.1 to 0.001 to 1, since" in "".join(searched(study.record).widened)
    assert searched(study.record).widened[0] in search.section(study)


def test_the_bill_counts_the_trials(planted):
    folder, made = planted
    rows = bill(load(folder)).set_index("arm")
    assert rows.tuning_runs["trials of the search"] == rows.tuning_runs["total"] == sum(bool(each.run) for each in made)
    assert rows.tuning_wall_seconds["total"] == pytest.approx(10.0 * rows.tuning_runs["total"])


def test_every_trial_is_a_run_in_tensorboard(planted, monkeypatch):
    folder, made = planted
    monkeypatch.setattr(search_figures, "figures", lambda study: {})  # they are drawn in other tests, and take long
    logs = write_logs(folder)
    for trial in made:
        events = EventAccumulator(str(logs / "search" / f"trial-{trial.number}"), size_guidance={"scalars": 0})
        events.Reload()
        content = events.SummaryMetadata(metadata.SESSION_START_INFO_TAG).plugin_data.content
        row = metadata.parse_session_start_info_plugin_data(content).hparams
        assert row["trial"].string_value == str(trial.number) and row["state"].string_value == trial.state
        assert row["feasible"].string_value == ("no" if trial.state == "infeasible" else "yes")
        assert row["optimizer.lr"].number_value == trial.values["optimizer.lr"]
        assert row["between"].string_value == trial.values["between"]
        tags = events.Tags()["scalars"]
        for name, value in trial.objectives.items():
            assert events.Scalars(f"final/{name}")[-1].value == pytest.approx(value, rel=1e-6)
        assert "report/loss" not in tags
        if trial.state == "pruned":
            assert events.Scalars("train/loss")[-1].step == 100


def test_the_trials_as_a_table(planted):
    folder, made = planted
    lines = CliRunner().invoke(app, ["table", str(folder), "--trials", "--format", "csv"]).output.splitlines()
    assert len(lines) == len(made) + 1 and lines[0].startswith("trial,state,front,winner,pattern,")
    assert "trials are on the front" in CliRunner().invoke(app, ["table", str(folder), "--trials"]).output


def test_a_mixture_is_shown_by_its_parts(make_study):
    keys = [f"data.source.parts.{name}.weight" for name in ("code", "names", "notes")]
    made = [
        each.model_copy(update={"values": dict(zip(keys, (each.number / 100, 0.4 - each.number / 100, 0.6), strict=True))})
        for each in trials_of(12, objectives=("select/loss",), dead=0.0)
    ]
    space = {"mixture": {"simplex": keys, "concentration": 1.0, "first": []}}
    found = search_of(made, ("select/loss",), space=space)
    study = load(make_study(effects=ARMS, seeds=2, trials=made, search=found, known_worse=()))
    found = searched(study.record)
    assert [each.name for each in found.dimensions] == keys and {each.mixture for each in found.dimensions} == {"mixture"}
    assert [each.short for each in found.dimensions] == ["code.weight", "names.weight", "notes.weight"]
    drawn = search_figures.figures(study)
    (axes,) = drawn["search_mixtures"].axes
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["code.weight", "names.weight", "notes.weight"]
    assert len(axes.patches) == 36 and axes.get_yticklabels()[0].get_text().startswith("best 1: ")
    shown = search.section(study)
    assert "over 2 dimensions" in shown and "The best mixtures" in shown and "names.weight" in shown
    assert keys[0] in search.text(study)
