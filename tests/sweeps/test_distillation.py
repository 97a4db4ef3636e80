"""The shipped distillation study, from its file to its report."""

import re
import subprocess
import sys

import pytest

from arch import document
from arch.document import ROOT
from sweeps.record import StudyRecord


def test_the_study_fits_on_a_page():
    path = ROOT / "sweeps" / "specs" / "gemma2" / "distillation.yaml"
    lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    assert lines.index("scales:") <= 20
    assert set(document.load("gemma2/distillation", "sweeps").value["scales"].value) == {"demo", "smoke", "laptop"}


@pytest.mark.slow
def test_a_tuned_student_has_its_teacher_made_before_the_trials_and_is_told_what_both_cost(tmp_path):
    study = tmp_path / "tuned_student.yaml"
    study.write_text("extends: sweeps/gemma2/distillation\ntune: {space: {optimizer.lr: {low: 1e-3, high: 1e-2, points: 2}}}\n")
    command = [sys.executable, "-m", "sweeps", "run", str(study), "--scale", "smoke", "--workers", "1"]
    done = subprocess.run([*command, "--runs", str(tmp_path)], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr + done.stdout
    record = StudyRecord.read(tmp_path / "tuned_student" / "smoke")
    assert {(trial.arm, trial.state) for trial in record.trials} == {(arm, "finished") for arm in record.arms}
    assert list(record.helpers) == ["big"] and all(arm.tuned for arm in record.arms.values())
    assert "is worth its teacher: Undecided: distilled is better than more steps" in done.stdout
    report = re.sub(r"<[^>]+>", " ", (tmp_path / "tuned_student" / "smoke" / "report.html").read_text())
    said = re.sub(r"\s+", " ", report)
    assert re.search(r"distilled: teacher big \(seed 0\); its objective adds per run .* a cache of .* on disk", said)
