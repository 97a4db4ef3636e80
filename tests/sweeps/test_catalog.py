"""The list of one's own studies: what it says of each, marks, removal, and what `gc` may free."""

import json
import os
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest
from filelock import FileLock

from analysis import index, run_report
from arch.errors import DataError, SpecError
from arch.words import visible
from experiments.record import RunRecord
from sweeps import __main__ as commands
from sweeps import catalog, places, removal
from sweeps.marks import Marks
from sweeps.record import ArmRecord, LookRecord, StudyRecord, TrialRecord

IDENTITY = {"a": "a" * 64, "b": "b" * 64}


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """The folder `runs` in the working folder."""
    monkeypatch.chdir(tmp_path)
    Path("runs").mkdir()
    return Path("runs")


@pytest.fixture
def made(runs):
    """made(name, states, ...) writes a study with two arms and a run per state, of both in turn; returns its folder."""

    def make(name, states=("finished", "finished"), scale=None, words=None, question="Is it?", borrowed=None, started=10, **record):
        folder = runs / name / (scale or "base")
        arms = {arm: {} for arm in IDENTITY}
        for i, state in enumerate(states):
            arm, seed = "ab"[i % 2], i // 2
            place = Path(f"{arm}-{IDENTITY[arm][:12]}/seed-{seed}")
            if borrowed and arm == "a":
                arms[arm][str(seed)] = os.path.relpath(borrowed / place, folder)
                continue
            arms[arm][str(seed)] = str(place)
            if state != "to do":
                run(folder / place, state, seed, IDENTITY[arm], started + i)
        looks = [LookRecord(seeds=1, time="2026-01-01T00:00:00+00:00", words=words)] if words else []
        folder.mkdir(parents=True, exist_ok=True)
        StudyRecord(
            name=name,
            scale=scale,
            question=question,
            arms={arm: ArmRecord(changes={}, cost={}, identities=[IDENTITY[arm]], runs=places) for arm, places in arms.items()},
            seeds=list(range(max(1, len(states) // 2))),
            spec={},
            claims={"quality": {"type": "equivalent", "metric": "report/loss", "margin": 0.01, "known_worse": []}},
            long_context=64,
            looks=looks,
            command=f"archbench study run {name}.yaml",
            **record,
        ).write(folder)
        return folder

    return make


def run(folder, state, seed=0, identity="c" * 64, minute=10, **record):
    folder.mkdir(parents=True)
    ended = None if state == "running" else f"2026-01-01T00:{minute}:30+00:00"
    RunRecord(
        status=state, identity=identity, seed=seed, spec={}, started=f"2026-01-01T00:{minute}:00+00:00", ended=ended, **record
    ).write(folder)
    (folder / "model.safetensors").write_bytes(bytes(1000))
    return folder


def by_place(runs):
    return {each.place: each for each in catalog.entries(runs)}


def test_it_says_what_came_of_each_study(runs, made):
    made("done", words={"quality": {"a": "baseline", "b": "worse"}, "memory": {"b": "supported", "c": "supported"}}, started=20)
    made("half", ("finished", "finished", "interrupted", "to do"))
    made("lost", ("finished", "failed"))
    made("killed", ("finished", "running"))
    (made("broken") / "study.json").write_text('{"schema": 1}')
    entries = by_place(runs)
    states = {place: each.progress for place, each in entries.items()}
    assert states == {
        "broken/base": "damaged",
        "done/base": "finished",
        "half/base": "stopped 2/4",
        "killed/base": "stopped 1/2",
        "lost/base": "failed 2/2",
    }
    done = entries["done/base"]
    assert done.verdict == "2 supported, 1 worse" and done.last == "2026-01-01T00:21:30+00:00" and done.question == "Is it?"
    assert done.disk == sum(path.stat().st_size for path in done.folder.rglob("*") if path.is_file()) > 2000
    assert "missing; this key is required" in entries["broken/base"].why


def test_a_run_that_somebody_works_on_runs(runs, made):
    folder = made("now", ("finished", "running"))
    run = next(folder.glob("b-*/seed-0"))
    with FileLock(run / ".lock"):
        assert by_place(runs)["now/base"].state == "running"
    assert by_place(runs)["now/base"].state == "stopped"


def test_the_verdict_of_a_record_without_looks_is_judged_once_all_has_ended(runs, made):
    folder = made("old", ("finished",) * 6)
    for path in folder.glob("*/seed-*/record.json"):
        record = json.loads(path.read_text())
        worse = 0.5 if path.parts[-3].startswith("b") else 0.0
        record["metrics"] = {"report/loss": 2 + worse + 0.001 * int(path.parts[-2][-1]) * (1 + worse)}
        path.write_text(json.dumps(record))
    assert by_place(runs)["old/base"].verdict == "worse"
    next(folder.glob("b-*/seed-2/record.json")).unlink()
    assert by_place(runs)["old/base"].verdict == ""


def test_it_can_be_filtered_and_sorted(runs, made):
    made("wide", question="Does a wide window help?", started=30)
    made("rates", question="Which rate?", words={"q": {"b": "undecided"}}, started=20)
    made("windows", ("finished", "failed"), started=10)
    every = catalog.entries(runs)
    names = lambda *args, **options: [each.name for each in catalog.chosen(every, *args, **options)]  # noqa: E731
    assert names() == ["wide", "rates", "windows"]
    assert names(sort="name") == ["rates", "wide", "windows"] and names(["WINDOW"]) == ["wide", "windows"]
    assert names(["window", "help"]) == ["wide"] and names(["undecided"]) == ["rates"] and names(states=["failed"]) == ["windows"]
    for sort in catalog.SORTS:
        assert sorted(names(sort=sort)) == ["rates", "wide", "windows"]


def test_the_command_lists_mine_beside_the_shipped_ones(runs, made, capsys):
    made("mine", words={"quality": {"b": "no difference"}}, question="Is it\x1b[31m red?")
    commands.list_studies(runs=runs)
    shown = capsys.readouterr().out
    assert "mine/base  finished  " in shown and "no difference\n" in shown and r"Is it\x1b[31m red?" in shown
    assert "gemma3/local_global: Does perplexity suffer" in shown and f"{runs / 'index.html'}" in shown
    commands.list_studies(["local_global"], runs=runs)
    shown = capsys.readouterr().out
    assert "0 studies, " in shown and "1 more do not match" in shown and "griffin" not in shown
    commands.list_studies(json=True, runs=runs)
    (entry,) = json.loads(capsys.readouterr().out)
    assert (entry["place"], entry["state"], entry["verdict"]) == ("mine/base", "finished", "no difference")


def test_an_archived_study_is_left_out_and_a_note_is_shown(runs, made, capsys):
    made("one")
    made("two", scale="demo")
    commands.archive(["one"], runs=runs)
    commands.note("two/demo", "for the talk", runs=runs)
    capsys.readouterr()
    commands.list_studies(runs=runs)
    shown = capsys.readouterr().out
    assert "one/base" not in shown and "1 archived (--archived)" in shown and "note: for the talk" in shown
    commands.list_studies(["talk"], runs=runs)
    assert "two/demo" in capsys.readouterr().out, "notes are searched too"
    commands.archive(["runs/one/base"], undo=True, runs=runs)
    commands.note("two", runs=runs)
    shown = capsys.readouterr().out
    assert "listed again" in shown and shown.rstrip().endswith("for the talk")
    commands.note("two", clear=True, runs=runs)
    assert not (runs / "two/demo/marks.json").exists() and Marks.read(runs / "two/demo") == Marks()


def test_a_run_is_found_whether_its_record_is_packed_or_not(tmp_path):
    for seed, name in ((0, "record.json"), (1, "record.json.gz")):
        (tmp_path / f"base-0123/seed-{seed}").mkdir(parents=True)
        (tmp_path / f"base-0123/seed-{seed}" / name).write_bytes(b"")
    with pytest.raises(DataError, match=r"base-0123: it has 2 runs; expected one of .*seed-0 or .*seed-1"):
        places.here("base-0123", tmp_path)
    (tmp_path / "base-0123/seed-0/record.json").unlink()
    run = tmp_path / "base-0123/seed-1"
    assert places.here("base-0123", tmp_path) == run == places.here(run / "record.json.gz")


def test_a_study_is_named_by_folder_place_or_name(runs, made):
    first, second = made("a", scale="demo"), made("a", scale="laptop")
    for reference in ("runs/a/demo", "a/demo", str(first.resolve())):
        assert places.study(reference, runs).samefile(first)
    with pytest.raises(DataError, match="a: it has 2 scales; expected one of a/demo or a/laptop"):
        places.study("a", runs)
    with pytest.raises(DataError, match=r"no study 'a/dem' in runs; did you mean 'a/demo'"):
        places.study("a/dem", runs)
    removal.remove([removal.of_studies([second], runs).waste], runs)
    assert places.study("a", runs).samefile(first)


def test_removing_keeps_the_runs_that_others_use(runs, made, capsys):
    first = made("first")
    second = made("second", borrowed=first)
    assert commands.rm(["first"], dry_run=True, runs=runs) == 0
    shown = capsys.readouterr().out
    assert "kept: 1 run that runs/second/base uses" in shown and "nothing is removed" in shown and (first / "study.json").exists()
    assert commands.rm(["first"], yes=True, runs=runs) == 0
    assert sorted(path.name for path in first.iterdir()) == ["a-aaaaaaaaaaaa"]
    assert by_place(runs)["second/base"].state == "finished"
    assert commands.rm(["second"], yes=True, runs=runs) == 0
    assert not second.parent.exists() and [each.place for each in catalog.entries(runs)] == []
    # Nothing refers to what was kept any more.
    waste, _ = removal.collectable(runs, 30)
    assert [path.name for part in waste for path in part.paths] == ["seed-0"]
    removal.remove(waste, runs)
    assert [path.name for path in runs.iterdir()] == ["index.html"]


def test_a_run_that_starts_from_another_keeps_it(runs, made):
    first = made("first")
    teacher = next(first.glob("b-*/seed-0"))
    student = runs / "single/student/run-0123456789ab/seed-0"
    run(student, "finished", runs={"teacher": {"folder": os.path.relpath(teacher, student)}})
    started = runs / "single/started/run-0123456789ab/seed-0"
    run(started, "finished")
    record = json.loads((started / "record.json").read_text())
    place = str(next(first.glob("a-*/seed-0")))
    (started / "record.json").write_text(json.dumps(record | {"spec": {"init_from": [{"run": place}, place]}}))
    kept = removal.of_studies([first], runs).kept
    assert {path.parent.name[0] for path in kept} == {"a", "b"}


def test_removing_asks_first(runs, made, monkeypatch, capsys):
    folder = made("mine")
    monkeypatch.setattr("builtins.input", lambda text: "n")
    assert commands.rm(["mine"], runs=runs) == 1 and folder.exists()

    def nobody(text):
        raise EOFError

    monkeypatch.setattr("builtins.input", nobody)
    with pytest.raises(SpecError, match="expected --yes or --dry-run"):
        commands.rm(["mine"], runs=runs)
    assert folder.exists()
    monkeypatch.setattr("builtins.input", lambda text: "y")
    assert commands.rm(["mine"], runs=runs) == 0 and not folder.exists()
    assert "mine" not in (runs / "index.html").read_text()


def test_a_study_that_runs_is_not_removed(runs, made):
    folder = made("now", ("finished", "running"))
    with FileLock(next(folder.glob("b-*/seed-0")) / ".lock"), pytest.raises(DataError, match="it runs now; stop it first"):
        commands.rm(["now"], yes=True, runs=runs)
    with pytest.raises(DataError, match=r"is not below other, so nobody knows who uses its runs; give its --runs"):
        commands.rm([str(folder)], yes=True, runs=Path("other"))
    assert folder.exists()


def test_gc_frees_what_no_study_refers_to_and_nothing_else(runs, made, monkeypatch, capsys):
    cache = Path("cache")
    monkeypatch.setenv("ARCHBENCH_CACHE", str(cache))
    tried = TrialRecord(arm="a", values={}, seed=0, value=1.0, state="finished", run="tune/a-dddddddddddd/seed-0")
    folder = made("mine", ("finished", "interrupted"), trials=[tried])
    used = run(folder / "tune/a-dddddddddddd/seed-0", "finished")
    orphan = run(folder / "old-eeeeeeeeeeee/seed-0", "finished")
    single = run(runs / "single/one/run-ffffffffffff/seed-0", "finished")
    spent, needed = next(folder.glob("a-*/seed-0")), next(folder.glob("b-*/seed-0"))
    for each in (spent, needed, single):
        (each / "checkpoint.ckpt").write_bytes(bytes(500))
    (spent / "attempt-3").mkdir()
    broken = runs / "broken/base"
    run(broken / "x-eeeeeeeeeeee/seed-0", "finished")
    (broken / "study.json").write_text("{")
    for name in ("0123abcd/ids.bin", "1234abcd/ids.bin", "native/glu-1.so", "costs/x.json"):
        (cache / name).parent.mkdir(parents=True, exist_ok=True)
        (cache / name).write_bytes(bytes(100))
    long_ago = time.time() - 40 * removal.DAY
    for name in ("0123abcd/ids.bin", "0123abcd", "native/glu-1.so"):
        os.utime(cache / name, (long_ago, long_ago))
    before = sorted(Path().rglob("*"))
    assert commands.gc(runs, dry_run=True) == 0
    shown = capsys.readouterr().out
    assert "1 runs that no study refers to" in shown and "runs/broken/base/study.json cannot be read" in shown
    assert "nobody used for 30 days: tokens" in shown and "nobody used for 30 days: kernels" in shown and "costs" not in shown
    assert sorted(Path().rglob("*")) == before, "a dry run removes nothing"
    assert commands.gc(runs, yes=True) == 0
    gone = {path for path in before if not path.exists()}
    assert {orphan, spent / "checkpoint.ckpt", spent / "attempt-3", single / "checkpoint.ckpt"} <= gone
    assert {cache / "0123abcd", cache / "native/glu-1.so"} <= gone
    for path in (used, needed / "checkpoint.ckpt", single / "record.json", broken / "x-eeeeeeeeeeee", cache / "1234abcd/ids.bin"):
        assert path.exists()
    capsys.readouterr()
    assert commands.gc(runs, yes=True) == 0 and "nothing to free" in capsys.readouterr().out
    removal.remove(removal.collectable(runs, 0)[0], runs)
    assert not any(cache.iterdir()), "0 days: all of the cache, which can be made again"


def test_gc_frees_what_was_trained_once_more_unless_a_run_still_names_it(runs, made):
    folder = made("mine", ("finished", "finished"))
    free, named = (run(folder / f"retrained/{name}-dddddddddddd/seed-0", "finished") for name in ("free", "named"))
    user = next(folder.glob("a-*/seed-0"))
    teacher = {"folder": os.path.relpath(named, user)}
    RunRecord.read(user).model_copy(update={"runs": {"teacher": teacher}}).write(user)
    (waste,), _ = removal.collectable(runs, 30)
    assert waste.paths == (free,)


def test_gc_leaves_a_study_that_runs_alone(runs, made):
    folder = made("now", ("finished", "running"))
    run(folder / "old-eeeeeeeeeeee/seed-0", "finished")
    with FileLock(next(folder.glob("b-*/seed-0")) / ".lock"):
        waste, said = removal.collectable(runs, 0)
    assert waste == [] and said == ["runs/now/base runs now and is left alone, and so is the cache"]
    assert len(removal.collectable(runs, 30)[0]) == 1


def test_fifty_studies_are_listed_without_anything_heavy(runs, made):
    for i in range(50):
        made(f"study {i}", ("finished",) * 6, words={"quality": {"b": "worse"}})
    code = (
        "import sys\nfrom sweeps import __main__ as commands\ncommands.list_studies(runs='runs')\n"
        "print([name for name in ('torch', 'pandas', 'scipy', 'matplotlib', 'optuna', 'lightning') if name in sys.modules])"
    )
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env)
    assert done.stdout.startswith("50 studies, ") and done.stdout.rstrip().endswith("[]")


class Page(HTMLParser):
    """The rows, links and outside references of a page."""

    def __init__(self, text):
        super().__init__()
        self.rows, self.links, self.sources, self.hidden = 0, [], [], 0
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.rows += "data-text" in given
        self.hidden += "hidden" in given
        self.links += [given["href"]] if tag == "a" else []
        self.sources += [given[key] for key in ("src", "href") if key in given and tag != "a"]


def test_the_index_is_one_page_that_links_every_report(runs, made):
    done = made("a <b> 'c'", words={"quality": {"b": "worse"}}, question="Is 1 < 2 & 'so'?")
    (done / "report.html").touch()
    made("no report")
    single = run(runs / "single/one/run-ffffffffffff/seed-0", "finished")
    (single / run_report.NAME).touch()
    text = index.write(runs).read_text()
    page = Page(text)
    assert page.rows == 2 and page.hidden == 0 and page.sources == [], "all rows stand there, and nothing is loaded"

    assert [unquote(link) for link in page.links] == [
        "a <b> 'c'/base/report.html",
        "single/one/run-ffffffffffff/seed-0/evaluations.html",
    ]
    assert all((runs / unquote(link)).exists() for link in page.links) and "Is 1 &lt; 2 &amp; &#x27;so&#x27;?" in text
    assert "http" not in text.partition("<body>")[2] and index.PAGE == run_report.NAME
    before = (runs / "index.html").stat().st_mtime_ns
    assert index.write(runs).stat().st_mtime_ns == before, "an index that says the same is left as it is"


def test_no_study_yet(runs, capsys):
    commands.list_studies(runs=runs / "none")
    assert "no study in runs/none yet" in capsys.readouterr().out and not (runs / "none").exists()
    assert visible("a\x07b\n", one_line=True) == r"a\x07b\n"
