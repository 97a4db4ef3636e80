"""A study from its first run to its record: missing runs are done, finished ones are reused, failures are reported."""

import json
import subprocess
import sys
from types import SimpleNamespace

import pytest
import sweeps_fakes as fakes
from rich.console import Console

from arch import document
from experiments.record import RunRecord
from sweeps import __main__ as command
from sweeps import show, status, study
from sweeps.job import Event, Outcome
from sweeps.progress import Progress, clock
from sweeps.record import StudyRecord
from sweeps.run import run_study
from sweeps.table import LiveTable


def test_a_study_ends_with_its_record_and_runs(plan_study, study_data, console):
    study_data["arms"]["fails"] = {"optimizer.lr": fakes.FAILS}
    planned = plan_study(study_data, "gemma3/local_global", "laptop")
    result = run_study(planned, 2, console, fakes.prepare)
    record = StudyRecord.read(planned.folder)
    assert [outcome.status for outcome in result.outcomes].count("finished") == 4 and not result.complete
    assert record.arms["fails"].runs.keys() == {"0", "1"}
    out = console.file.getvalue()
    assert out.count("finished in") == 4 and "fails seed 0 failed" in out and "nan" in out
    assert {cell.state for cell in status.cells(planned.folder, record).values()} == {"finished", "failed"}
    assert status.printed(planned.folder, console) and "4 finished, 2 failed" in console.file.getvalue()
    assert "resume with: " in console.file.getvalue()


def test_what_has_no_effect_is_a_warning_of_the_run_and_in_the_record(plan_study, study_data, console):
    study_data["arms"] |= {"wide": {"model.blocks.local.mixer.window": 32}, "wider": {"model.blocks.local.mixer.window": 40}}
    planned = plan_study(study_data)
    for job in planned.jobs():
        fakes.finish(job)
    run_study(planned, None, console)
    remarks = StudyRecord.read(planned.folder).remarks
    warnings = [line for line in console.file.getvalue().splitlines() if line.startswith("warning: ")]
    assert warnings == [f"warning: {remark}" for remark in remarks]
    assert any(remark.startswith("arms 'wide' and 'wider' compute the same") for remark in remarks)
    assert any(remark.startswith("arm 'all local': model.pattern: every layer is 'local'") for remark in remarks)


def test_what_failed_is_tried_again_and_what_finished_is_not(plan_study, study_data, console):
    study_data["arms"]["fails"] = {"optimizer.lr": fakes.FAILS}
    run_study(plan_study(study_data), 2, console, fakes.prepare)
    again = run_study(plan_study(study_data), 2, console, fakes.prepare)
    assert [outcome.reused for outcome in again.outcomes] == [True, True, False] * 2
    visits = [len((each.job.folder / "visits").read_text().split()) for each in again.outcomes]
    assert visits == [1, 1, 2] * 2


def test_with_nothing_left_no_worker_is_made(plan_study, study_data, console, monkeypatch):
    planned = plan_study(study_data)
    for job in planned.jobs():
        fakes.finish(job)
    monkeypatch.setattr("sweeps.workers.Pool", None)
    assert run_study(planned, None, console).complete
    assert "all 4 runs are finished already" in console.file.getvalue()


def test_a_finished_study_reads_each_record_once_and_costs_each_arm_once(plan_study, study_data, console, monkeypatch):
    """A start with nothing left to do, and a status, of a study whose runs lie in it and in another study."""
    for job in plan_study(study_data | {"seeds": 3}, "other").jobs():
        fakes.finish(job)
    costed, read = [], []
    parse = RunRecord.read_whole.__func__
    monkeypatch.setattr(RunRecord, "read_whole", classmethod(lambda cls, folder: read.append(str(folder)) or parse(cls, folder)))
    monkeypatch.setattr("arch.cost.cache_bytes", lambda spec, context: costed.append(1) or {"total": context})
    planned = plan_study(study_data | {"seeds": 3})
    assert run_study(planned, None, console).complete and status.printed(planned.folder, console)
    assert sorted(read) == sorted({str(job.folder) for job in planned.jobs()}) and len(read) == 6
    assert len(costed) == len(planned.arms)


