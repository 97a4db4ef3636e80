"""`study status`: what was run, beside what the study's file asks for now; and tables that fit a terminal."""

import io
import json
import re

import pytest
import sweeps_fakes as fakes
from rich.console import Console

from arch import document
from arch.errors import SpecError
from arch.stacked import stacked
from experiments.record import NAME as RUN_RECORD
from sweeps import __main__ as command
from sweeps import folders, origin, study
from sweeps.progress import Cell
from sweeps.record import NAME
from sweeps.table import grid

pytestmark = pytest.mark.usefixtures("plan_study")  # plans need no data


@pytest.fixture
def status(tmp_path, monkeypatch, study_data):
    """status(**changes) writes the study's file and returns what `study status` prints. The file was run to the end before."""
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "x.yaml"

    def printed(width=160, **changes):
        file.write_text(json.dumps(study_data | changes))
        console = Console(file=io.StringIO(), width=width)
        monkeypatch.setattr(command, "terminal", lambda: console)
        command.status("x.yaml", None, tmp_path / "runs")
        return console.file.getvalue()

    file.write_text(json.dumps(study_data))
    root = document.load("x.yaml", "sweeps")
    spec, arms = study.check(root, None)
    planned = study.plan(folders.study_name("x.yaml"), None, spec, arms, tmp_path / "runs", "", origin.of("x.yaml", root))
    planned.folder.mkdir(parents=True)
    planned.record().write(planned.folder)
    for job in planned.jobs():
        job.folder.mkdir(parents=True)
        fakes.record(job.plan, job.seed, "finished", metrics={"report/loss": 4.0 + job.seed}).write(job.folder)
    printed.folder, printed.runs = planned.folder, [job.folder for job in planned.jobs()]
    return printed


def summary(said):
    """The line that counts the runs."""
    return next(line for line in said.splitlines() if "; folder:" in line).partition("; folder:")[0]


def test_the_file_as_it_is_now_is_compared_with_what_was_run(status, study_data):
    arms = study_data["arms"]
    assert summary(status()) == "4 finished"
    assert summary(status(question="Better said?")) == "4 finished"
    assert summary(status(seeds=3)) == "4 finished, 2 to do: seeds 2 -> 3"
    more = status(arms={**arms, "c": {"train.steps": 3}}, seeds=3)
    assert summary(more) == "4 finished, 5 to do: +c, seeds 2 -> 3" and "resume with" in more
    assert summary(status(arms={"1:1": {}})) == "2 finished: -all local"


def test_arms_that_are_no_longer_the_same_are_to_do(status, study_data):
    arms = study_data["arms"] | {"all local": {"model.pattern": ["global"]}}
    assert summary(status(arms=arms)) == "2 finished, 2 to do: all local changed (model.pattern: [local] -> [global])"
    steps = study_data["train"]["steps"]
    said = summary(status(train=study_data["train"] | {"steps": steps + 1}))
    assert said == f"4 to do: 1:1 and all local changed (train.steps: {steps} -> {steps + 1})", "a change of the base is told once"
    assert summary(status(evaluate={"every": 7})) == "4 finished", "what is measured makes no run another one"


def test_another_baseline_and_a_search_for_rates_are_said(status, study_data):
    """They make no finished run another one, and yet what a start would do is another study."""
    swapped = dict(reversed(study_data["arms"].items()))
    old, new = study_data["arms"]
    assert summary(status(arms=swapped)) == f"4 finished: baseline {old} -> {new}"
    assert "tune added" in summary(status(tune={"space": {"optimizer.lr": {"low": 1e-3, "high": 1e-2}}}))


def test_a_change_of_the_base_that_an_arm_overrides_leaves_its_runs(status, study_data):
    model = study_data["model"] | {"pattern": ["global", "local"]}
    said = summary(status(model=model))
    assert said.startswith("2 to do, 2 finished: 1:1 changed (model.pattern: ")


def test_a_record_that_cannot_be_read_is_counted_as_such(status):
    (status.runs[0] / RUN_RECORD).write_text('{"status": "fin')
    said = status()
    assert summary(said) == "1 unreadable, 3 finished"
    assert f"unreadable: 1:1 seed 0: {status.runs[0] / RUN_RECORD} cannot be read; the run is done again" in said


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema": 1}', "\x00\x01"])
def test_a_damaged_study_record_is_one_line(status, text):
    (status.folder / NAME).write_text(text)
    with pytest.raises(SpecError) as refused:
        status()
    said = str(refused.value)
    assert said.count("\n") == 0 and said.startswith(str(status.folder / NAME)) and "move it away" in said


