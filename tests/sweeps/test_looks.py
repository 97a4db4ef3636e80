"""A study is read at the looks of its plan; a decided arm gets no more seeds; a look that nothing pays for is said."""

from types import SimpleNamespace

import pytest
import sweeps_fakes as fakes

from analysis.claims import judge as sentences
from analysis.runs import load
from arch.contracts import UNDECIDED, UNSTABLE, Verdict
from arch.errors import SpecError
from experiments.metrics import NEXT_TOKEN
from sweeps import comparable, looking
from sweeps.claims.equivalent import SAME, WORSE
from sweeps.comparable import NOT_COMPARABLE
from sweeps.judge import Ruling, built, counted, judge, plan_of, undecided_arms
from sweeps.outcomes import runs_of
from sweeps.record import EarlierRecord, PlanRecord, StudyRecord
from sweeps.run import run_study

ARMS = {
    "base": {"optimizer.lr": fakes.BASE},
    "alike": {"optimizer.lr": fakes.ALIKE},
    "little": {"optimizer.lr": fakes.LITTLE},
    "control": {"optimizer.lr": fakes.CONTROL},
}
CLAIM = {"quality": {"type": "equivalent", "margin": 0.02, "known_worse": ["control"]}}


@pytest.fixture
def adaptive(study_data):
    """A study that goes on until it is decided."""
    return study_data | {"arms": ARMS, "claims": CLAIM, "seeds": {"min": 3, "max": 8, "until": "decided"}}


def ran(plan_study, data, console, name="asked", **more):
    planned = plan_study(data, name, **more)
    result = run_study(planned, 2, console, fakes.prepare)
    return result, StudyRecord.read(planned.folder)


def words(record, folder):
    return {
        subject: verdict.word
        for ruling in judge(record, runs_of(record, folder)).values()
        for subject, verdict in ruling.verdicts.items()
    }


def test_a_decided_arm_gets_no_more_seeds_and_the_baseline_goes_on(plan_study, adaptive, console):
    result, record = ran(plan_study, adaptive, console)
    seeds = {arm: len(each.runs) for arm, each in record.arms.items()}
    found = words(record, result.study.folder)
    assert result.complete and record.plan == PlanRecord(looks=(3, 5, 8), questions=2)
    assert seeds["control"] < seeds["base"] == max(seeds.values()) and found["control"] == WORSE
    assert [look.seeds for look in record.looks] == [n for n in (3, 5, 8) if n <= seeds["base"]]
    assert record.looks[-1].words["quality"] == found
    for arm in ("alike", "little", "control"):
        decided = [look.seeds for look in record.looks if look.words["quality"][arm] != "undecided"]
        assert seeds[arm] == min(decided, default=8)
    text = console.file.getvalue()
    assert "go on to 5" in text
    report = " ".join(sentences(load(result.study.folder)).sentences)
    assert "xploratory" not in report


def test_a_second_start_of_a_decided_study_does_nothing_and_forgets_nothing(plan_study, adaptive, console, monkeypatch):
    _, record = ran(plan_study, adaptive, console)
    monkeypatch.setattr("sweeps.workers.Pool", None)
    again, same = ran(plan_study, adaptive, console)
    assert again.complete and same.looks == record.looks and same.arms == record.arms
    assert "runs are finished already" in console.file.getvalue()


def test_the_first_decided_word_stays(plan_study, adaptive, console):
    """Later seeds of an arm that was decided are not read for it, whatever they say."""
    result, record = ran(plan_study, adaptive, console)
    runs = runs_of(record, result.study.folder)
    before = judge(record, runs)["quality"].verdicts["control"]
    for seed in range(before.n, 8):
        run = runs["base", 0].model_copy(update={"metrics": {"report/loss": 0.1}, "seed": seed})
        runs["control", seed] = run
    assert judge(record, runs)["quality"].verdicts["control"] == before


