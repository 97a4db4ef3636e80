"""`train.precision: auto` in a study: one precision for all arms that say it, kept by the study's folder."""

import pytest

from arch import document
from arch.kernels import products
from experiments.spec import TrainSpec
from sweeps import duration, settled, show, study
from sweeps.spec import arm_document, split

WIDE = {
    "model.dim": 128,
    "model.blocks.local.mixer.head_dim": 64,
    "model.blocks.rec.mixer.blocks": 4,
}


@pytest.fixture(autouse=True)
def not_probed(monkeypatch):
    """What a model computes is no matter here."""
    monkeypatch.setattr("experiments.probes.check", lambda spec, root: ())


@pytest.fixture
def cpu(monkeypatch):
    """cpu(unit) makes this machine one with that unit for bfloat16, as far as it is asked."""
    return lambda unit: monkeypatch.setattr(products._state, "unit", unit)


def asking(study_data, arms):
    return study_data | {"arms": arms, "train": study_data["train"] | {"precision": "auto"}}


def precisions(data, kept=None):
    spec, node, base, _ = settled.settle(*split(document.node(data)), kept)
    return {label: arm_document(node, base, label).plain()["train"].get("precision", "32-true") for label in spec.arms}


def test_the_narrowest_arm_decides_for_all_that_say_auto(study_data, cpu):
    cpu("AMX")
    wide = {"a": WIDE, "b": WIDE | {"model.pattern": ["local"]}}
    assert set(precisions(asking(study_data, wide)).values()) == {"bf16-mixed"}
    mixed = asking(study_data, wide | {"narrow": {}, "asked": WIDE | {"train.precision": "bf16-true"}})
    assert precisions(mixed) == {"a": "32-true", "b": "32-true", "narrow": "32-true", "asked": "bf16-true"}
    cpu("")
    assert set(precisions(asking(study_data, wide)).values()) == {"32-true"}


def test_only_the_arm_that_says_auto_is_settled_and_the_note_is_its_own(study_data, cpu):
    cpu("AMX")
    data = study_data | {"arms": {"plain": {}, "auto": WIDE | {"train.precision": "auto"}}}
    assert precisions(data) == {"plain": "32-true", "auto": "bf16-mixed"}
    plain, auto = study.check(document.node(data))[1]
    assert plain.resolved.notes == ()
    assert (auto.precision, plain.precision) == ("bf16-mixed", "")
    assert auto.resolved.notes == (
        "train.precision: auto became bf16-mixed: this CPU has AMX, with which bfloat16 gains from a width of 128 on",
    )


def test_what_it_became_is_the_identity(study_data, cpu, plan_study):
    cpu("AMX")
    arms = {"a": WIDE, "b": WIDE | {"model.pattern": ["local"]}}
    auto = plan_study(asking(study_data, arms))
    said = plan_study(study_data | {"arms": arms, "train": study_data["train"] | {"precision": "bf16-mixed"}})
    assert [each.identities for each in auto.arms] == [each.identities for each in said.arms]


def test_a_folder_keeps_what_it_became_whatever_the_next_machine_has(study_data, cpu, tmp_path):
    cpu("AMX")
    folder, data = tmp_path / "study", asking(study_data, {"a": WIDE, "b": WIDE | {"model.pattern": ["local"]}})
    assert settled.kept(folder) is None
    assert settled.keep(folder, "bf16-mixed") == "bf16-mixed"
    assert settled.keep(folder, "32-true") == "bf16-mixed", "the first driver decides"
    cpu("")
    assert set(precisions(data, settled.kept(folder)).values()) == {"bf16-mixed"}
    assert [file.name for file in folder.iterdir()] == [settled.FILE]


def test_a_run_that_an_arm_needs_is_settled_with_it(study_data, cpu):
    cpu("AMX")
    arms = {"a": WIDE, "b": WIDE | {"init_from": {"run": "before"}}}
    data = asking(study_data, arms) | {"runs": {"before": WIDE}}
    found = {arm.label: arm for arm in study.check(document.node(data))[1]}
    assert [need.spec.train.precision for need in found["b"].needs.values()] == ["bf16-mixed"]


def test_each_precision_has_a_step_of_its_own_timed_and_what_auto_became_is_shown(study_data, tmp_path, monkeypatch, cpu):
    cpu("")
    monkeypatch.setenv("ARCHBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(duration, "_step_seconds", lambda spec: 2.0 if spec.train.precision == "bf16-mixed" else 0.5)
    arms = {"exact": {}, "mixed": {"train.precision": "bf16-mixed"}, "local": {"model.pattern": ["local"]}}
    spec, found = study.check(document.node(asking(study_data, arms)))
    data = show.preview("asked", None, spec, found)
    estimate = duration.estimate(data, found)
    assert estimate.seconds["mixed"] == pytest.approx(4 * estimate.seconds["exact"])
    assert "a step of each of 'exact' and 'mixed' was timed" in estimate.words
    assert data["notes"] == ["train.precision: auto became 32-true: this CPU has no units for bfloat16"]


def test_a_step_is_timed_in_the_precision_of_its_arm():
    seen = []
    for precision in ("bf16-mixed", "32-true"):
        duration._within(TrainSpec(steps=1, precision=precision), lambda: seen.append(products.is_casting()))
    assert seen == [True, False]
