"""A run goes on from its newest checkpoint that is as it was written: what is wrong with another is said and kept on record."""

import hashlib
import json
import shutil
import warnings
from pathlib import Path

import pytest
import torch

from experiments import checkpoint, files, resume, sharded
from experiments.record import RunRecord

STOPPED = 8  # its checkpoints are of steps 8 and 6


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """A folder in which the first test leaves a run that was stopped."""
    return tmp_path_factory.mktemp("halted") / "run"


@pytest.fixture
def halted(tiny, template, tmp_path):
    """(RunPlan, the folder of a run that was stopped)"""
    from experiments.plan import plan
    from experiments.train import train

    planned, asked = plan(tiny), []
    if not template.exists():
        record = train(planned, 0, template, stop=lambda: asked.append(1) or len(asked) == STOPPED)
        assert (record.status, record.steps) == ("interrupted", STOPPED)
    return planned, shutil.copytree(template, tmp_path / "run")


def flipped(path, place=None, bit=4):
    content = bytearray(path.read_bytes())
    content[len(content) // 2 if place is None else place(content)] ^= bit
    path.write_bytes(content)


def attributes(content):
    """Where the archive's directory says of its last entry whether it is a folder."""
    return content.rfind(b"PK\x01\x02") + 38


def shortened(path, size):
    path.write_bytes(path.read_bytes()[:size])


def in_its_place(path, make):
    path.unlink()
    make(path)


def digest(folder):
    return hashlib.sha256((folder / checkpoint.WEIGHTS).read_bytes()).hexdigest()


def test_after_damage_a_run_ends_as_one_that_nobody_disturbed(halted, tmp_path):
    """From the state before, and from step 0 where both are damaged: the same weights and metrics, and nothing of it is left."""
    from experiments.train import train

    planned, folder = halted
    lost = shutil.copytree(folder, tmp_path / "lost")
    alone = train(planned, 0, tmp_path / "alone")
    flipped(folder / checkpoint.NAME)
    shortened(lost / checkpoint.NAME, 0)
    shortened(lost / checkpoint.PREVIOUS, 2000)
    for place, step, words in (
        (folder, 6, "checkpoint.ckpt: its bytes have changed: {}; resumed at step 6, from checkpoint.previous.ckpt"),
        (lost, 0, "checkpoint.ckpt: it is empty; checkpoint.previous.ckpt: it was cut short, or its bytes have changed; "
                  "started again at step 0"),
    ):  # fmt: skip
        told = []
        record = train(planned, 0, place, progress=told.append)
        said = [each["warning"] for each in told if "warning" in each]
        before, _, after = words.partition("{}")
        assert len(said) == 1 and said[0].startswith(before) and said[0].endswith(after), said
        assert record.status == "finished" and record.metrics == alone.metrics and digest(place) == digest(tmp_path / "alone")
        assert record.resumed == [step] and record.notes == [*planned.notes, *said] and record == RunRecord.read(place)
        assert not [path.name for path in place.iterdir() if path.name.startswith("checkpoint")]
    assert alone.resumed == [] and "resumed" not in alone.dump()


@pytest.mark.parametrize(
    ("damage", "step", "warning"),
    [
        (lambda folder: None, 8, ""),
        (lambda folder: (folder / checkpoint.NAME).unlink(), 6, ""),
        (lambda folder: (folder / checkpoint.PREVIOUS).unlink(), 8, ""),
        (lambda folder: shortened(folder / checkpoint.NAME, -1), 6, "it was cut short, or its bytes have changed"),
        (
            lambda folder: flipped(folder / checkpoint.NAME, attributes, 16),
            6,
            "its bytes have changed: {} is not as it was written",
        ),
        (lambda folder: (folder / checkpoint.NAME).write_text("EOF"), 6, "it was cut short, or its bytes have changed"),
        (lambda folder: in_its_place(folder / checkpoint.NAME, Path.mkdir), 6, "it is no file"),
        (lambda folder: in_its_place(folder / checkpoint.NAME, lambda path: path.symlink_to("nowhere")), 6, "it is no file"),
        (lambda folder: torch.save({"global_step": 3}, folder / checkpoint.NAME), 6, "it has no state_dict"),
        (lambda folder: (folder / resume.MARKER).unlink(), 8, ""),
        (lambda folder: shortened(folder / resume.MARKER, 5), 8, ""),
    ],
    ids=[
        "whole",
        "killed-between-two-names",
        "one-only",
        "cut",
        "flipped-in-its-directory",
        "text",
        "folder",
        "link-to-nothing",
        "another-file",
        "no-marker",
        "marker-cut",
    ],
)
def test_the_newest_state_that_can_be_read_counts(damage, step, warning, halted):
    planned, folder = halted
    damage(folder)
    found = resume.origin(folder, planned.identity, 0, RunRecord.read(folder))
    assert (found.step, found.again) == (step, True)
    name = {8: checkpoint.NAME, 6: checkpoint.PREVIOUS}[step]
    before, _, after = (warning and f"checkpoint.ckpt: {warning}; resumed at step 6, from checkpoint.previous.ckpt").partition("{}")
    assert found.warning.startswith(before) and found.warning.endswith(after) and bool(found.warning) == bool(warning)
    assert found.path == folder / name and found.path.is_file()
    assert (folder / resume.MARKER).read_text() == f"{planned.identity} 0"
    assert checkpoint.newest(folder)[0] == step


def test_a_state_of_another_run_is_none_and_one_that_is_gone_is_missed(halted):
    planned, folder = halted
    shutil.copyfile(folder / checkpoint.PREVIOUS, folder / "kept")
    found = resume.origin(folder, "another", 0, None)
    told = "checkpoint.ckpt: it is of another run; checkpoint.previous.ckpt: it is of another run; started again at step 0"
    assert (found.path, found.step, found.warning) == (None, 0, told)
    found = resume.origin(folder, planned.identity, 0, RunRecord.read(folder))
    assert found.warning == "no checkpoint of it is left; started again at step 0" and found.again
    content = torch.load(folder / "kept", weights_only=True)
    del content["callbacks"]["Watch"]["run"]  # as checkpoints were before they said it
    torch.save(content, folder / checkpoint.NAME)
    assert resume.origin(folder, planned.identity, 0, None).step == 6
    (folder / resume.MARKER).unlink()
    torch.save(content, folder / checkpoint.NAME)
    found = resume.origin(folder, planned.identity, 0, None)
    assert found.path is None and "nothing says of which run it is (checkpoint.identity is missing)" in found.warning


def test_what_may_not_be_read_is_neither_damaged_nor_deleted(halted, monkeypatch):
    planned, folder = halted

    def refused(*_, **__):
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(torch, "load", refused)
        with pytest.raises(PermissionError):
            resume.origin(folder, planned.identity, 0, None)
    assert resume.origin(folder, planned.identity, 0, None).step == STOPPED


def test_two_states_are_kept_and_the_older_makes_room_on_a_full_disk(tmp_path, monkeypatch):
    """Also the whole error: torch.save says of a full disk that a position is unexpected."""
    io, save, path = checkpoint.DurableCheckpointIO(), torch.save, tmp_path / checkpoint.NAME
    state = lambda step: dict.fromkeys(checkpoint.PARTS) | {"global_step": step}  # noqa: E731
    for step in (1, 2, 3):
        io.save_checkpoint(state(step), path)
    assert [read()[0] for _, read in checkpoint.states(tmp_path)] == [3, 2]

    def full(content, file):
        if checkpoint.PREVIOUS in {each.name for each in tmp_path.iterdir()} or content["global_step"] == 5:
            file.file.close()  # whatever is written now fails
            monkeypatch.setattr(file, "file", open("/dev/full", "wb", buffering=0), raising=False)  # noqa: SIM115
        save(content, file)

    monkeypatch.setattr(torch, "save", full)
    io.save_checkpoint(state(4), path)
    assert [read()[0] for _, read in checkpoint.states(tmp_path)] == [4, 3]
    (tmp_path / checkpoint.PREVIOUS).unlink()
    with pytest.raises(OSError, match=r"\[Errno 28\] No space left on device"):
        io.save_checkpoint(state(5), path)
    assert [path.name for path in tmp_path.iterdir()] == [checkpoint.NAME] and checkpoint.newest(tmp_path)[0] == 4


def test_an_error_of_the_system_in_the_words_of_a_library_is_one(tmp_path):
    def write(scratch):
        raise ValueError("Error while serializing: I/O error: No space left on device (os error 28)")

    with pytest.raises(OSError) as raised:
        files.durably(tmp_path / "weights", write)
    assert raised.value.errno == 28 and raised.value.filename == str(tmp_path / "weights") and not list(tmp_path.iterdir())


@pytest.fixture
def shards(tmp_path):
    """A run's folder with the folders of two checkpoints of a sharded run, as one process writes them."""
    from torch.distributed.checkpoint import FileSystemWriter, save

    for step in (3, 6):
        scratch = tmp_path / f".ckpt-{step}.1"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that there is one process
            save({"weight": torch.arange(64.0) + step}, storage_writer=FileSystemWriter(scratch))
        rest = dict.fromkeys(checkpoint.PARTS) | {"global_step": step, "callbacks": {"Watch": {"run": ["it", 0]}}}
        torch.save(rest, scratch / sharded.REST)
        sharded._point(tmp_path, scratch, f"ckpt-{step}", 2, sharded._sums(scratch.iterdir()))
    return tmp_path


@pytest.mark.parametrize(
    ("damage", "step", "warning"),
    [
        (lambda place: None, 6, ""),
        (lambda place: flipped(place / "__0_0.distcp"), 3, "the bytes of its __0_0.distcp have changed, or it was cut short"),
        (lambda place: shortened(place / "__0_0.distcp", 10), 3, "the bytes of its __0_0.distcp have changed, or it was cut short"),
        (lambda place: (place / "__0_0.distcp").unlink(), 3, "its __0_0.distcp is missing"),
        (lambda place: (place / ".metadata").write_bytes(b""), 3, "the bytes of its .metadata have changed, or it was cut short"),
        (lambda place: (place / sharded.SUMS).write_text("{"), 3, "it cannot be read: JSONDecodeError"),
        (shutil.rmtree, 3, ""),
        (lambda place: (place.parent / sharded.POINTER).write_text("{"), 6, ""),
        (lambda place: (place.parent / sharded.POINTER).unlink(), 6, ""),
    ],
    ids=["whole", "flipped", "cut", "missing", "metadata", "sums", "no-folder", "pointer-cut", "no-pointer"],
)
def test_of_a_sharded_run_too(damage, step, warning, shards):
    damage(shards / "ckpt-6")
    sharded.check(shards, 2)
    found = resume.origin(shards, "it", 0, None)
    assert found.warning == (warning and f"ckpt-6: {warning}; resumed at step 3, from ckpt-3")
    assert (found.step, found.path) == (step, shards / f"ckpt-{step}") and not (warning and (shards / "ckpt-6").exists())
    with pytest.raises(ValueError, match="its checkpoint is of a run on 2 processes, this one has 4"):
        sharded.check(shards, 4)
    sharded._point(shards, Path(shutil.copytree(found.path, shards / ".ckpt-9.1")), "ckpt-9", 2, {})
    assert [place.name for place in sharded.places(shards)] == ["ckpt-9", f"ckpt-{step}"]
    assert json.loads((shards / sharded.POINTER).read_text()) == {"folder": "ckpt-9", "processes": 2}
