"""Finished weights have a digest beside them: flipped bytes are refused wherever weights are used, in one line."""

import shutil
import subprocess

import pytest

from arch import checkpoint, digests, hf
from arch.errors import DataError, SpecError
from experiments import leftovers
from experiments.checkpoint import load_model
from experiments.plan import plan
from experiments.train import train


@pytest.fixture
def run(tiny, tmp_path):
    train(plan(tiny | {"train": {"steps": 1}}), 0, tmp_path / "run")
    return tmp_path / "run"


def flipped(folder):
    """One bit of the last tensor is another one."""
    path = folder / checkpoint.WEIGHTS
    content = bytearray(path.read_bytes())
    content[-2] ^= 1
    path.write_bytes(content)


def test_a_flipped_bit_is_refused_wherever_weights_are_used(run, tiny, tmp_path):
    assert subprocess.run(["sha256sum", "-c", digests.NAME], cwd=run, capture_output=True, check=False).returncode == 0
    load_model(run)
    flipped(run)
    teacher = tiny | {"objective": {"type": "distill", "teacher": str(run)}}
    uses = {
        "evaluate": lambda: load_model(run),
        "generate": lambda: hf.load(run),
        "export": lambda: hf.export(run, tmp_path / "out"),
        "start": lambda: plan(tiny | {"init_from": str(run)}),
        "teacher": lambda: plan(teacher),
    }
    for name, use in uses.items():
        with pytest.raises((DataError, SpecError), match=r"model\.safetensors: damaged: not what was written") as refused:
            use()
        assert "\n" not in str(refused.value), name
    assert not (tmp_path / "out").exists()
    digests.discard(run)  # whoever changed the weights on purpose
    load_model(run)


def test_weights_without_a_digest_are_used_and_a_digest_goes_with_its_weights(run, tmp_path):
    shutil.copytree(run, tmp_path / "old")
    digests.discard(tmp_path / "old")
    load_model(tmp_path / "old")
    leftovers.set_aside(run)
    digests.check(run / leftovers.FAILED)
    assert not (run / digests.NAME).exists() and (run / leftovers.FAILED / digests.NAME).exists()
    leftovers.discard(run)
    assert not list(run.rglob(digests.NAME))
