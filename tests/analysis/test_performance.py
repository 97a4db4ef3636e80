"""docs/performance.md: the same records give the same text, and the cells of unmeasured targets stay empty."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from analysis import performance
from analysis.performance_figure import cost_against_context
from arch.errors import DataError
from experiments.bench.record import NAME
from experiments.bench.spec import TARGETS

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def record_folder(tmp_path, made_up_benchmark):
    """The folder of a benchmark's record."""
    folder = tmp_path / "records" / "cpu"
    folder.mkdir(parents=True)
    made_up_benchmark().write(folder)
    return folder


def rows(text, device):
    """{target: [bound, measured, verdict]} of a device's table of targets."""
    section = text[text.index(f"## {device}") :]
    cells = [line.strip("| ").split(" | ") for line in re.findall(r"^\| .*", section.split("\n\n###")[0], re.MULTILINE)]
    return {row[0]: row[1:] for row in cells}


def test_the_same_records_give_the_same_document(record_folder, tmp_path):
    made = []
    for folder in ("one", "two"):
        paths = performance.write([record_folder], tmp_path / folder / "performance.md")
        made.append([path.read_bytes() for path in paths])
    assert made[0] == made[1] and len(made[0]) == 2
    assert b"(performance.png)" in made[0][0] and b"../records/cpu" in made[0][0]


def test_every_target_has_a_row_with_what_was_measured(record_folder):
    text = performance.document(performance.load([record_folder]))
    for target in TARGETS:
        row = rows(text, "CPU" if target.hardware == "cpu" else "CUDA")[target.what]
        assert row[0] == target.held_to and bool("".join(row[1:]).strip()) == (target.hardware == "cpu")
    assert "a synthetic CPU, 2 cores" in text and "something was left out" in text and "cb826d1" in text


def test_without_a_record_of_a_device_its_cells_are_empty_and_the_document_says_so(record_folder, made_up_benchmark):
    text = performance.document(performance.load([record_folder]))
    assert "## CUDA: no record" in text and "nothing is claimed" in text
    records = performance.load([record_folder]) | {"gpu": made_up_benchmark("cuda")}
    text = performance.document(records)
    assert "## CUDA: a synthetic GPU" in text and "no record" not in text


def test_a_missed_target_says_by_how_much(made_up_benchmark):
    text = performance.document({"x": made_up_benchmark(slower=2.0)})
    row = next(row for what, row in rows(text, "CPU").items() if what.startswith("Gemma 3 (5:1), training at 4,096"))
    assert "**not met**, short by 3.00x" in row


def test_the_latest_record_counts(tmp_path, made_up_benchmark):
    for name, hour, slower in (("late", "09", 1.0), ("early", "08", 4.0)):
        (tmp_path / name).mkdir()
        made_up_benchmark(started=f"2025-11-21T{hour}:00:00+00:00", slower=slower).write(tmp_path / name)
    records = performance.load([tmp_path / "late", tmp_path / "early" / NAME])
    row = rows(performance.document(records), "CPU")["Gemma 3 (5:1), training at 512 against `transformers`"]
    assert row[1].startswith("2.00") and row[2].strip() == "met"


def test_the_figure_has_a_line_for_every_side(made_up_benchmark):
    figure = cost_against_context([made_up_benchmark()])
    time, memory = figure.axes[0], figure.axes[3]
    assert [len(axes.get_lines()) for axes in (time, memory)] == [5, 2]
    assert list(time.get_lines()[0].get_xdata()) == [512, 4096]
    assert time.get_lines()[0].get_ydata()[0] == pytest.approx(1000 * 2.1 / 4096)
    assert cost_against_context([made_up_benchmark("cuda")]) is None


@pytest.mark.parametrize("content, said", [(None, "no benchmark record there"), ("{", "no benchmark record: "), ("{}", "missing")])
def test_what_is_no_record_is_one_message(tmp_path, content, said):
    path = tmp_path / NAME
    if content is not None:
        path.write_text(content)
    with pytest.raises(DataError, match=said):
        performance.load([path])


def test_the_command(record_folder, tmp_path):
    out = tmp_path / "docs" / "performance.md"
    line = [sys.executable, "-m", "analysis", "performance", str(record_folder), "--out", str(out)]
    done = subprocess.run(line, cwd=ROOT, check=False, capture_output=True, text=True)
    assert done.returncode == 0 and out.is_file() and out.with_suffix(".png").is_file(), done.stderr
