"""What a report says of how arms differ is what their resolved specs and their runs' records say."""

import json

import pytest

from analysis import tables, tables_html
from analysis.claims import judge
from analysis.conditions import rest, unequal
from analysis.report import write_report
from analysis.runs import load
from analysis.tensorboard import _hparams
from arch.spec import ABSENT
from experiments.record import RunRecord
from sweeps.record import StudyRecord, packed

DASH = "\N{EN DASH}"
ARMS = {"base": 0.0, "no clipping": 0.0, "other optimizer": 0.0, "again": 0.0}
CHANGES = {
    "base": {},
    "no clipping": {"optimizer.clip": (1.0, None)},
    "other optimizer": {
        "optimizer.type": ("adamw", "my_training:Lion"),
        "optimizer.beta2": (0.95, ABSENT),
        "optimizer.eps": (1e-8, ABSENT),
        "optimizer.memory": (ABSENT, 0.9),
    },
    "again": {},
}


@pytest.fixture
def compared(make_study):
    """`compared()`: a study's folder whose arms differ as CHANGES says; nobody wrote `eps`."""
    folder = make_study(effects=ARMS, seeds=2, known_worse=())
    record = StudyRecord.read(folder)
    arms = {
        label: arm.model_copy(update={"changes": packed(CHANGES[label]), "resolved": True, "unwritten": ["optimizer.eps"]})
        for label, arm in record.arms.items()
    }
    record.model_copy(update={"arms": arms}).write(folder)
    return folder


def rewritten(folder, arm, seeds=(0, 1), **update):
    """Change the records of an arm's runs."""
    place = StudyRecord.read(folder).arms[arm].runs
    for seed in seeds:
        record = RunRecord.read(folder / place[str(seed)])
        record.model_copy(update=update).write(folder / place[str(seed)])


def test_default_null_and_absent_are_three_things_in_the_table_of_differences(compared):
    frame = tables.changes(load(compared))
    assert list(frame.index) == ["optimizer.clip", "optimizer.type", "optimizer.beta2", "optimizer.memory"]
    assert list(frame.loc["optimizer.clip"]) == ["1", "null", "1", "1"]
    assert list(frame.loc["optimizer.beta2"]) == ["0.95", "0.95", DASH, "0.95"]
    assert list(frame.loc["optimizer.memory"]) == [DASH, DASH, "0.9", DASH]


def test_they_are_in_the_labels_and_the_csv(compared):
    study = load(compared)
    raw = tables.results(study, judge(study))
    other = "optimizer.type: my_training:Lion; optimizer.memory: 0.9"
    assert list(raw.frame.changes) == ["", "optimizer.clip: null", other, ""]
    assert "optimizer.clip: null" in tables.csv(raw)
    assert list(tables.readable(raw)["differs in"]) == [DASH, "optimizer.clip: null", other, "nothing"]
    page = tables_html.results(raw)
    assert page.count("baseline</small>") == 1 and page.count("the same spec as the first arm</small>") == 1


def test_they_are_in_the_hparams(compared):
    rows, *_ = _hparams(load(compared))
    column = lambda key: [rows[arm, 0][key] for arm in ARMS]  # noqa: E731
    assert column("optimizer.clip") == ["1", "null", "1", "1"]
    assert column("optimizer.memory") == [DASH, DASH, "0.9", DASH] and "optimizer.eps" not in rows["base", 0]


def test_a_record_keeps_null_and_absent_apart(compared):
    arms = StudyRecord.read(compared).arms
    assert {label: arm.differences for label, arm in arms.items()} == CHANGES
    data = json.loads((compared / "study.json").read_text())["arms"]
    assert data["no clipping"]["changes"] == {"optimizer.clip": [1.0, None]}


def test_a_null_of_an_older_record_still_reads_as_not_written(make_study):
    folder = make_study(effects={"a": 0.0, "b": 0.0}, seeds=1, known_worse=())
    data = json.loads((folder / "study.json").read_text())
    assert "resolved" not in data["arms"]["b"]
    data["arms"]["b"]["changes"] = {"train.threads": [None, 2]}
    (folder / "study.json").write_text(json.dumps(data))
    study = load(folder)
    assert list(tables.changes(study).loc["train.threads"]) == [DASH, "2"]
    assert "texts of the specs are compared" in rest(study)[0][0]


