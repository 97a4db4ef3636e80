"""What is said where a file cannot be written, or where another one fails meanwhile; and nothing half-written is left."""

import errno
import os

import pytest

from arch.errors import DataError
from arch.whole_file import appearing, writing


def failed(number, file=None):
    return OSError(number, os.strerror(number), file) if file else OSError(number, os.strerror(number))


@pytest.mark.parametrize("file", [None, "out/file", "out", ".out.123/file", ".out.123", "out.lock", "."])
def test_what_belongs_to_a_place_is_said_of_the_place(tmp_path, file):
    out = tmp_path / "out"
    with pytest.raises(DataError) as said, writing(out, "; set X"):
        raise failed(errno.ENOSPC, file and str(tmp_path / file))
    assert str(said.value) == f"{out}: cannot be written (No space left on device); set X"


@pytest.mark.parametrize("file", ["source/model.safetensors", "../elsewhere", "ou", "out-hf/model.safetensors", "outer"])
def test_what_fails_elsewhere_meanwhile_is_not_said_of_the_place(tmp_path, file):
    file = str(tmp_path / file)
    with pytest.raises(DataError) as said, writing(tmp_path / "out", "; set X"):
        raise failed(errno.EACCES, file)
    assert str(said.value) == f"{file}: Permission denied"


@pytest.mark.parametrize("error", [KeyError("x"), BrokenPipeError(errno.EPIPE, "Broken pipe")])
def test_other_errors_pass(tmp_path, error):
    with pytest.raises(type(error)), writing(tmp_path / "out"):
        raise error


def test_a_file_is_there_whole_or_not_at_all(tmp_path):
    out = tmp_path / "out"
    out.write_text("before")
    with pytest.raises(KeyError), appearing(out) as scratch:
        scratch.write_text("half")
        raise KeyError
    assert out.read_text() == "before" and list(tmp_path.iterdir()) == [out]
    with appearing(out) as scratch:
        scratch.write_text("after")
    assert out.read_text() == "after" and list(tmp_path.iterdir()) == [out]
