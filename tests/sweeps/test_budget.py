"""`budget`: arms get the steps that spend the same compute, tokens or seconds; seconds are measured once and kept."""

import copy
import json

import pytest
import sweeps_fakes

from arch import document
from arch.errors import SpecError
from experiments import plan as experiment
from experiments import references
from sweeps import budget, paces, show, study
from sweeps.costs import exact_cost
from sweeps.spec import arm_document, split

TOKENS = 4 * 32  # of a step of the tiny experiment


def with_budget(study_data, spending, **arms):
    return {**copy.deepcopy(study_data), "budget": spending, "arms": {**study_data["arms"], **arms}}


def spent(data, seconds=None, scale=None):
    """({arm: resolved spec}, {arm: BudgetRecord})."""
    spec, node, base = split(document.node(data), scale)
    spec, node, found = budget.budgeted(spec, node, base, seconds or {})
    return {label: experiment.resolve(arm_document(node, base, label)) for label in spec.arms}, {each.arm: each for each in found}


def train_flops(spec, teacher=None):
    added = references.costs(spec, None, {"teacher": teacher}) if teacher else {}
    return exact_cost("cost/train_flops", spec, added)


@pytest.mark.parametrize("named", [None, "all local"])
def test_arms_spend_the_same_flops(named, study_data):
    data = with_budget(study_data, {"flops": named or 3e8}, wider={"model.blocks.local.ffn.hidden": 96})
    specs, records = spent(data)
    goal = train_flops(specs[named]) if named else 3e8
    assert named is None or specs[named].train.steps == 12
    for label, spec in specs.items():
        step = train_flops(spec) / spec.train.steps
        assert abs(train_flops(spec) - goal) <= step / 2 + 1e-6
        record = records[label]
        assert (record.steps, record.spent, record.to) == (spec.train.steps, train_flops(spec), named or "")
        assert record.residual == pytest.approx(train_flops(spec) / goal - 1)
    assert specs["wider"].train.steps < specs["1:1"].train.steps


def test_the_teacher_is_part_of_what_a_student_spends(study_data):
    student = {"objective": {"type": "distill", "teacher": {"run": "big"}}}
    data = with_budget(study_data, {"flops": "1:1"}, student=student) | {"runs": {"big": {"model.layers": 9}}}
    specs, records = spent(data)
    _, node, base = split(document.node(data))
    big = experiment.resolve(arm_document(node, base, "big"))
    teacher = references.Referred("big", big.model, big.data, None)
    assert big.train.steps == 12  # a helper run keeps its steps
    assert " FLOP (ideal), " in records["student"].words.replace("M", "").replace("k", "").replace("G", "").replace(
        "\N{NO-BREAK SPACE}", " "
    )
    assert records["student"].spent == train_flops(specs["student"], teacher) > train_flops(specs["student"])
    assert records["student"].spent == pytest.approx(train_flops(specs["1:1"]), rel=0.1)
    assert specs["student"].train.steps < 12


def test_tokens_are_those_of_the_rows(study_data):
    specs, records = spent(with_budget(study_data, {"tokens": 50 * TOKENS}, long={"data.context": 128}))
    assert {label: spec.train.steps for label, spec in specs.items()} == {"1:1": 50, "all local": 50, "long": 12}
    assert (
        records["long"].residual == pytest.approx(12 * 4 / 50 - 1)
        and "takes 6.14\N{NO-BREAK SPACE}k tokens" in records["long"].words
    )


def test_an_arm_that_trains_nothing_stays_so(study_data):
    specs, records = spent(with_budget(study_data, {"tokens": 50 * TOKENS}, still={"train.steps": 0}))
    assert specs["still"].train.steps == 0 and set(records) == {"1:1", "all local"}


