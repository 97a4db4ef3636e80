"""The terms of leases as the environment gives them: what is wrong with a value is one line, and nothing is written."""

import subprocess
import sys
from pathlib import Path

import pytest

from arch.errors import SpecError
from sweeps.leases import Terms

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"BEAT": "soon"}, "$ARCHBENCH_BEAT: expected seconds above 0, not 'soon'"),
        ({"BEAT": "0"}, "$ARCHBENCH_BEAT: expected seconds above 0, not '0'"),
        ({"LEASE": "nan"}, "$ARCHBENCH_LEASE: expected seconds above 0, not 'nan'"),
        ({"LEASE": "inf"}, "$ARCHBENCH_LEASE: expected seconds above 0, not 'inf'"),
        ({"LOSSES": "1.5"}, "$ARCHBENCH_LOSSES: expected a whole number of at least 1, not '1.5'"),
        ({"LOSSES": "-1"}, "$ARCHBENCH_LOSSES: expected a whole number of at least 1, not '-1'"),
        ({"BEAT": "100"}, "$ARCHBENCH_LEASE: 180 s; expected at least 3 beats, which are 100 s apart ($ARCHBENCH_BEAT)"),
    ],
)
def test_terms_that_cannot_be_are_one_line(values, reason, monkeypatch):
    for name, value in values.items():
        monkeypatch.setenv(f"ARCHBENCH_{name}", value)
    with pytest.raises(SpecError) as caught:
        Terms.of_environment()
    assert str(caught.value) == reason


def test_terms_that_are_not_set_or_empty_have_their_defaults(monkeypatch):
    monkeypatch.setenv("ARCHBENCH_BEAT", "")
    monkeypatch.setenv("ARCHBENCH_LOSSES", "5")
    assert Terms.of_environment() == Terms(20.0, 180.0, 5)


def test_a_command_says_so_before_it_writes_anything(tmp_path, monkeypatch):
    monkeypatch.setenv("ARCHBENCH_LEASE", "long")
    command = [
        sys.executable,
        str(ROOT / "archbench.py"),
        "study",
        "work",
        "griffin/versus_global",
        "--storage",
        "journal:q/journal",
    ]
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, done.stdout, list(tmp_path.iterdir())) == (2, "", [])
    assert done.stderr.splitlines()[-1].endswith("$ARCHBENCH_LEASE: expected seconds above 0, not 'long'")