def test_before_a_look_is_complete_there_is_no_word(plan_study, study_data, console):
    data = study_data | {"arms": ARMS, "claims": CLAIM, "seeds": 5}
    result, record = ran(plan_study, data, console)
    runs = runs_of(record, result.study.folder)
    full = judge(record, runs)["quality"]
    assert full.look == 5 and not full.missing and full.verdicts["control"].word == WORSE
    del runs["alike", 4]
    part = judge(record, runs)["quality"]
    assert set(part.missing) == {"alike"} and "1 run of alike" in part.missing["alike"]
    assert "alike" not in part.verdicts and part.verdicts["little"] == full.verdicts["little"]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"seeds": 5}, "the seeds"),
        ({"claims": {"quality": {"type": "equivalent", "margin": 0.01, "known_worse": ["control"]}}}, "the claims"),
        ({"arms": {arm: ARMS[arm] for arm in ("base", "alike", "control")}}, "the arms"),
    ],
)
def test_another_plan_after_a_look_is_exploratory(plan_study, study_data, console, change, why):
    data = study_data | {"arms": ARMS, "claims": CLAIM, "seeds": 3}
    _, first = ran(plan_study, data, console)
    assert [look.seeds for look in first.looks] == [3] and not first.earlier
    result, second = ran(plan_study, data | change, console)
    assert [each.why for each in second.earlier] == [why] and f"exploratory: {why}" in console.file.getvalue()
    said = " ".join(sentences(load(result.study.folder)).sentences).replace("\N{NO-BREAK SPACE}", " ")
    assert "Exploratory" in said and "up to 10 %" in said
    _, third = ran(plan_study, data | change, console)
    assert third.earlier == second.earlier, "the same plan again is no further look"


def test_an_interruption_forgets_no_look(plan_study, study_data, console):
    """A look is known also where the study was interrupted before it was recorded, or before the next one."""
    data = study_data | {"arms": ARMS, "claims": CLAIM, "seeds": 3}
    result, first = ran(plan_study, data, console)
    folder = result.study.folder
    first.model_copy(update={"looks": []}).write(folder)  # interrupted after the last run
    _, second = ran(plan_study, data | {"seeds": 4}, console)
    assert [[look.seeds for look in each.looks] for each in second.earlier] == [[3]]
    # A start with more seeds that was interrupted before their first look: started again, and edited once more.
    begun = second.model_copy(update={"looks": [], "plan": PlanRecord(looks=(5,), questions=2), "seeds": list(range(5))})
    for seeds in (5, 6):
        begun.write(folder)
        _, again = ran(plan_study, data | {"seeds": seeds}, console)
        assert again.earlier == second.earlier, seeds


def test_a_word_that_could_be_read_is_a_look(plan_study, study_data, console):
    """One arm lacks a run, so that its verdict is missing; the words of the others were there to be read."""
    data = study_data | {"arms": ARMS, "claims": CLAIM, "seeds": 3}
    result, record = ran(plan_study, data, console)
    runs = runs_of(record, result.study.folder)
    full = looking.taken(judge(record, runs), 3, [])
    del runs["alike", 2]
    (part,) = looking.taken(judge(record, runs), 3, [])
    assert part.seeds == 3 and "little" in part.words["quality"] and "alike" not in part.words["quality"]
    (later,) = looking.taken(judge(record, runs_of(record, result.study.folder)), 3, [part])
    assert later.words == full[0].words and later.time == part.time
    for seed in range(3):
        runs.pop(("base", seed))
    assert looking.taken(judge(record, runs), 3, []) == []


def test_another_baseline_after_a_look_is_exploratory(plan_study, study_data, console):
    arms = {arm: ARMS[arm] for arm in ("base", "alike", "control")}
    data = study_data | {"arms": arms, "claims": CLAIM, "seeds": 3}
    ran(plan_study, data, console)
    _, swapped = ran(plan_study, data | {"arms": {arm: arms[arm] for arm in ("alike", "base", "control")}}, console)
    assert [each.why for each in swapped.earlier] == ["the arms"]


def test_a_record_of_an_older_release_states_the_same_claim(plan_study, study_data, console):
    """Options that a claim got since are no other claim."""
    data = study_data | {"arms": ARMS, "claims": CLAIM, "seeds": 3}
    result, record = ran(plan_study, data, console)
    older = {key: value for key, value in record.claims["quality"].items() if key not in ("arms", "to")}
    record.model_copy(update={"claims": {"quality": older}, "plan": None}).write(result.study.folder)
    _, again = ran(plan_study, data, console)
    assert not again.earlier and again.looks == record.looks


