"""How two studies differ: as their specs say, and as they were run."""

import json
from pathlib import Path

import pytest

import archbench
from arch.errors import DataError, SpecError
from experiments.plan import whole
from experiments.record import RunRecord
from sweeps import differing
from sweeps.differing import Side

pytestmark = pytest.mark.usefixtures("plan_study")


@pytest.fixture
def files(study_data, tmp_path, monkeypatch):
    """Two studies in the working folder, and the folder of the first as it was run."""
    monkeypatch.chdir(tmp_path)
    first = {key: value for key, value in study_data.items() if key != "scales"}
    other = json.loads(json.dumps(first)) | {"question": "And now?", "seeds": 3}
    other["arms"] = {
        "1:1": {},
        "all local": {"model.pattern": ["local"], "model.blocks.local.mixer.window": 6},
        "wide": {"model.dim": 32},
    }
    other["train"] = {"steps": 20, "checkpoint_every": 3}
    other["claims"] = {"quality": {"type": "equivalent", "margin": 0.02}}
    Path("a.yaml").write_text(json.dumps(first))
    Path("b.yaml").write_text(json.dumps(other))
    return "a.yaml", "b.yaml"


LINES = [
    "question: Is it? -> And now?",
    "seeds: 2 -> 3",
    "claims.quality.margin: 0.01 -> 0.02",
    "only in b.yaml: arm 'wide'",
    "every arm that both have: train.steps: 12 -> 20",
    "arm 'all local': model.blocks.local.mixer.window: 4 -> 6",
]


def test_it_names_what_is_asked_and_what_differs_in_every_arm_and_in_one(files, capsys):
    archbench.diff(*files)
    shown = capsys.readouterr().out.splitlines()
    assert shown == LINES
    archbench.diff(files[0], files[0])
    assert capsys.readouterr().out == "no difference\n"


def test_the_folder_of_a_study_stands_for_what_was_run(files, plan_study, capsys):
    planned = plan_study(json.loads(Path(files[0]).read_text()))
    planned.folder.mkdir(parents=True)
    planned.record().write(planned.folder)
    specs, jobs = {each.arm.label: each.arm.spec.dump() for each in planned.arms}, planned.jobs()
    side = differing.side(str(planned.folder))
    lines = differing.differences(side, differing.side(files[0]))
    assert lines == [f"arm {label!r}: no run in {planned.folder} has a record, so its spec is not known" for label in side.arms]
    for job in jobs:
        job.folder.mkdir(parents=True)
        RunRecord(status="finished", identity=job.plan.identity, seed=job.seed, spec=specs[job.arm]).write(job.folder)
    archbench.diff(str(planned.folder), files[1])
    shown = capsys.readouterr().out.splitlines()
    assert {*LINES} <= {*shown}


def test_baselines_and_order_are_said():
    spec = {"train": {"steps": 1}}
    a = Side("a", {}, {"x": (spec, spec), "y": (spec, spec)})
    b = Side("b", {}, {"y": (spec, spec), "x": (spec, spec)})
    assert differing.differences(a, b) == ["baseline: 'x' -> 'y'"]
    c = Side("c", {}, {"x": ({"train": {"steps": 2}}, spec)})
    assert differing.differences(a, c) == ["only in a: arm 'y'", "arm 'x': train.steps: 1 -> 2"]


def test_two_runs_also_differ_in_where_they_ran(tiny, tmp_path, capsys):
    from experiments.plan import resolve

    spec = resolve(tiny).dump()
    common = {"status": "finished", "identity": "a" * 64, "hardware": {"cpu": "x"}, "data": {"fingerprint": "f" * 64}}
    RunRecord(seed=0, spec=spec, **common).write(_made(tmp_path / "one"))
    other = json.loads(json.dumps(spec))
    other["optimizer"]["lr"] = 0.5
    RunRecord(seed=1, spec=other, **(common | {"hardware": {"cpu": "y"}, "threads": 2})).write(_made(tmp_path / "two"))
    archbench.diff(str(tmp_path / "one"), str(tmp_path / "two"))
    shown = capsys.readouterr().out.splitlines()
    assert shown == ["optimizer.lr: 0.003 -> 0.5", "seed: 0 -> 1", "the machine's cpu: x -> y", "threads per run: 1 -> 2"]
    assert whole(resolve(tiny))["optimizer"]["lr"] == 0.003


def _made(folder):
    folder.mkdir()
    return folder


def test_two_kinds_and_a_damaged_record_are_refused(files, tmp_path):
    with pytest.raises(SpecError, match=r"a.yaml is of the kind study and tiny_gemma3 of the kind experiment; expected two of one"):
        archbench.diff("a.yaml", "tiny_gemma3")
    (_made(tmp_path / "broken") / "study.json").write_text("{")
    with pytest.raises(DataError, match="broken: its record cannot be read"):
        archbench.diff("a.yaml", str(tmp_path / "broken"))
