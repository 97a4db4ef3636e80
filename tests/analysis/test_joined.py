"""One table of several studies: the rows of all, and a refusal with its reason where they cannot be compared."""

import json

import pandas as pd
import pytest

from analysis import __main__ as commands
from analysis import joined, tables
from analysis.claims import judge
from analysis.runs import load
from arch.errors import DataError


@pytest.fixture
def two(tmp_path, plant):
    """The folders of two studies with the same metric and data; the second has one arm that the first has."""
    first = plant(tmp_path / "first")
    second = plant(tmp_path / "second", effects={"1:1": 0.0, "wide": -0.05}, seeds=4, name="other", scale=None, known_worse=())
    return first, second


def edited(folder, change, arm=""):
    """Every run record below a folder, or those of one arm, with `change(record)` applied."""
    for path in folder.glob(f"{arm}*/seed-*/record.json"):
        record = json.loads(path.read_text())
        change(record)
        path.write_text(json.dumps(record))


def test_it_has_a_row_for_every_arm_of_every_study(two):
    studies = [load(folder) for folder in two]
    frame = joined.joined(studies).frame
    assert list(zip(frame.study, frame.arm, strict=True)) == [
        *(("gemma3/local_global", arm) for arm in ("1:1", "3:1", "5:1", "local-only")),
        ("other", "1:1"),
        ("other", "wide"),
    ]
    alone = tables.results(studies[0], judge(studies[0])).frame
    first = frame.iloc[:4].reset_index(drop=True)
    pd.testing.assert_series_equal(first.perplexity, alone.perplexity)
    pd.testing.assert_series_equal(first.difference_percent, alone.difference_percent)
    assert frame.pairs.iloc[5] == 4 and pd.isna(frame.pairs.iloc[0]), "over the seeds that both have"
    assert (frame.difference_percent_low < frame.difference_percent)[1:].all()


@pytest.mark.parametrize("format", ["text", "csv", "latex", "markdown"])
def test_the_command_prints_it_in_every_format(format, two, capsys):
    commands.table(list(two), format)
    shown = capsys.readouterr().out
    assert all(arm in shown for arm in ("1:1", "wide", "local-only"))
    assert (joined.NOTE in shown) == (format == "text")


def other_tokenizer(record):
    record["spec"] = {"data": {"tokenizer": {"type": "byte"}}}


def other_texts(record):
    record["data"] = {"source": "text", "fingerprint": "9999"}


def other_objective(record):
    record["spec"] = {"objective": {"type": "own:Loss"}}


def no_loss(record):
    record["metrics"] = {"report/accuracy": 0.5}


def other_unit(record):
    record["metric_info"]["report/loss"] = {"unit": "bits", "better": "lower", "compare": "log"}


BESIDE = "its arm '1:1' cannot stand beside '1:1' of {first}: it "
WHY = {
    other_tokenizer: f"{BESIDE}has another tokenizer, so report/loss is per other tokens; use a metric per byte such as "
    "report/bits_per_byte",
    other_texts: f"{BESIDE}was measured on other texts: text (9999) and not python_stdlib (0f3a)",
    other_objective: f"{BESIDE}has another objective, which says itself what report/loss is; measure all arms by one evaluator "
    "that is not `objective`",
    no_loss: "no finished run in it has report/loss; did you mean 'report/accuracy'? known: report/accuracy",
    other_unit: f"{BESIDE}has report/loss in bits and not in nats per token",
}


@pytest.mark.parametrize("change", WHY, ids=lambda change: change.__name__)
def test_studies_that_cannot_be_compared_are_refused_with_the_reason(change, two):
    first, second = two
    edited(second, change)
    with pytest.raises(DataError) as refused:
        commands.table([first, second])
    assert str(refused.value) == f"{second}: {WHY[change].format(first=first)}"


def test_another_metric_may_be_comparable_where_the_first_is_not(two, capsys):
    first, second = two
    for folder in two:
        edited(folder, lambda record: record["metrics"].update({"report/bits_per_byte": record["metrics"]["report/loss"] / 3}))
    edited(second, other_tokenizer)
    commands.table([first, second], metric="report/bits_per_byte")
    assert "bits per byte" in capsys.readouterr().out


def test_speed_is_compared_on_one_machine_alone(two):
    first, second = two
    for folder in two:
        edited(folder, lambda record: record["timing"].update({"speed/tokens_per_second": 6800.0}))
    commands.table([first, second], metric="speed/tokens_per_second")
    edited(second, lambda record: record["hardware"].update({"cpu": "another CPU"}))
    with pytest.raises(
        DataError, match="it ran on another machine: cpu another CPU, cores 2, and not cpu a synthetic CPU, cores 2"
    ):
        commands.table([first, second], metric="speed/tokens_per_second")


def test_one_study_without_a_finished_run_is_named(tmp_path, plant, two):
    missing = {(arm, seed) for arm in ("1:1", "wide") for seed in range(5)}
    empty = plant(tmp_path / "empty", effects={"1:1": 0.0, "wide": 0.0}, missing=missing, known_worse=())
    with pytest.raises(DataError, match=f"^{empty}: it has no finished run$"):
        commands.table([two[0], empty])