def test_an_older_record_is_compared_by_what_its_runs_resolved_to(make_study, tiny):
    """As written, `clip: null` against a text without `clip` was no difference, and the arm was called the baseline."""
    from experiments.plan import resolve

    folder = make_study(effects={"a": 0.0, "b": 0.0}, seeds=2, known_worse=())
    data = json.loads((folder / "study.json").read_text())
    data["arms"]["b"]["changes"] = {}
    (folder / "study.json").write_text(json.dumps(data))
    rewritten(folder, "a", spec=resolve(tiny).dump())
    rewritten(folder, "b", spec=resolve(tiny | {"optimizer": tiny["optimizer"] | {"clip": None}}).dump())
    study = load(folder)
    assert study.record.arms["b"].differences == {"optimizer.clip": (1.0, None)}
    assert "optimizer.clip: null" in write_report(folder).read_text()


def test_all_else_is_the_same_only_where_it_is(compared):
    said, is_warning = rest(load(compared))
    assert said[0].startswith("Every other option of the resolved specs is the same in every arm, or at its default")
    assert said[1].startswith("So are the machine, the code, the versions and the data of the 8 runs") and not is_warning
    rewritten(compared, "no clipping", git={"commit": "0123456789abcdef", "dirty": False})
    said, is_warning = rest(load(compared))
    text = " ".join(said)
    assert is_warning and "So are" not in text
    assert "Not the same in runs that are compared: the code's commit: " in text
    assert "0123456789ab in no clipping (seeds 0, 1)" in text
    assert "0123456789ab" in write_report(compared).read_text()


@pytest.mark.parametrize("git", [{"commit": "cb826d1", "dirty": True}, {}])
def test_code_that_no_commit_names_is_not_called_the_same(compared, git):
    for arm in ARMS:
        rewritten(compared, arm, git=git)
    said = rest(load(compared))[0][1]
    assert said.startswith("So are the machine, the versions and the data of the 8 runs")
    assert ("uncommitted changes" if git else "no commit") in said


def test_a_remark_on_arms_is_not_repeated_as_a_note_of_their_runs(compared):
    record, note = StudyRecord.read(compared), "model.pattern: every layer is 'local'"
    record.model_copy(update={"remarks": [f"arm 'again': {note}"]}).write(compared)
    rewritten(compared, "again", notes=[note, "another note"])
    page = write_report(compared).read_text()
    assert page.count("every layer is") == 1 and "another note (2 runs)" in page


@pytest.mark.parametrize(
    "update, name",
    [
        ({"hardware": {"cpu": "another CPU", "cores": 2}}, "the machine's cpu"),
        ({"threads": 2}, "threads per run"),
        ({"versions": {"torch": "2.14.0", "python": "3.11.7"}}, "the version of torch"),
        ({"data": {"fingerprint": "ffff"}}, "the data"),
    ],
)
def test_what_the_records_say_is_compared(compared, update, name):
    rewritten(compared, "again", seeds=(1,), **update)
    (found,) = unequal(load(compared))
    assert found.name == name and found.paired and [("again", 1)] in found.values.values()
    for arm in ARMS:
        rewritten(compared, arm, seeds=(1,), **update)
    (found,) = unequal(load(compared))
    assert not found.paired and rest(load(compared))[1] is False


def test_the_sources_of_a_plug_in_are_compared_where_it_is_used(compared):
    rewritten(compared, "again", plugins={"mine": "a" * 64})
    assert unequal(load(compared)) == []
    rewritten(compared, "base", plugins={"mine": "b" * 64})
    (found,) = unequal(load(compared))
    assert found.name == "the source of mine" and found.paired


def test_a_run_with_another_spec_than_the_study_says_is_named(compared, tiny):
    from experiments.plan import resolve

    for arm in ARMS:
        rewritten(compared, arm, spec=resolve(tiny).dump())
    rewritten(compared, "again", spec=resolve(tiny | {"train": tiny["train"] | {"steps": 7}}).dump())
    said, is_warning = rest(load(compared))
    assert said[0] == "The runs' own records also differ in train.steps." and is_warning


def test_tables_of_claims_with_names_that_look_alike_are_two_files(make_study):
    one = {"type": "against_baseline", "metric": "report/loss", "margin": 0.01, "known_worse": []}
    claims = dict.fromkeys(("first", "a b", "a-b", "A b", "窓", "層"), one)
    folder = make_study(effects={"a": 0.0, "b": 0.0}, seeds=2, claims=claims)
    write_report(folder)
    files = [path.name for path in folder.glob("results*.csv")]
    assert len({name.lower() for name in files}) == 6 and {"results.csv", "results-a-b.csv", "results-窓.csv"} <= {*files}