def test_a_copy_of_a_study_does_not_hide_a_look(plan_study, study_data, console):
    data = study_data | {"arms": ARMS, "claims": CLAIM, "seeds": 3}
    ran(plan_study, data, console, name="first")
    _, copied = ran(plan_study, data | {"seeds": 5}, console, name="second")
    assert [each.study for each in copied.earlier] == ["first"]
    _, same = ran(plan_study, data, console, name="third")
    assert not same.earlier, "the same plan read twice says the same twice"


def test_studies_that_share_a_baseline_and_a_control_are_no_looks_at_each_other(plan_study, study_data, console):
    """A look at one says nothing of the arm that the other asks about; one that asks about a shared arm has been answered."""
    arms = {arm: ARMS[arm] for arm in ("base", "alike", "control")}
    data = study_data | {"arms": arms, "claims": CLAIM, "seeds": 3}
    ran(plan_study, data, console, name="first")
    other = {"base": ARMS["base"], "little": ARMS["little"], "control": ARMS["control"]}
    result, second = ran(plan_study, data | {"arms": other}, console, name="second")
    assert not second.earlier
    assert any("first" in str(place) for arm in ("base", "control") for place in second.arms[arm].runs.values())
    _, third = ran(plan_study, data | {"arms": {**other, "alike": ARMS["alike"]}}, console, name="third")
    assert {each.study for each in third.earlier} == {"first", "second"}
    # What an older release wrote down is forgotten once it is read again.
    stale = EarlierRecord(plan=second.plan, looks=third.earlier[0].looks, study="first", why="the arms")
    second.model_copy(update={"earlier": [stale]}).write(result.study.folder)
    _, again = ran(plan_study, data | {"arms": other}, console, name="second")
    assert not again.earlier and again.looks == second.looks


def test_pictures_that_are_shown_otherwise_are_the_same_pictures():
    def run(crops=None, size=48, width=96, python="3.11", context=20, **about):
        source = {"type": "pages", "width": width, "image_size": size, "tokens": 4, "crops": crops}
        data = {"fingerprint": f"{crops} {size} {width}", **about}
        return SimpleNamespace(spec={"data": {"source": source, "context": context}}, data=data, versions={"python": python})

    assert not comparable.texts_differ(run(), run({"ratio": 1.2})) and not comparable.texts_differ(run(), run(size=24, context=30))
    assert comparable.texts_differ(run(), run(width=64)) and comparable.texts_differ(run(), run(size=24, python="3.12"))
    assert comparable.texts_differ(run(pictured="one"), run(size=24, pictured="other"))
    assert not comparable.texts_differ(run(pictured="one"), run(size=24, pictured="one"))


def test_a_look_counts_from_its_first_word(plan_study, study_data, console):
    """A run that the machine ended keeps one arm without a word; the words of the others were read."""
    data = study_data | {"arms": ARMS, "claims": CLAIM, "seeds": 3}
    result, record = ran(plan_study, data, console)
    runs = runs_of(record, result.study.folder)
    del runs["alike", 2]
    rulings = judge(record, runs)
    (look,) = looking.taken(rulings, 3, [])
    assert look.seeds == 3 and "alike" not in look.words["quality"] and look.words["quality"]["control"] == WORSE
    (whole,) = looking.taken(judge(record, runs_of(record, result.study.folder)), 3, [look])
    assert "alike" in whole.words["quality"] and whole.time == look.time
    older = look.model_copy(update={"words": {"quality": {"alike": "not comparable", "control": "better"}}})
    (later,) = looking.taken(judge(record, runs_of(record, result.study.folder)), 3, [older])
    assert later.words["quality"] == {**whole.words["quality"], "control": "better"}  # a word that was read stays
    for seed in range(3):
        del runs["base", seed]
    assert looking.taken(judge(record, runs), 3, []) == []


