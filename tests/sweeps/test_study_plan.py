"""A study is checked completely before anything is written, and no run is done twice."""

import json
import os
import subprocess
import sys

import pytest
import sweeps_fakes

from arch import document
from arch.errors import SpecError
from arch.spec import ABSENT
from experiments.record import RunRecord
from sweeps import folders, show, study
from sweeps.record import StudyRecord
from sweeps.scale import larger_scale


def test_runs_go_seed_by_seed(plan_study, study_data):
    jobs = plan_study(study_data).jobs()
    assert [(job.arm, job.seed) for job in jobs] == [("1:1", 0), ("all local", 0), ("1:1", 1), ("all local", 1)]


def test_run_folders_are_the_arm_and_its_identity(plan_study, study_data, tmp_path):
    planned = plan_study(study_data, "gemma3/local_global", "small")
    job = planned.jobs()[0]
    assert job.folder == tmp_path / "runs/gemma3-local_global/small" / f"1to1-{job.plan.identity[:12]}" / "seed-0"


@pytest.mark.parametrize("labels", [["1:1", "1to1", "1TO1"], ["a/b", "a b", "..", "", "-"], ["x" * 100, "x" * 101]])
def test_arm_names_are_safe_and_unique(labels):
    names = folders.safe_names(labels)
    assert len({name.lower() for name in names.values()}) == len(labels)
    assert all(name and "/" not in name and not name.startswith((".", "-")) for name in names.values())


def test_a_finished_run_of_another_study_and_scale_is_reused(plan_study, study_data):
    first, second = plan_study(study_data, "first", "small"), plan_study(study_data, "second", None)
    assert not {job.folder for job in first.jobs()} & {job.folder for job in second.jobs()}
    same = plan_study(study_data | {"train": study_data["train"] | {"steps": 2}}, "third")
    sweeps_fakes.finish(first.jobs()[1])
    assert same.jobs()[1].folder == first.jobs()[1].folder
    runs = same.record().arms["all local"].runs
    assert runs["0"].startswith("../../first/small/") and (same.folder / runs["0"]).resolve().is_dir()
    assert not runs["1"].startswith("..")


def test_a_record_of_another_identity_in_a_folder_of_that_name_is_not_reused(plan_study, study_data):
    first, second = plan_study(study_data, "first"), plan_study(study_data, "second")
    job = first.jobs()[0]
    sweeps_fakes.finish(job)
    other = RunRecord.read_whole(job.folder).model_copy(update={"identity": job.plan.identity[:12] + "0" * 52})
    other.write(job.folder)
    assert second.jobs()[0].folder.is_relative_to(second.folder)
    (job.folder / "record.json").write_text("{ half a rec")
    assert second.jobs()[0].folder.is_relative_to(second.folder)


def test_arms_that_are_the_same_experiment_share_their_runs(plan_study, study_data):
    study_data["arms"]["again"] = {"model.layers": 3}
    planned = plan_study(study_data)
    assert len(planned.jobs()) == 4
    assert planned.remarks()[-1] == "arms '1:1' and 'again' resolve to the same experiment and share their runs"
    arms = planned.record().arms
    assert arms["again"].runs == arms["1:1"].runs and len(arms["again"].runs) == 2


def test_an_arm_is_resolved_once(study_data, tmp_path, monkeypatch):
    from arch import registry

    resolved, resolve = [], registry.resolve
    monkeypatch.setattr(registry, "resolve", lambda *words: resolved.append(1) or resolve(*words))
    spec, arms = study.check(document.node(study_data))
    planned = study.plan("asked", None, spec, arms, tmp_path / "runs")
    assert len(resolved) == len(planned.arms) == 2


def test_the_record_says_how_arms_differ_and_what_they_cost(plan_study, study_data):
    study_data["arms"]["slow"] = {"optimizer.lr": 1e-5, "train.threads": 2}
    planned = plan_study(study_data, scale="small")
    planned.folder.mkdir(parents=True)
    planned.record().write(planned.folder)
    found = StudyRecord.read(planned.folder)
    assert list(found.arms) == ["1:1", "all local", "slow"] and found.arms["1:1"].changes == {}
    assert found.arms["all local"].changes == {"model.pattern": [["rec", "local", "global"], ["local"]]}
    assert found.arms["slow"].changes == {"optimizer.lr": [3e-3, 1e-5], "train.threads": [1, 2]}
    assert found.arms["slow"].cost == {"cache_bytes": {"total": 32}, "long": {"context": 64, "cache_bytes": 64}}
    assert found.larger_scale == "laptop"


def test_differences_are_those_of_the_resolved_specs(plan_study, study_data):
    """A default that is turned off is a change; so is what an override does to the blocks that are `like` the changed one."""
    mixer = "model.blocks.local.mixer"
    study_data["claims"] = {"quality": {"type": "equivalent", "arms": ["no clipping"]}}  # not of what is measured otherwise
    study_data["arms"] |= {
        "no clipping": {"optimizer.clip": None},
        "no positions": {f"{mixer}.rope": None},
        "as it is": {"optimizer.clip": 1.0, "optimizer.weight_decay": 0.1, f"{mixer}.rope": {"theta": 1e4}},
        "two heads": {f"{mixer}.kv_heads": 2},
        "other rows": {"evaluate.report_rows": 8},
        "elsewhere": {"data.source.separator": "|", "train.checkpoint_every": 7},
    }
    arms = plan_study(study_data).record().arms
    differences = {label: arm.differences for label, arm in arms.items()}
    assert differences["no clipping"] == {"optimizer.clip": (1.0, None)}
    rope = {"theta": 1e4, "scale": 1.0, "fraction": 1.0}
    assert differences["no positions"] == {f"model.blocks.{name}.mixer.rope": (rope, None) for name in ("local", "global")}
    assert differences["as it is"] == {} == differences["1:1"]
    assert differences["two heads"] == {f"model.blocks.{name}.mixer.kv_heads": (1, 2) for name in ("local", "global")}
    assert differences["other rows"] == {"evaluate.report.loss.rows": (4, 8)}
    assert differences["elsewhere"] == {"data.source.separator": (None, "|"), "train.checkpoint_every": (3, 7)}


