"""Opening a storage: what is wrong with it is one line, and a password is nowhere to be seen."""

import builtins
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from arch.errors import SpecError
from sweeps import storage

SECRET = "s3cret{0}%"
HERE = "postgresql+psycopg://sweeps@127.0.0.1:1/sweeps"


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        (f"postgresql+psycopg://sweeps:{SECRET}@db.lab/sweeps", "postgresql+psycopg://sweeps@db.lab/sweeps"),
        (f"postgresql+psycopg://sweeps:{SECRET}/sweeps", "postgresql+psycopg://sweeps:***/sweeps"),
        (f"postgresql:/sweeps:{SECRET}@db.lab/x", "postgresql:/sweeps@db.lab/x"),
        (f"sweeps:{SECRET}@db.lab/x", "sweeps@db.lab/x"),
        (f"postgresql://db.lab/x?user=a&sslpassword={SECRET}", "postgresql://db.lab/x?user=a&sslpassword=***"),
        ("postgresql://db.lab:5432/x", "postgresql://db.lab:5432/x"),
        ("journal:/a:b@c/q.journal", "journal:/a:b@c/q.journal"),
        ("postgresql://a:b:c@d/e@db/x", "postgresql://a@db/x"),
        ("postgresql://a@db/x?password=secret&sslmode=require", "postgresql://a@db/x?password=***&sslmode=require"),
        (HERE, HERE),
        ("journal:/data/a@b:c", "journal:/data/a@b:c"),
    ],
)
def test_a_url_is_shown_without_its_password(url, expected):
    assert storage.shown(url) == expected
    assert storage.words(url) == ["--storage", expected] and storage.words(None) == []


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("sqlite:///runs/study.db", "SQLite hands out the same run to two drivers; expected postgresql"),
        (f"postgresql://a:{SECRET}/x", "no @HOST after the password"),
        (f"postgresql://a:{SECRET}@{SECRET}@db/x", "a password with @ in it must have %40 in its place"),
        (f"mysql://a:{SECRET}@db/x", "expected postgresql+psycopg://USER@HOST/DATABASE, or journal:PATH"),
        ("runs/queue.journal", "expected postgresql"),
        ("journal:", "expected the path of a file"),
    ],
)
def test_a_url_of_another_form_is_refused_in_one_line(url, reason):
    with pytest.raises(SpecError) as caught:
        storage.opened(url)
    assert str(caught.value).startswith(f"{storage.shown(url)}: {reason}") and "\n" not in str(caught.value)
    assert SECRET not in str(caught.value)


def test_a_missing_package_says_which_extra(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SpecError, match=r"needs the package psycopg: pip install -e '.\[postgresql\]'"):
        storage.opened(HERE)


def test_a_database_that_is_away_at_the_start_is_one_line():
    pytest.importorskip("psycopg")
    with pytest.raises(SpecError) as caught:
        storage.opened(f"postgresql+psycopg://sweeps:{SECRET}@127.0.0.1:1/sweeps")
    assert "refused" in str(caught.value) and "\n" not in str(caught.value) and SECRET not in str(caught.value)


def test_a_journal_that_cannot_be_written_or_is_none_is_one_line(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(SpecError, match="file/queue: cannot be written: "):
        storage.opened(f"journal:{tmp_path}/file/queue")
    (tmp_path / "text").write_text("some text\nof another kind\n")
    with pytest.raises(SpecError, match="text: is no journal of Optuna's"):
        storage.opened(f"journal:{tmp_path}/text")
    real = builtins.open
    monkeypatch.setattr(Path, "open", lambda self, *mode: (_ for _ in ()).throw(PermissionError(13, "Permission denied")))
    with pytest.raises(SpecError, match="cannot be written: Permission denied"):
        storage.opened(f"journal:{tmp_path}/readonly")
    assert builtins.open is real and not (tmp_path / "readonly").exists()


def test_what_a_writer_left_unfinished_in_a_journal_is_removed_by_the_next(tmp_path):
    """A full disk or a kill within a line: without the repair, no process could read the journal again."""
    import optuna

    url, path = f"journal:{tmp_path}/queue", tmp_path / "queue"
    optuna.create_study(storage=storage.opened(url), study_name="first")
    whole = path.read_bytes()
    with path.open("ab") as file:
        file.write(b'{"op_code":0,"worker_id":"dead","stu' + b"x" * 70_000)
    assert optuna.get_all_study_names(storage.opened(url)) == ["first"]  # reading does not mind
    optuna.create_study(storage=storage.opened(url), study_name="second")
    assert path.read_bytes().startswith(whole) and b"dead" not in path.read_bytes()
    assert optuna.get_all_study_names(storage.opened(url)) == ["first", "second"]


def test_the_environment_names_the_storage_and_the_option_comes_first(monkeypatch):
    monkeypatch.setenv(storage.VARIABLE, HERE)
    assert storage.chosen(None) == HERE and storage.chosen("journal:x") == "journal:x"
    monkeypatch.delenv(storage.VARIABLE)
    assert storage.chosen(None) is None


CHILD = f"""
import sys
from pathlib import Path
from sweeps import storage
print("{SECRET}" in Path("/proc/self/cmdline").read_text())
url = storage.chosen(sys.argv[2])
print("{SECRET}" in Path("/proc/self/cmdline").read_text(), "{SECRET}" in url)
"""


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="process titles are read in /proc")
def test_a_password_in_a_command_leaves_the_process_title(tmp_path):
    script = tmp_path / "child.py"
    script.write_text(CHILD)
    url = f"postgresql+psycopg://sweeps:{SECRET}@db.lab/sweeps"
    path = os.pathsep.join(filter(None, [str(Path(storage.__file__).parent.parent), os.environ.get("PYTHONPATH")]))
    command = [sys.executable, str(script), "--storage", url]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path})
    assert done.stdout.split() == ["True", "False", "True"]


def test_where_a_process_title_cannot_be_changed_a_password_in_it_is_refused(monkeypatch):
    monkeypatch.setattr(storage, "_erased", lambda secret: False)
    with pytest.raises(SpecError, match=r"every user of this machine can read a password in a command: set \$ARCHBENCH_STORAGE"):
        storage.chosen(f"postgresql://a:{SECRET}@db/x")
    assert storage.chosen(HERE) == HERE