def test_seconds_are_the_steps_of_each_arms_own_pace(study_data):
    data = with_budget(study_data, {"seconds": 60}, faster={"optimizer.lr": 1e-2, "schedule": {"warmup": 0.2}})
    spec, arms = study.check(document.node(data))
    assert budget.unmeasured(spec, arms) == ["1:1", "all local", "faster"] and arms[0].spec.train.steps == 12
    first, local, faster = map(paces.key, arms)
    assert first == faster != local  # neither a rate nor a schedule makes a step longer
    specs, records = spent(data, {first: 0.5, local: 0.4})
    assert {label: each.train.steps for label, each in specs.items()} == {"1:1": 120, "all local": 150, "faster": 120}
    assert records["faster"].step_seconds == 0.5 and records["faster"].pace == first
    _, arms = study.check(document.node(data), None, {first: 0.5, local: 0.4})
    assert [paces.key(arm) for arm in arms] == [first, local, faster] and budget.unmeasured(spec, arms) == []
    specs, _ = spent(with_budget(study_data, {"seconds": "1:1"}), {first: 0.5, local: 0.4})
    assert [each.train.steps for each in specs.values()] == [12, 15]


def test_a_study_is_not_planned_before_its_steps_are_measured(study_data, plan_study, console):
    data = with_budget(study_data, {"seconds": 60})
    with pytest.raises(SpecError, match="the time of a step is not measured for '1:1' and 'all local'"):
        plan_study(data)


