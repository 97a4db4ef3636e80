"""A file that is no database of a search: said in one line, and not needed where every run is finished."""

import sqlite3

import pytest
import sweeps_fakes as fakes

from sweeps.record import NAME, StudyRecord
from sweeps.run import run_study
from sweeps.search import storage

TUNE = {"space": {"optimizer.lr": {"low": 1e-3, "high": 1e-1, "points": 3}}}


def malformed(path):
    content = bytearray(path.read_bytes())
    content[5000:9000] = b"x" * 4000
    path.write_bytes(content)


DAMAGES = {
    "text": lambda path: path.write_text("no database"),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:5000]),
    "flipped": malformed,
    "zeros": lambda path: path.write_bytes(bytes(8192)),
    "folder": lambda path: (path.unlink(), path.mkdir()),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_no_database_is_named_and_stays(damage, tmp_path):
    path = tmp_path / storage.DATABASE
    storage.of_folder(tmp_path).remove_session()
    DAMAGES[damage](path)
    before = path.read_bytes() if path.is_file() else None
    with pytest.raises(storage.Unusable) as raised:
        storage.of_folder(tmp_path)
    words = str(raised.value)
    assert words.startswith(f"{path}: the trials of the search cannot be read (") and "\n" not in words
    assert (path.read_bytes() if path.is_file() else None) == before


def test_of_another_release_of_optuna(tmp_path):
    storage.of_folder(tmp_path).remove_session()
    with sqlite3.connect(tmp_path / storage.DATABASE) as connection:
        connection.execute("UPDATE alembic_version SET version_num = 'v9.9'")
    with pytest.raises(storage.Unusable, match="cannot be read"):
        storage.of_folder(tmp_path)


def test_a_finished_study_does_not_need_it_and_one_with_more_to_do_refuses(plan_study, study_data, console):
    planned = lambda **more: plan_study(study_data | {"tune": TUNE} | more)  # noqa: E731
    first = run_study(planned(), 2, console, fakes.prepare)
    record = (first.study.folder / NAME).read_bytes()
    (first.study.folder / storage.DATABASE).write_text("no database")
    again = run_study(planned(), 2, console, fakes.prepare)
    assert again.complete and [each.record for each in again.outcomes] == [
        each.record for each in sorted(first.outcomes, key=lambda each: (each.job.arm, each.job.seed))
    ]
    assert (first.study.folder / NAME).read_bytes() == record and again.trials == StudyRecord.read(first.study.folder).trials
    assert "it is not needed: all 4 runs are finished" in console.file.getvalue()
    with pytest.raises(storage.Unusable):
        run_study(planned(seeds=3), 2, console, fakes.prepare)
    (first.outcomes[0].job.folder / "record.json").write_text("{")
    with pytest.raises(storage.Unusable):
        run_study(planned(), 2, console, fakes.prepare)
    assert (first.study.folder / NAME).read_bytes() == record
