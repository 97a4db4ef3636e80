"""Runs that an objective uses (a teacher): identity, records, costs, and what is refused."""

import json
import shutil

import pytest

from arch import checkpoint
from arch.errors import SpecError
from arch.model import new_model
from experiments import references
from experiments.plan import plan, resolve
from experiments.train import measure, train
from sweeps.costs import cost_metric


@pytest.fixture
def teacher(tiny, tmp_path):
    """The folder of a checkpoint with the vocabulary of the tiny experiment, without a tokenizer."""
    return _teacher(tiny, tmp_path / "teacher", seed=7)


def _teacher(tiny, folder, seed, **changes):
    spec = resolve({**tiny, "model": {**tiny["model"], "dim": 24, **changes}}).model
    folder.mkdir()
    checkpoint.write_spec(spec, folder / checkpoint.SPEC)
    from safetensors.torch import save_file

    save_file({name: weight.detach() for name, weight in new_model(spec, seed).named_parameters()}, folder / checkpoint.WEIGHTS)
    return folder


def _distilled(tiny, folder, **options):
    return {**tiny, "objective": {"type": "distill", "teacher": str(folder), **options}, "train": {"steps": 3}}


def test_what_a_teacher_is_decides_identity_and_not_where_it_lies(tiny, teacher, tmp_path):
    first = plan(_distilled(tiny, teacher))
    shutil.copytree(teacher, tmp_path / "moved")
    assert plan(_distilled(tiny, tmp_path / "moved")).identity == first.identity
    assert plan(_distilled(tiny, _teacher(tiny, tmp_path / "other", seed=8))).identity != first.identity
    capped = _teacher(tiny, tmp_path / "capped", seed=7, logit_softcap=5.0)
    assert (capped / checkpoint.WEIGHTS).read_bytes() == (teacher / checkpoint.WEIGHTS).read_bytes()
    assert plan(_distilled(tiny, capped)).identity != first.identity, "the same weights with a softcap predict otherwise"
    assert plan(_distilled(tiny, teacher, temperature=2.0)).identity != first.identity


def test_a_teacher_is_recorded_and_a_finished_student_is_measured_without_it(tiny, teacher, tmp_path):
    planned = plan(_distilled(tiny, teacher))
    record = train(planned, 0, tmp_path / "runs" / "student")
    assert record.status == "finished", record.failure
    assert record.runs["teacher"]["folder"] == "../../teacher" and record.runs["teacher"]["sha256"]
    assert "report/kl" not in record.metrics and record.metrics["train/kl"] > 0
    shutil.rmtree(teacher)
    more = {"report": {"more": {"type": "objective", "rows": 3}}}
    wanted = plan({**tiny, "evaluate": more}).evaluations
    (measured,) = measure(planned.model_copy(update={"evaluations": wanted[-1:], "runs": {}}), 0, tmp_path / "runs" / "student")
    assert measured.values["report/loss"] > 0


def test_a_student_is_measured_as_a_model_that_was_trained_on_text(tiny, teacher, tmp_path):
    """With no step trained, the student is the model that the seed gives: its loss is that of next-token prediction."""
    student, plain = (plan({**spec, "train": {"steps": 0}}) for spec in (_distilled(tiny, teacher), tiny))
    records = [train(each, 0, tmp_path / name) for each, name in ((student, "student"), (plain, "plain"))]
    losses = [record.metrics["report/loss"] for record in records]
    assert losses[0] == losses[1] and student.identity != plain.identity
    assert references.measured_by(student.spec) == {"type": "next_token"} == references.measured_by(plain.spec)


def test_a_teacher_that_changed_after_planning_is_refused(tiny, teacher, tmp_path):
    planned = plan(_distilled(tiny, teacher))
    _teacher(tiny, tmp_path / "other", seed=9)
    shutil.copyfile(tmp_path / "other" / checkpoint.WEIGHTS, teacher / checkpoint.WEIGHTS)
    record = train(planned, 0, tmp_path / "student")
    assert record.status == "failed" and "its weights have changed since the run was planned" in record.failure.message
    assert record.failure.by_machine


def test_what_a_teacher_costs_is_part_of_the_runs_cost(tiny, teacher):
    student, plain = plan(_distilled(tiny, teacher)), plan({**tiny, "train": {"steps": 3}})
    extra = student.cost["objective"]["flops"]
    assert extra > 0 and "objective" not in plain.cost
    costs = [cost_metric("cost/train_flops", each.spec, each.cost) for each in (student, plain)]
    assert costs[0] - costs[1] == pytest.approx(extra)


@pytest.mark.parametrize(
    "change, key, text",
    [
        ({"teacher": "nowhere"}, "objective.teacher", "nowhere: no checkpoint"),
        ({"teacher": {"run": "tiny_gemma3"}}, "objective.teacher.run", "tiny_gemma3 has to be trained first"),
        ({"teacher": 3}, "objective.teacher", "expected"),
        ({"k": 16}, "objective.k", "mode full uses the whole vocabulary"),
    ],
)
def test_a_teacher_that_cannot_be_used_is_refused_at_its_line(tiny, teacher, tmp_path, change, key, text):
    from arch.document import load

    path = tmp_path / "run.yaml"
    path.write_text(json.dumps(_distilled(tiny, teacher, **change), indent=1))
    with pytest.raises(SpecError) as caught:
        plan(load(str(path), "experiments"))
    said = str(caught.value)
    assert said.startswith(f"{path}:") and f" {key}" in said and text in said, said
    assert "\n" not in said


def test_a_vocabulary_that_differs_names_both(tiny, tmp_path):
    other = _teacher(tiny, tmp_path / "teacher", seed=0, vocab_size=301)
    with pytest.raises(SpecError, match="vocabulary of 301 tokens, this run's model 300"):
        plan(_distilled(tiny, other))