def test_a_record_without_a_plan_was_looked_at(plan_study, study_data, console):
    data = study_data | {"arms": ARMS, "claims": CLAIM, "seeds": 3}
    result, record = ran(plan_study, data, console)
    record.model_copy(update={"plan": None, "looks": []}).write(result.study.folder)
    _, again = ran(plan_study, data | {"seeds": 5}, console)
    assert [each.plan.looks for each in again.earlier] == [(3,)]


def test_an_arm_without_runs_does_not_hold_the_others_up(plan_study, adaptive, console):
    """An arm whose search found nothing never has runs; its question keeps its share, and the others go on."""
    result, record = ran(plan_study, adaptive, console)
    arms = {
        label: arm.model_copy(update={"runs": {}, "seeds": None}) if label == "little" else arm
        for label, arm in record.arms.items()
    }
    counts = {label: 3 if label != "little" else 0 for label in arms}
    first = record.model_copy(update={"arms": arms, "seeds": [0, 1, 2]})
    rulings = judge(first, {key: run for key, run in runs_of(first, result.study.folder).items() if key[1] < 3})
    following = looking.next_counts(first, rulings, counts)
    assert "little" in rulings["quality"].missing and following["alike"] == 5 and following["little"] == 0


def test_an_arm_that_lost_runs_is_unstable(plan_study, study_data, console):
    arms = ARMS | {"fragile": {"optimizer.lr": fakes.UNSTABLE}}
    result, record = ran(plan_study, study_data | {"arms": arms, "claims": CLAIM, "seeds": 5}, console)
    verdict = judge(record, runs_of(record, result.study.folder))["quality"].verdicts["fragile"]
    assert verdict.word == UNSTABLE and "failed in 1 of 5 seeds" in verdict.reason and verdict.needed is None
    # Where the baseline lost runs, no arm is judged by what is left.
    swapped = {"fragile": arms.pop("fragile"), **arms}
    result, record = ran(plan_study, study_data | {"arms": swapped, "claims": CLAIM, "seeds": 5}, console, name="swapped")
    found = judge(record, runs_of(record, result.study.folder))["quality"].verdicts
    assert not {found[arm].word for arm in ("base", "alike", "little")} & {WORSE, SAME, "better"}
    assert "fragile failed in 1 of 5" in found["base"].reason


def test_a_control_that_lost_runs_is_unstable(plan_study, study_data, console):
    arms = ARMS | {"fragile": {"optimizer.lr": fakes.UNSTABLE}}
    claim = {"quality": {"type": "equivalent", "margin": 0.02, "known_worse": ["fragile"]}}
    result, record = ran(plan_study, study_data | {"arms": arms, "claims": claim, "seeds": 5}, console)
    found = judge(record, runs_of(record, result.study.folder))["quality"].verdicts
    assert found["fragile"].word == UNSTABLE and "failed in 1 of 5 seeds" in found["fragile"].reason
    assert found["control"].word == WORSE and found["alike"].word != SAME


def test_what_two_compared_arms_lost_counts_if_a_third_finished_it(plan_study, study_data, console):
    """The survivors of both are no fair sample either."""
    arms = {"base": ARMS["base"], "one": {"optimizer.lr": fakes.UNSTABLE}, "two": {"optimizer.lr": fakes.UNSTABLE}}
    claims = {"quality": {"type": "better", "arm": "two", "than": "one"}}
    result, record = ran(plan_study, study_data | {"arms": arms, "claims": claims, "seeds": 5}, console)
    assert judge(record, runs_of(record, result.study.folder))["quality"].verdicts["two"].word == UNSTABLE


def test_an_undecided_cost_asks_for_no_seeds(plan_study, adaptive):
    """More seeds say nothing about an exact number."""
    claims = {name: {"type": "equivalent", "metric": name} for name in ("cost/parameters", "report/loss")}
    record = plan_study(adaptive | {"claims": claims}).record()
    for name, arms in (("cost/parameters", []), ("report/loss", ["base", "control"])):
        ruling = Ruling(built(record.claims[name]), {"control": Verdict(UNDECIDED)})
        assert undecided_arms(record, {name: ruling}) == arms


