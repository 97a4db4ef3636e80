"""`archbench evaluate` on a run, on a checkpoint that is no run, and on a study."""

import json
import shutil

import pytest
from safetensors.torch import load_file, save_file

import archbench
import experiments.__main__ as experiments
from arch import digests
from arch.errors import DataError, SpecError
from experiments.__main__ import _table, evaluate
from experiments.plan import plan
from experiments.record import EVALUATIONS
from experiments.train import train


@pytest.fixture(scope="module")
def run(corpus_file, tmp_path_factory):
    """The folder of a finished run."""
    tiny = json.loads(json.dumps(_tiny(corpus_file)))
    folder = tmp_path_factory.mktemp("measured") / "run"
    assert train(plan(tiny), 0, folder).status == "finished"
    return folder


def _tiny(corpus_file):
    block = {
        "mixer": {"type": "attention", "heads": 2, "kv_heads": 1, "head_dim": 8},
        "ffn": {"type": "gated", "hidden": 24},
    }
    return {
        "model": {"dim": 16, "vocab_size": 300, "layers": 2, "pattern": ["global"], "blocks": {"global": block}},
        "data": {
            "source": {"type": "text", "files": [str(corpus_file)], "field": "text"},
            "tokenizer": {"type": "byte"},
            "context": 32,
            "rows": 4,
        },
        "optimizer": {"lr": 3e-3},
        "train": {"steps": 2},
        "evaluate": {"select": {}, "report": {"loss": {"type": "objective", "rows": 9}}},
    }


@pytest.fixture
def checkpoint(run, tmp_path):
    """The same weights in a folder that is no run: without a record, as an imported model."""
    folder = tmp_path / "checkpoint"
    shutil.copytree(run, folder)
    (folder / "record.json").unlink()
    shutil.rmtree(folder / EVALUATIONS)
    return folder


def _values(folder, name="objective"):
    files = sorted((folder / EVALUATIONS).glob(f"report.{name}-*.json"))
    return [json.loads(file.read_text())["values"] for file in files if ".documents" not in file.name]


def test_an_evaluator_by_name_measures_what_the_spec_would(run, capsys):
    evaluate(run, evaluators=["objective"], changes=["objective.rows=9"])
    assert "(new)" in capsys.readouterr().out
    assert _values(run, "loss")[0] in _values(run)
    evaluate(run, evaluators=["objective"], changes=["objective.rows=9"])
    assert "(new)" not in capsys.readouterr().out, "what is measured stays"


def test_rows_with_the_same_columns_stand_together_below_one_heading(capsys):
    _table([{"layer": 0, "rms": 17170.14}, {"layer": 0, "head": 1, "rms": 2.0}, {"layer": 1, "head": None, "rms": 0.5}])
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["", "  layer     rms", "      0  17,170", "      1  0.5000", "", "  layer  head  rms", "      0     1    2"]


def test_a_checkpoint_is_measured_as_the_run_that_it_was(run, checkpoint, corpus_file, tmp_path, capsys):
    spec = tmp_path / "data.yaml"
    spec.write_text(json.dumps({"data": _tiny(corpus_file)["data"]}))
    evaluate(checkpoint, evaluators=["objective"], changes=["objective.rows=9"], data=str(spec))
    assert _values(checkpoint) == _values(run, "loss")


def test_a_checkpoint_is_measured_on_all_texts_that_are_given_and_others_are_other_files(checkpoint, tmp_path, capsys):
    for i, words in enumerate(("one bird sang of rain over hills ", "old green hills by night ")):
        (tmp_path / f"{i}.txt").write_text(words * 20)
        evaluate(checkpoint, evaluators=["objective"], text=[str(tmp_path / f"{i}.txt")])
    values = _values(checkpoint)
    assert len(values) == 2 and values[0] != values[1], "one document is enough, and the data is part of the file's name"


@pytest.mark.parametrize(
    "options, text",
    [
        ({"evaluators": ["objectiv"]}, "no evaluator 'objectiv'; did you mean 'objective'?"),
        (
            {"evaluators": ["objective"], "changes": ["objective.row=3"]},
            "objective.row: unknown key; did you mean 'rows'",
        ),
        ({"evaluators": ["objective"], "changes": ["loss.rows=3"]}, "--set loss.*: no evaluator of that name is asked for"),
        ({"changes": ["objective.rows=3"]}, "--set changes an option of an evaluator"),
        ({"evaluators": ["objective"], "spec": "x.yaml"}, "give a SPEC or --with NAME"),
        ({"evaluators": ["objective"], "text": ["x.txt"]}, "a finished run is measured on its own data"),
    ],
)
def test_what_cannot_be_measured_is_refused(run, options, text):
    before = sorted((run / EVALUATIONS).iterdir())
    with pytest.raises(SpecError, match=text):
        evaluate(run, **options)
    assert sorted((run / EVALUATIONS).iterdir()) == before


def test_a_checkpoint_says_what_it_needs(checkpoint):
    with pytest.raises(DataError, match="for a checkpoint, say what to measure: --with NAME"):
        evaluate(checkpoint)
    with pytest.raises(SpecError, match="no file matches 'nothing"):
        evaluate(checkpoint, evaluators=["objective"], text=["nothing*"])