ERRORS = {
    "below one step": (
        {"flops": 1e3},
        {},
        ("budget", "flops"),
        "arm '1:1': below one step, which takes 8.82\N{NO-BREAK SPACE}MFLOP",
    ),
    "two of them": ({"flops": 1e9, "tokens": 5}, {}, ("budget",), "expected one of `flops`, `tokens` and `seconds`"),
    "none of them": ({"tokens": None}, {}, ("budget",), "expected one of"),
    "no end": ({"tokens": 1e15}, {}, ("budget", "tokens"), "arm '1:1': 7.81e+12 steps; expected at most 1e+12"),
    "unknown arm": ({"tokens": "1:2"}, {}, ("budget", "tokens"), "no arm '1:2'; did you mean '1:1'"),
    "no number": ({"seconds": [3]}, {}, ("budget", "seconds"), "expected a number or text, got a list"),
    "steps of its own": (
        {"tokens": 900},
        {"long": {"train.steps": 40}},
        ("arms", "long", "train.steps"),
        "`budget` decides the steps",
    ),
    "steps in a section": (
        {"tokens": 900},
        {"long": {"train": {"steps": 40}}},
        ("arms", "long", "train.steps"),
        "`budget` decides",
    ),
    "named, but trains nothing": ({"tokens": "still"}, {"still": {"train.steps": 0}}, ("budget", "tokens"), "trains nothing"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_bad_input_is_refused_at_its_key(name, study_data):
    spending, arms, path, text = ERRORS[name]
    with pytest.raises(SpecError) as caught:
        spent(with_budget(study_data, spending, **arms))
    assert caught.value.path == path and text in str(caught.value)


@pytest.mark.parametrize(("key", "span"), [("train.steps", (10, 20)), ("data.rows", (4, 8))])
def test_tuning_may_not_change_what_is_spent(key, span, study_data):
    data = with_budget(study_data, {"tokens": 50 * TOKENS}) | {
        "tune": {"space": {key: {"low": span[0], "high": span[1], "points": 2}}}
    }
    with pytest.raises(SpecError, match="`budget` ") as caught:
        study.check(document.node(data))
    assert caught.value.path == ("tune", "space", key)


def test_what_is_matched_may_not_depend_on_the_steps(study_data):
    match = {"quantity": "cost/train_flops", "vary": "model.blocks.local.ffn.hidden"}
    with pytest.raises(SpecError, match=r"match\.quantity: `budget` decides the steps after this; expected cost/flops_per_token"):
        split(document.node(with_budget(study_data, {"tokens": 900}) | {"match": match}))


def test_a_step_is_measured_by_training_for_real(study_data, tmp_path, monkeypatch):
    """The teacher of a student is made with the weights as they are drawn; nothing of it is left in the folder.

    While the student fills a cache it asks whether to stop, after every row here; none of that is a step.
    """
    monkeypatch.setattr(paces, "SECONDS", 0.01)
    monkeypatch.setattr("experiments.distillation.cache.rows_at_once", lambda *_: 1)
    monkeypatch.setenv("ARCHBENCH_CACHE", str(tmp_path / "cache"))
    student = {"objective": {"type": "distill", "teacher": {"run": "big"}, "mode": "sampled", "k": 4, "cache": True}}
    data = with_budget(study_data, {"seconds": 3}, student=student) | {"runs": {"big": {"model.layers": 4}}}
    _, arms = study.check(document.node(data))
    jobs = paces._jobs(arms[2], tmp_path)
    assert [(job.arm, job.plan.spec.train.steps) for job in jobs] == [("big", 0), ("student", paces.WARM_UP + paces.MOST + 2)]
    timed = paces.timer(1)
    made, done = (timed({**job.dump(), "runs_at_once": 1}, lambda state: None, lambda: None) for job in jobs)
    assert made["status"] == done["status"] == "finished", (made.get("failure"), done.get("failure"))
    assert 0 < done["timing"]["step_seconds"] < 5
    assert list((tmp_path / "cache").glob("teacher/*/index.json")), "the cache was filled before steps were counted"
    assert not (jobs[1].folder / "model.safetensors").exists()


def test_a_measurement_is_kept_and_the_studys_record_wins(study_data, plan_study, monkeypatch, tmp_path):
    monkeypatch.setenv("ARCHBENCH_CACHE", str(tmp_path / "cache"))  # that of all tests may know it from another time
    monkeypatch.setattr(paces, "timer", sweeps_fakes.timer)
    data = with_budget(study_data, {"seconds": 60}, faster={"optimizer.lr": 1e-2})
    _, arms = study.check(document.node(data))
    keys, said = [paces.key(arm) for arm in arms], []
    folder = tmp_path / "runs" / "asked" / "base"
    assert paces.known(folder, arms) == {}
    seconds = paces.measured(arms, said.append)
    assert seconds == {keys[0]: sweeps_fakes.STEP_SECONDS, keys[1]: sweeps_fakes.STEP_SECONDS}
    assert said[0] == "measuring a step, 1 of 2: arm '1:1'" and "arm 'all local': 0.25 s per step" in said
    assert paces.known(folder, arms) == seconds
    spec, arms = study.check(document.node(data), None, {keys[0]: 0.5, keys[1]: 0.75})
    planned = study.plan("asked", None, spec, arms, tmp_path / "runs")
    planned.folder.mkdir(parents=True)
    planned.record().write(planned.folder)
    assert paces.known(planned.folder, arms) == {keys[0]: 0.5, keys[1]: 0.75}


def test_the_preview_says_what_an_arm_may_spend(study_data, console):
    spec, arms = study.check(document.node(with_budget(study_data, {"tokens": 50 * TOKENS})))
    show.printed(json.loads(json.dumps(show.preview("asked", None, spec, arms))), console)
    said = console.file.getvalue().replace("\N{NO-BREAK SPACE}", " ")
    assert "budget: train.steps = 50 takes 6.40 k tokens, +0.00 % from 6.40 k tokens" in said


def test_winners_of_a_search_have_the_steps_of_the_arm_that_it_starts_from(study_data):
    search = {"space": {"optimizer.lr": {"low": 1e-3, "high": 1e-2}}, "trials": 4, "judge": 1, "minimise": "select/loss"}
    specs, records = spent(with_budget(study_data, {"tokens": 50 * TOKENS}) | {"search": search})
    assert "best 1" not in records and specs["best 1"].train.steps == specs["1:1"].train.steps == 50