def test_a_failure_of_the_machine_is_no_evidence(plan_study, study_data, console):
    arms = ARMS | {"fragile": {"optimizer.lr": fakes.UNSTABLE}}
    result, record = ran(plan_study, study_data | {"arms": arms, "claims": CLAIM, "seeds": 5}, console)
    runs = runs_of(record, result.study.folder)
    failed = runs["fragile", 2]
    runs["fragile", 2] = failed.model_copy(update={"failure": failed.failure.model_copy(update={"error": "OSError"})})
    ruling = judge(record, runs)["quality"]
    assert "fragile" not in ruling.verdicts and "1 run of fragile" in ruling.missing["fragile"]


LOSS, BYTES = NEXT_TOKEN["loss"], NEXT_TOKEN["bits_per_byte"]
SPEC = {
    "data": {"tokenizer": {"type": "byte"}, "context": 8},
    "evaluate": {"report": {"loss": {"type": "objective", "context": None}}},
}


@pytest.mark.parametrize(
    ("change", "metric", "said"),
    [
        ({}, LOSS, ""),
        ({"objective": {"type": "mine:Half"}}, LOSS, "another objective"),
        ({"data": {"tokenizer": {"type": "bpe"}, "context": 8}}, LOSS, "another tokenizer"),
        ({"data": {"tokenizer": {"type": "bpe"}, "context": 8}}, BYTES, ""),
        ({"data": {"tokenizer": {"type": "byte"}, "context": 16}}, LOSS, "the context 16 and not 8"),
        ({"data": {"tokenizer": {"type": "byte"}, "context": 16}}, BYTES, "the context 16 and not 8"),
        ({"evaluate": {"report": {"loss": {"type": "objective", "rows": 9}}}}, LOSS, "measured otherwise"),
        ({"evaluate": {"report_rows": 9}}, LOSS, "measured otherwise"),
    ],
)
def test_what_was_measured_otherwise_is_not_compared(change, metric, said):
    name = "report/bits_per_byte" if metric is BYTES else "report/loss"
    found = comparable.obstacle(SPEC, SPEC | change, name, metric)
    assert (said in found) if said else not found


def test_arms_with_different_tokenizers_are_refused_at_planning(plan_study, study_data):
    other = {"data.tokenizer": {"type": "bpe", "vocab_size": 300}}
    data = study_data | {"arms": {"a": {}, "b": other}, "claims": {"quality": {"type": "equivalent"}}}
    with pytest.raises(SpecError, match="cannot compare arm 'b' with 'a': it has another tokenizer"):
        plan_study(data)
    plan_study(data | {"claims": {"quality": {"type": "equivalent", "metric": "report/bits_per_byte"}}})


def test_arms_with_different_objectives_are_not_compared_in_what_the_objectives_say(plugins, plan_study, study_data):
    data = study_data | {"arms": {"a": {}, "b": {"objective": {"type": "own_objective:WithAccuracy"}}}}
    with pytest.raises(SpecError, match="it has another objective"):
        plan_study(data | {"claims": {"quality": {"type": "equivalent"}}})
    plan_study(data | {"claims": {"speed": {"type": "equivalent", "metric": "speed/tokens_per_second"}}})


def test_arms_with_different_contexts_are_refused_at_planning(plan_study, study_data):
    data = study_data | {"arms": {"a": {}, "b": {"data.context": 16}}, "claims": {"quality": {"type": "equivalent"}}}
    with pytest.raises(SpecError, match="has the context 16 and not 32"):
        plan_study(data)


@pytest.mark.parametrize(
    "evaluator, comparable_at_other_contexts",
    [
        ({"type": "by_position"}, False),
        ({"type": "by_position", "context": 16}, True),
        ({"type": "extrapolate"}, False),
        ({"type": "extrapolate", "lengths": [16, 32]}, True),
        ({"type": "memorization", "prefix": 6, "continuation": 5}, True),
    ],
)
def test_arms_with_different_contexts_compare_in_what_is_measured_at_given_lengths(evaluator, comparable_at_other_contexts):
    resolved = {"lengths": None} if evaluator["type"] == "extrapolate" else {"context": None}
    evaluator = evaluator if evaluator["type"] == "memorization" else resolved | evaluator
    arms = [{"data": {"context": context}, "evaluate": {"report": {"it": evaluator}}} for context in (32, 64)]
    said = comparable.obstacle(*arms, "report/it", NEXT_TOKEN["loss"], "it")
    assert (said == "") == comparable_at_other_contexts
    assert not said or f"set `evaluate.report.it.{next(iter(resolved))}` for all arms" in said


