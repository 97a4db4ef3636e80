"""Every command takes the same words for a study or a run; options given twice; Ctrl-C while libraries are imported."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import archbench
from arch.errors import DataError, SpecError
from sweeps import origin, places
from sweeps.overrides import selected
from sweeps.record import ArmRecord, StudyRecord

ROOT = Path(__file__).parent.parent
STUDY = "extends: experiments/tiny_gemma3\nquestion: q\narms: {a: {}, b: {train.steps: 3}}\n"


def begun(chosen, command):
    """The folder of a study of which a record is written."""
    folder = chosen.folder("runs")
    folder.mkdir(parents=True)
    arm = ArmRecord(changes={}, cost={}, identities=["x"], runs={})
    about = {"question": "q", "arms": {"a": arm}, "seeds": [0], "spec": {}, "claims": {}, "long_context": 64}
    source = origin.seen_from(folder, chosen.origin)
    StudyRecord(name=chosen.name, scale=chosen.scale, origin=source, command=command, **about).write(folder)
    return folder


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text(STUDY)
    chosen = selected("mine.yaml", changes=["seeds=2"])
    return begun(chosen, chosen.command("run"))


def test_a_study_is_meant_by_folder_place_typed_name_record_and_file(folder):
    assert folder == Path("runs/mine+seeds-2/base")
    for word in (
        str(folder),
        str(folder.resolve()),
        "mine+seeds-2/base",
        "mine+seeds=2/base",
        "mine+seeds=2",
        f"{folder}/study.json",
    ):
        assert places.study(word).samefile(folder), word
        again = selected(word)
        assert (again.reference, again.folder("runs").resolve()) == ("mine.yaml", folder.resolve())
        assert again.changes == {"seeds": 2} and archbench._kind(word) == "study"
    with pytest.raises(DataError, match=r"mine.yaml: this study has not begun in runs: archbench study run mine.yaml; with other "):
        places.find("mine.yaml")
    plain = begun(selected("mine.yaml"), "archbench study run mine.yaml")
    assert places.find("mine.yaml").samefile(plain)


def test_options_are_added_to_those_of_the_study_that_is_named(folder):
    more = selected("mine+seeds=2", changes=["train.steps=9"])
    assert more.changes == {"seeds": 2, "train.steps": 9} and more.folder("runs") != folder
    assert selected("mine+seeds=2", seeds=7).changes == {"seeds": 7}


def test_what_has_not_begun_says_how_it_begins(folder):
    for word, said in {
        "tiny_gemma3": "this experiment has no run in runs/single: archbench run tiny_gemma3",
        "gemma3/1b": "this is a model: archbench show gemma3/1b",
        "cpu": "this is a benchmark: archbench bench --spec cpu",
        "mine+seeds-3/base": "did you mean 'mine\\+seeds-2/base'",
    }.items():
        with pytest.raises((DataError, SpecError), match=said):
            places.find(word)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("study show mine.yaml --scale a --scale b", "--scale: given 2 times; expected once"),
        ("study show mine.yaml --set seeds=2 --seeds 3", "--seeds 3: --set seeds=2 is given as well; expected one of the two"),
        ("study show mine.yaml --set seeds=2 --set seeds=3", "--set seeds=3: seeds is set twice; expected it once"),
        ("bench mine.yaml", "mine.yaml: this is a study: archbench study run mine.yaml"),
        ("study note mine+seeds=2 \u00a0", "the note is empty; `--clear` removes the notes that there are"),
    ],
)
def test_what_would_be_dropped_is_refused(words, said, folder, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["archbench", *words.split(" ")])
    with pytest.raises(SystemExit) as ended:
        archbench.main()
    assert ended.value.code == 2 and capsys.readouterr().err.startswith(said)


def _heard():
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


HEARD = {"preexec_fn": _heard}  # a shell may start its children deaf


@pytest.mark.parametrize("start", [["archbench.py"], ["-m", "sweeps"]])
def test_ctrl_c_while_libraries_are_imported_is_one_line(start):
    """However early: what is imported may catch the exception and go on. An interpreter that has not begun is none of ours."""
    first = [str(ROOT / start[0]), "study"] if len(start) == 1 else start
    for delay in (0.6, 1.0, 1.5):
        command = [sys.executable, *first, "show", "gemma3/local_global"]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, **HEARD)
        time.sleep(delay)
        process.send_signal(signal.SIGINT)
        said = process.communicate()[1].decode()
        assert (process.returncode, said.count("\n")) == (130, 1) and said.startswith("interrupted"), said
