"""The cache: a folder is complete or does not exist."""

import errno

import pytest

from arch.errors import DataError
from experiments.data import cache


def write(folder):
    (folder / "file").write_text("whole")


def test_a_folder_is_built_once(tmp_path):
    folder = cache.obtain(tmp_path / "new", "key", write)
    assert (folder / "file").read_text() == "whole"
    assert cache.obtain(tmp_path / "new", "key", lambda scratch: pytest.fail("built again")) == folder


@pytest.mark.parametrize("error", [KeyboardInterrupt, DataError])
def test_an_interrupted_build_leaves_nothing(tmp_path, error):
    def interrupted(scratch):
        write(scratch)
        raise error("stopped")

    with pytest.raises(error):
        cache.obtain(tmp_path, "key", interrupted)
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]
    assert (cache.obtain(tmp_path, "key", write) / "file").is_file()


def test_what_a_killed_build_left_is_swept_away_by_the_next(tmp_path):
    (tmp_path / ".key.1").mkdir()
    write(tmp_path / ".key.1")
    (tmp_path / ".other.1").mkdir()
    cache.obtain(tmp_path, "key", write)
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == {"key", ".other.1"}


def test_a_full_disk_is_named(tmp_path):
    def full(scratch):
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(DataError, match=r"key: cannot be written \(No space left.*set ARCHBENCH_CACHE"):
        cache.obtain(tmp_path, "key", full)
    assert not (tmp_path / "key").exists()


def test_a_cache_that_cannot_be_a_folder_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written"):
        cache.obtain(tmp_path / "file", "key", write)


def test_the_root_is_the_variable_or_the_home(tmp_path, monkeypatch):
    monkeypatch.setenv("ARCHBENCH_CACHE", str(tmp_path))
    assert cache.root() == tmp_path
    monkeypatch.delenv("ARCHBENCH_CACHE")
    monkeypatch.setenv("HOME", "/somewhere")
    assert str(cache.root()) == "/somewhere/.cache/archbench"