def test_a_preview_says_what_the_objective_of_an_experiment_adds(checkpoint, corpus_file, tmp_path, capsys):
    spec = tmp_path / "student.yaml"
    objective = {"type": "distill", "teacher": str(checkpoint)}
    spec.write_text(json.dumps({**_tiny(corpus_file), "schema": 1, "objective": objective}))
    archbench.show(str(spec))
    assert f"its objective (teacher {checkpoint}) adds: " in capsys.readouterr().out
    spec.write_text(json.dumps({**_tiny(corpus_file), "schema": 1, "objective": {**objective, "teacher": str(tmp_path)}}))
    with pytest.raises(SpecError, match=f"student.yaml:1: objective.teacher: .*there is one in {checkpoint}"):
        archbench.show(str(spec))


def test_a_study_is_no_single_run_and_its_runs_are_no_folders(tmp_path):
    file = tmp_path / "study.yaml"
    arms = "{a: {}, b: {objective: {type: distill, teacher: a}}}"
    file.write_text(f"schema: 1\nextends: experiments/tiny_gemma3\nquestion: why?\narms: {arms}\n")
    with pytest.raises(SpecError, match="this is a study: archbench study run"):
        archbench._of("experiment", experiments.run)(spec=str(file))
    with pytest.raises(SpecError, match=r"study.yaml:4: objective.teacher: no folder 'a'; .*`{run: a, seed: 0}`"):
        archbench.show(str(file))


def test_training_refuses_data_whose_splits_are_the_same(corpus_file):
    tiny = _tiny(corpus_file)
    tiny["data"]["splits"] = "all"
    with pytest.raises(SpecError, match=r"data\.splits: `all` is for a run that only measures"):
        plan(tiny)


def test_every_finished_run_of_a_study_is_measured(run, tmp_path, corpus_file, capsys):
    from sweeps.record import ArmRecord, StudyRecord

    record = json.loads((run / "record.json").read_text())
    shutil.copytree(run, tmp_path / "study" / "a")
    arm = {"changes": {}, "cost": {}, "identities": [record["identity"]]}
    arms = {"a": ArmRecord(**arm, runs={"0": "a"}), "same": ArmRecord(**arm, runs={"0": "a", "1": "missing"})}
    StudyRecord(name="s", scale=None, question="?", arms=arms, seeds=[0], spec={}, claims={}, long_context=64).write(
        tmp_path / "study"
    )
    archbench.evaluate(tmp_path / "study", None, ["objective"], ["objective.rows=3"], "report")
    out = capsys.readouterr().out
    assert "[1/1] a, seed 0: report.objective measured in " in out, "a run that arms share is measured once"
    assert "archbench report" in out and "report/loss" in out and out.count("\n") < 15
    archbench.evaluate(tmp_path / "study", None, ["objective"], ["objective.rows=3"], "report")
    assert "[1/1] a, seed 0: report.objective was there" in capsys.readouterr().out


def test_a_checkpoint_measured_on_longer_rows_or_with_other_weights_is_measured_again(checkpoint, corpus_file, tmp_path, capsys):
    """Neither is covered by the data's fingerprint, and the folder has no record that names the weights."""
    for context in (32, 16):
        spec = tmp_path / f"{context}.yaml"
        spec.write_text(json.dumps({"data": {**_tiny(corpus_file)["data"], "context": context}}))
        evaluate(checkpoint, evaluators=["objective"], data=str(spec))
    weights = load_file(checkpoint / "model.safetensors")
    save_file({name: 3 * weight for name, weight in weights.items()}, checkpoint / "model.safetensors")
    digests.discard(checkpoint)
    evaluate(checkpoint, evaluators=["objective"], data=str(spec))
    assert len({tuple(values.items()) for values in _values(checkpoint)}) == 3
    evaluate(checkpoint, evaluators=["objective"], data=str(spec))
    assert len(_values(checkpoint)) == 3


def test_the_distance_from_a_teacher_is_only_measured_with_the_teacher_that_the_run_had(run, corpus_file, tmp_path, capsys):
    teacher = tmp_path / "teacher"
    shutil.copytree(run, teacher)
    student = tmp_path / "student"
    tiny = _tiny(corpus_file) | {"objective": {"type": "distill", "teacher": str(teacher)}}
    assert train(plan(tiny), 0, student).status == "finished"
    weights = load_file(teacher / "model.safetensors")
    save_file({name: 3 * weight for name, weight in weights.items()}, teacher / "model.safetensors")
    before = sorted((student / EVALUATIONS).iterdir())
    with pytest.raises(DataError, match="its weights have changed"):
        evaluate(student, evaluators=["teacher_distance"])
    shutil.rmtree(teacher)
    with pytest.raises(DataError, match="the checkpoint that was planned is not there"):
        evaluate(student, evaluators=["teacher_distance"])
    assert sorted((student / EVALUATIONS).iterdir()) == before
    evaluate(student, evaluators=["objective"])  # needs no teacher