def test_another_type_of_component_is_the_type_and_what_was_written(plan_study, study_data):
    study_data["arms"]["no recurrence"] = {"model.blocks.rec.mixer": {"type": "attention", "heads": 2}}
    planned = plan_study(study_data)
    planned.folder.mkdir(parents=True)
    planned.record().write(planned.folder)
    arm = StudyRecord.read(planned.folder).arms["no recurrence"]
    key = "model.blocks.rec.mixer"
    assert arm.differences[f"{key}.type"] == ("rg_lru", "attention") and arm.differences[f"{key}.bias"] == (True, False)
    assert arm.differences[f"{key}.blocks"] == (2, ABSENT) and arm.differences[f"{key}.heads"] == (ABSENT, 2)
    assert arm.differences[f"{key}.width"] == (None, ABSENT) and arm.differences[f"{key}.softcap"] == (ABSENT, None)
    written = ("heads", "kv_heads", "head_dim", "window", "blocks")  # three of them by the block that it is like
    assert set(arm.listed) == {f"{key}.{option}" for option in ("type", "bias", *written)}


def test_the_preview_names_every_block_and_tells_null_from_absent(study_data, console):
    study_data["model"]["blocks"]["rec"]["mixer"]["width"] = None
    study_data["arms"] |= {
        "no positions": {"model.blocks.local.mixer.rope": None},
        "no recurrence": {"model.blocks.rec.mixer": {"type": "attention"}},
    }
    spec, arms = study.check(document.node(study_data))
    show.printed(json.loads(json.dumps(show.preview("asked", None, spec, arms))), console)
    said = console.file.getvalue()
    for name in ("local", "global"):
        assert f"model.blocks.{name}.mixer.rope: {{theta: 10000, scale: 1, fraction: 1}} -> null\n" in said
    assert "model.blocks.rec.mixer.type: rg_lru -> attention\n" in said
    assert "model.blocks.rec.mixer.width: null -> \N{EN DASH}\n" in said and "mixer.taps" not in said


def test_the_larger_scale_is_only_named_where_it_is_larger(plan_study, study_data):
    spec = plan_study(study_data).spec
    assert [larger_scale(spec, scale) for scale in ("small", "laptop", None)] == ["laptop", None, None]


def test_a_scale_may_drop_and_add_arms(plan_study, study_data):
    study_data["scales"] = study_data.get("scales", {}) | {"few": {"arms": {"all local": None, "third": {"model.layers": 2}}}}
    assert [each.arm.label for each in plan_study(study_data, scale="few").arms] == ["1:1", "third"]
    assert [each.arm.label for each in plan_study(study_data).arms] == ["1:1", "all local"]


TUNE = {"tune": {"space": {"optimizer.lr": {"low": 1e-3, "high": 1e-2}}}}


@pytest.mark.parametrize(
    ("scale", "change", "said"),
    [
        ("smal", {}, "did you mean 'small'"),
        (None, {"arms": {"a": {}, "b": {"model.patern": ["local"]}}}, "did you mean 'pattern'"),
        (None, {"arms": {"a": {}, "b": {"model.pattern": ["lokal"]}}}, "did you mean 'local'"),
        (None, {"arms": {}}, "at least one"),
        (None, {"claim": {"known_worse": ["lokal"]}}, "no arm 'lokal'"),
        (None, {"seeds": "3"}, "whole number"),
        (None, {"tune": {"space": {"optimizer.lr": {"low": 1e-2, "high": 1e-3}}}}, "must be below"),
        (None, {"tune": {"space": {"optimizer.rate": {"low": 1e-3, "high": 1e-2}}}}, "unknown key"),
        (None, {"tune": {"space": {"schedule.warmup": {"low": 0.1, "high": 2.0}}}}, "at 2"),
        (None, {"tune": TUNE["tune"] | {"first_seed": 1}}, "reported seed"),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(plan_study, study_data, tmp_path, scale, change, said):
    with pytest.raises(SpecError, match=said):
        plan_study(study_data | change, scale=scale)
    assert list(tmp_path.iterdir()) == []


def test_bad_input_names_the_file_and_line_of_the_arm(tmp_path, study_data):
    path = written(tmp_path, study_data | {"arms": {"a": {}, "b": {"model.layers": 0}}})
    with pytest.raises(SpecError, match=r"study\.yaml:\d+: model\.layers"):
        study.check(document.load(str(path), "sweeps"))


def written(folder, data):
    """Write a study file. JSON is also YAML."""
    path = folder / "study.yaml"
    path.write_text(json.dumps(data, indent=1))
    return path


def test_the_command_exits_with_2_and_writes_nothing(tmp_path, study_data):
    path = written(tmp_path, study_data)
    command = [sys.executable, "-m", "sweeps", "run", str(path), "--scale", "smal", "--runs", str(tmp_path / "runs")]
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=tmp_path, env=environment())
    assert done.returncode == 2 and "did you mean 'small'" in done.stderr and "Traceback" not in done.stderr
    assert [each.name for each in tmp_path.iterdir()] == ["study.yaml"]


def environment():
    """The environment for a command that runs in another folder."""
    return os.environ | {"PYTHONPATH": str(document.ROOT)}