WIDE = ["arm", "runs", "parameters", "tokens", "FLOPs per token", "cache at 131,072 tokens"]
ROWS = [["a label that is long", "5", "659 k", "307 k", "4.88 MFLOP", "201 MB"], ["b", "12", "1.23 M", "1.1 B", "1 GFLOP", "3 kB"]]


@pytest.mark.parametrize("width", [200, 100, 80, 60, 45])
def test_a_table_that_is_narrow_cuts_no_cell(width):
    console = Console(file=io.StringIO(), width=width)
    console.print(stacked(console, "t", WIDE, ROWS))
    said = console.file.getvalue()
    assert max(map(len, said.splitlines())) <= width and "…" not in said
    for cell in [*(word for heading in WIDE[1:] for word in heading.split()), *(cell for row in ROWS for cell in row[1:])]:
        assert cell in said
    wide = said.count("parameters") == 1
    assert wide == (width >= 80), "cells are stacked only where they must be, after headings are folded"


@pytest.mark.parametrize("width", [60, 50])
def test_a_stacked_cell_carries_the_name_of_its_column_and_an_empty_one_has_no_line(width):
    console = Console(file=io.StringIO(), width=width)
    headings = ["run", *(f"report/number_{i}" for i in range(8)), "report/a_name_longer_than_others"]
    rows = [["a seed 0", *(f"{i}.5" for i in range(9))], ["a, tuning", "7.25", *[""] * 8]]
    console.print(stacked(console, "t", headings, rows))
    said = console.file.getvalue()
    for name, cell in zip(headings[1:], rows[0][1:], strict=True):
        assert re.search(rf"{name}[ │\n]+{re.escape(cell)} ", said)
    tuned = said[said.index("a, tuning") :].splitlines()
    assert len(tuned) == 2 and re.search(r"report/number_0 +7\.25", tuned[0]), "one line, and the frame"


@pytest.mark.parametrize("width", [200, 80, 40])
def test_the_grid_of_runs_cuts_nothing(width):
    cells = {(f"arm {i}", f"seed {seed}"): Cell(state="finished", loss=4.25 + seed / 1000) for i in range(2) for seed in range(12)}
    console = Console(file=io.StringIO(), width=width)
    console.print(grid(cells, "t", width))
    said = console.file.getvalue()
    assert "…" not in said and max(map(len, said.splitlines())) <= width
    assert all(said.count(f"{4.25 + seed / 1000:.4f}") == 2 for seed in range(12))


@pytest.mark.parametrize("label", ["A [/x]", "[red]A[/red]", "[link=x]"])
def test_brackets_in_a_label_are_letters(label, capsys):
    console = command.terminal()
    console.print(stacked(console, "a run of each arm", ["arm", "runs"], [[label, "3"]]))
    assert label in capsys.readouterr().out


def test_a_run_that_is_only_to_be_measured_is_not_failed(status, monkeypatch):
    from sweeps import status as stand

    problem = "report.loss: missing; `archbench study run` measures report.loss"
    monkeypatch.setattr(stand, "shown", lambda record, run, files, problems: problems.append(problem) or record)
    said = status()
    assert summary(said) == "4 to measure" and "to measure: 1:1 seed 0: report.loss: missing" in said


def test_a_study_that_began_only_with_other_values_or_at_another_scale_is_named(status, tmp_path, capsys):
    begun = tmp_path / "runs" / "x+seeds=3"
    status.folder.parent.rename(begun)
    assert "not started" in status()
    assert capsys.readouterr().out == f"with other values: {begun.name}/{status.folder.name}\n"
    begun.rename(begun.with_name("y"))  # that of another file
    record = begun.with_name("y") / status.folder.name / NAME
    record.write_text(record.read_text().replace("x.yaml", "y.yaml").replace('"content": "', '"content": "0'))
    assert "not started" in status() and capsys.readouterr().out == ""


def test_overrides_of_a_study_that_was_never_run_are_checked_too(status, study_data):
    with pytest.raises(SpecError, match="did you mean 'steps'"):
        command.status("x.yaml", None, changes=["train.stepz=50"])