def test_records_measured_on_other_texts_are_not_compared(plan_study, study_data, console):
    data = study_data | {"arms": ARMS, "claims": CLAIM, "seeds": 3}
    result, record = ran(plan_study, data, console)
    runs = runs_of(record, result.study.folder)
    for seed in range(3):
        runs["little", seed] = runs["little", seed].model_copy(update={"data": {"fingerprint": "another"}})
    found = judge(record, runs)["quality"].verdicts["little"]
    assert found.word == NOT_COMPARABLE and "other texts" in found.reason
    assert found.against  # so that the claim in words says against whom


def test_an_evaluator_with_a_template_of_its_own_asks_data_in_other_templates_the_same():
    def run(template="plain", asks="gemma3", digits=2, python="3.11", **about):
        spec = {"data": {"source": {"type": "arithmetic", "template": template, "digits": digits}}}
        spec["evaluate"] = {"report": {"it": {"type": "answers", "template": asks}}}
        data = {"fingerprint": f"{template} {digits}", **about}
        return SimpleNamespace(spec=spec, data=data, versions={"python": python})

    plain, turns = run(), run("gemma3")
    assert not comparable.texts_differ(plain, turns, "report", "it")
    assert comparable.texts_differ(plain, turns) and comparable.texts_differ(plain, run("gemma3", digits=3), "report", "it")
    assert comparable.texts_differ(plain, run("gemma3", python="3.12"), "report", "it")
    assert comparable.texts_differ(run(asks=None), run("gemma3", asks=None), "report", "it")
    assert comparable.texts_differ(run(asked="one"), run("gemma3", asked="other"), "report", "it")
    assert not comparable.texts_differ(run(asked="one"), run("gemma3", digits=3, asked="one"), "report", "it")


def test_costs_are_judged_before_any_run_and_cost_no_error(plan_study, study_data, tmp_path):
    claims = {
        "quality": {"type": "equivalent"},
        "cache": {"type": "value", "metric": "cost/cache_bytes@64", "arm": "all local", "value": 64, "within": 0.01},
        "less": {"type": "better", "metric": "cost/cache_bytes@64", "arm": "all local", "by": 0.3},
    }
    planned = plan_study(study_data | {"claims": claims})
    record = planned.record()
    assert record.plan.questions == 1 == counted(record.claims, record.arms) and plan_of(record) == record.plan
    rulings = judge(record, {})
    assert rulings["cache"].verdicts["all local"].word in ("supported", "contradicted")
    assert not rulings["quality"].verdicts


def test_pairs_are_the_same_whatever_negatives_and_weights_an_arm_trains_with():
    """What retrieval reads of a split are its queries and documents; what an objective measures has the hard negatives too."""

    def run(fingerprint="one", pairs="p", size=40, **options):
        evaluators = {"retrieval": {"type": "retrieval", "k": 10, **options}, "loss": {"type": "objective", "rows": 64}}
        spec = {"data": {"tokenizer": {"type": "bpe"}}, "evaluate": {"report": evaluators}}
        about = {"fingerprint": fingerprint, "pairs": pairs, "splits": {"report": {"pairs": size, "groups": 4}}}
        return SimpleNamespace(spec=spec, data=about)

    mined = run("other")
    assert not comparable.texts_differ(run(), mined, "report", "retrieval")
    assert comparable.texts_differ(run(), mined, "report", "loss") and comparable.texts_differ(run(), mined)
    for differing in (run("other", pairs="q"), run("other", size=39), run("other", k=5), run("other", pairs=None)):
        assert comparable.texts_differ(run(), differing, "report", "retrieval")
