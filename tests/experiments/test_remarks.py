"""What has no effect is in a run's notes, and among the remarks on a study's arms, each once."""

from arch.document import node, overridden
from experiments import remarks
from experiments.plan import plan, resolve

WINDOW = "model.blocks.local.mixer.window"


def spec(tiny, **changes):
    return resolve(overridden(node(tiny), node({key.replace("__", "."): value for key, value in changes.items()})))


def test_the_notes_of_a_run_name_what_has_no_effect(tiny):
    idle = overridden(node(tiny), node({WINDOW: 32, "model.layers": 2}))
    planned = plan(idle)
    assert list(planned.notes) == remarks.of_experiment(planned.spec) and len(planned.notes) == 2
    assert planned.notes[0].startswith(f"{WINDOW}: 32 is not shorter") and "no layer is 'global'" in planned.notes[1]
    assert plan(node(tiny)).notes == ()


def test_an_evaluation_that_comes_only_at_the_end_is_said(tiny):
    said = {every: remarks.of_experiment(spec(tiny, train__steps=60, evaluate__every=every)) for every in (30, 60, 100)}
    assert said[30] == []
    assert said[60][0].startswith("evaluate.every 60 = steps 60: one evaluation, at the end")
    assert said[100][0].startswith("evaluate.every 100 > steps 60: one evaluation, at the end")
    assert remarks.of_experiment(spec(tiny, train__steps=0, evaluate__every=100)) == [], "nothing is trained"


def test_what_holds_of_several_arms_is_said_once(tiny):
    few = {"model__layers": 2}
    arms = {"a": spec(tiny, **few), "b": spec(tiny, **few, train__steps=7)}
    (said,) = remarks.of_arms(arms)
    assert said.startswith("every arm: model.pattern: ")
    (said,) = remarks.of_arms(arms | {"c": spec(tiny)})
    assert said.startswith("arms 'a' and 'b': model.pattern: ")


def test_arms_are_the_same_experiment_the_same_function_or_neither(tiny):
    window = WINDOW.replace(".", "__")
    arms = {
        "base": spec(tiny),
        "written out": spec(tiny, optimizer__clip=1.0),
        "wide": spec(tiny, **{window: 32}),
        "wider": spec(tiny, **{window: 40}),
        "wider, other rate": spec(tiny, **{window: 40}, optimizer__lr=1e-3),
        "no clipping": spec(tiny, optimizer__clip=None),
        "other texts": spec(tiny, data__source__separator="|"),
    }
    same = [remark for remark in remarks.of_arms(arms) if remark.startswith("arms 'wide' and") or "resolve to" in remark]
    assert same == [
        "arms 'base' and 'written out' resolve to the same experiment and share their runs",
        f"arms 'wide' and 'wider' compute the same, up to rounding: {WINDOW} makes no difference in a context of 32 tokens",
    ]
    assert not any("'no clipping'" in remark or "'other texts'" in remark for remark in remarks.of_arms(arms))
    by_identity = remarks.of_arms({"x": arms["base"], "y": arms["other texts"]}, {"x": "one", "y": "one"})
    assert by_identity == ["arms 'x' and 'y' resolve to the same experiment and share their runs"]


def test_arms_that_differ_in_what_is_measured_alone_share_their_runs(tiny):
    (said,) = remarks.of_arms({"a": spec(tiny), "b": spec(tiny, evaluate__report_rows=8)})
    assert said == "arms 'a' and 'b' resolve to the same experiment and share their runs"


def test_a_control_may_lack_a_kind_of_layer(tiny):
    arms = {"base": spec(tiny), "local only": spec(tiny, model__pattern=["local"])}
    said = remarks.of_arms(arms)
    assert any("'local only'" in remark and "every layer is 'local'" in remark for remark in said)
    assert remarks.of_arms(arms, controls=["local only"]) == [remark for remark in said if "every layer" not in remark]