def test_a_second_start_imports_neither_lightning_nor_optuna(tmp_path, study_data, console):
    path = tmp_path / "study.yaml"
    path.write_text(json.dumps(study_data))
    spec, arms = study.check(document.load(str(path), "sweeps"))
    for job in study.plan("study", None, spec, arms, tmp_path / "runs").jobs():
        fakes.finish(job)
    code = (
        "import sys; from sweeps import __main__ as m; m._report = lambda folder: True; "
        f"code = m.app(['run', {str(path)!r}, '--runs', {str(tmp_path / 'runs')!r}], standalone_mode=False); "
        "print(code, sorted({'pytorch_lightning', 'lightning', 'optuna', 'analysis'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True, cwd=document.ROOT)
    assert done.stdout.splitlines()[-1] == "0 []", done.stdout + done.stderr


def run_command(*words):
    """The exit code of a command, in this process."""
    return command.app(list(words), standalone_mode=False)


@pytest.fixture
def fake_command(monkeypatch, tmp_path, plan_study):
    """The `run` command with fake training and without a report."""
    monkeypatch.setattr("sweeps.run.run_study.__defaults__", (fakes.prepare, None, False))
    monkeypatch.setattr(command, "_report", lambda folder: True)


@pytest.mark.parametrize(("lr", "code"), [(fakes.FINE, 0), (fakes.FAILS, 1), (fakes.DIES, 1)])
def test_the_exit_code_says_whether_a_run_failed(fake_command, tmp_path, study_data, lr, code, capsys):
    path = tmp_path / "study.yaml"
    path.write_text(json.dumps(study_data | {"arms": {"a": {}, "b": {"optimizer.lr": lr}}, "seeds": 1}))
    assert run_command("run", str(path), "--runs", str(tmp_path / "runs")) == code
    assert ("b seed 0" in capsys.readouterr().err) == (code == 1)


def test_a_folder_that_cannot_be_written_is_one_message(fake_command, tmp_path, study_data, capsys):
    path = tmp_path / "study.yaml"
    path.write_text(json.dumps(study_data))
    (tmp_path / "runs").write_text("a file where the folder should be")
    assert run_command("run", str(path), "--runs", str(tmp_path / "runs")) == 1
    assert "cannot write the study in" in capsys.readouterr().err


def test_an_interrupted_study_exits_with_130_and_resumes(tmp_path, study_data):
    """Uses a real parent process, real workers and a signal from outside; only the training is fake."""
    import os
    import signal
    import time

    path = tmp_path / "study.yaml"
    path.write_text(json.dumps(study_data | {"optimizer": {"lr": fakes.WAITS}}))
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(tests=os.path.dirname(fakes.__file__), root=str(document.ROOT)))
    words = [sys.executable, str(script), "run", str(path), "--runs", str(tmp_path / "runs"), "--workers", "1"]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    visits = lambda: list((tmp_path / "runs").glob("*/*/*/*/visits"))  # noqa: E731
    until = time.monotonic() + 30
    while not visits() and time.monotonic() < until:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=20)
    assert process.returncode == 130, out + err
    assert "the same command resumes" in err and "Traceback" not in err
    assert [json.loads((each.parent / "record.json").read_text())["status"] for each in visits()] == ["interrupted"]


SCRIPT = """
import sys

sys.path[:0] = [{tests!r}, {root!r}]
import sweeps_fakes
from arch import cli
from sweeps import __main__ as command

if __name__ == "__main__":
    import experiments.plan
    import sweeps.run

    experiments.plan.plan = sweeps_fakes.plan
    sweeps.run.run_study.__defaults__ = (sweeps_fakes.prepare, None, False)
    cli.main(command.app, "sweeps")
"""


def test_show_lists_every_run_and_their_total(study_data):
    spec, arms = study.check(document.node(study_data))
    data = show.preview("asked", None, spec, arms)
    first, second = data["arms"].values()
    assert data["total"]["runs"] == 4 and first["tokens"] == 12 * 4 * 32
    assert first["layers"] == {"rec": 1, "local": 1, "global": 1} and second["pattern"] == ["3*local"]
    total = 2 * sum(arm["flops_per_token"]["executed"] * arm["tokens"] for arm in (first, second))
    assert data["total"]["training_flops"] == total > 0


def test_list_and_show_know_the_shipped_studies(capsys):
    run_command("list")
    out = capsys.readouterr().out
    for name in document.shipped("sweeps"):
        assert name in out
    assert out.count("(default)") == len(document.shipped("sweeps")), "what runs without --scale is said of each"
    run_command("list", "gqa", "frobnicate")
    assert "no shipped study has 'gqa' and 'frobnicate' in its name or question" in capsys.readouterr().out
    run_command("show", "gemma3/local_global", "--scale", "smoke")
    out = capsys.readouterr().out
    assert "6 local, 6 global" in out and "│ local-only" in out and "total: 10 runs" in out


def events(plan_study, study_data):
    job = plan_study(study_data).jobs()[0]
    yield Event("started", job)
    yield Event("progress", job, {"step": 3, "steps": 12, "loss": 3.5, "select_loss": None, "tokens_per_second": 9.0})
    yield Event("again", job, message="died")
    yield Event("ended", job, outcome=Outcome(job, "finished", fakes.record(job.plan, 0, "finished")))


def test_the_live_table_shows_every_state(plan_study, study_data):
    import io

    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=160)
    jobs = plan_study(study_data).jobs()
    with LiveTable(console, "a study", Progress(jobs)) as table:
        for event in events(plan_study, study_data):
            table(event)
            table.live.refresh()
    for said in ("to do", "25%", "3.5000", "9 tok/s", "again", "1 of 4 runs", "all local"):
        assert said in out.getvalue()


def test_the_time_left_counts_only_what_this_start_did_and_mostly_the_last_minute(plan_study, study_data):
    now = SimpleNamespace(time=100.0)
    first, second, *_ = plan_study(study_data).jobs()
    progress = Progress([first, second], clock=lambda: now.time)
    assert progress.seconds_left() is None

    def at(seconds, step):
        now.time = 100.0 + seconds
        progress.take(Event("progress", first, {"step": step, "steps": 1000}))

    at(30, 500)  # resumed at half, after the seconds in which a worker started
    at(40, 510)  # one step per second since, and 10 in 40 s since the start
    assert progress.seconds_left() == pytest.approx(1490 / ((2 * 1 + 10 / 40) / 3))
    for seconds in range(41, 141):
        at(seconds, 510 + (seconds - 40) // 10)  # ten times slower
    assert progress.seconds_left() == pytest.approx(1480 / ((2 * 6 / 60 + 20 / 140) / 3))
    now.time += 1000  # a long evaluation: no step in the last minute
    last = progress.seconds_left()
    assert 1480 * 1140 / 20 < last < 3 * 1480 * 1140 / 20
    assert clock(None) == "?" and clock(3723) == "1:02:03" and clock(61) == "1:01"
