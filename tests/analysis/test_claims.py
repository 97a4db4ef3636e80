"""The sentences say what the verdicts are, in the metric's own words."""

import math

import pandas as pd
import pytest

from analysis import tables, tables_html
from analysis.claims import judge, judgements, larger_command, lines, summary
from analysis.forms import escaped
from analysis.report import write_report
from analysis.runs import load
from arch.contracts import UNDECIDED, Verdict
from arch.units import DASH, MINUS, SPACE, p_value
from experiments.record import RunRecord
from sweeps.claims.equivalent import BETTER, SAME, WORSE
from sweeps.record import StudyRecord


def test_answer_of_an_undecided_study_names_the_larger_scale(make_study):
    study = load(make_study(spread=0.02))
    text = " ".join(judge(study).sentences)
    assert "undecided" in text
    assert "archbench study run gemma3/local_global --scale laptop" in text


def test_answer_of_a_decided_study(make_study):
    judgement = judge(load(make_study(spread=0.0005)))
    assert "found local-only" in " ".join(judgement.remarks) and not judgement.undecided
    assert [judgement.verdicts[arm].word for arm in ("3:1", "5:1", "local-only")] == [SAME, SAME, WORSE]
    assert "Incomplete" not in " ".join(judgement.sentences)


@pytest.mark.parametrize(
    ("effect", "spread", "word"), [(0.0, 0.0005, SAME), (0.005, 0.0005, SAME), (0.03, 0.0005, WORSE), (0, 0.02, UNDECIDED)]
)
def test_the_p_beside_a_verdict_is_that_of_its_test_in_every_form(make_study, effect, spread, word):
    folder = make_study(effects={"1:1": 0.0, "3:1": effect, "local-only": 0.2}, spread=spread)
    study = load(folder)
    judgement = judge(study)
    verdict, level = judgement.verdicts["3:1"], judgement.verdicts["3:1"].level
    assert verdict.word == word
    raw = tables.results(study, judgement)
    cell = tables.readable(raw).set_index("arm").p["3:1"]
    p = verdict.p_same if word == SAME else verdict.p
    assert cell.startswith(f"{p_value(p)} of {level:.3g}") and (p <= level) == (word != UNDECIDED)
    assert ("(equivalence" in cell) == (word != WORSE)
    terminal = tables.words_first([judgement], [raw], list(study.record.arms))
    html = tables_html.results(raw).replace("&lt;", "<")
    first, *others = cell.split(" (")
    for part in [first, *(f"({other}" for other in others)]:
        for said in (tables.text(raw), tables.markdown(raw), terminal, html, board_text(folder)):
            assert part in said
        assert escaped(part) in tables.latex(raw)


def board_text(folder):
    """The verdicts as TensorBoard has them."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    from analysis.tensorboard import write_logs

    events = EventAccumulator(str(write_logs(folder) / "study"), {"tensors": 0}).Reload()
    return events.Tensors("report/verdicts/text_summary")[0].tensor_proto.string_val[0].decode()


def test_a_cost_is_exact_and_has_no_p():
    assert tables.p_cell(Verdict("supported", 0.0, level=0.05), "cost/parameters") == DASH
    assert tables.p_cell(Verdict("supported", 0.0, level=0.05), "report/loss") == "<0.001 of 0.05"


def test_failed_runs_are_said(make_study):
    study = load(make_study(failed=[("3:1", 0)], missing=[("5:1", 1)]))
    judgement = judge(study)
    assert judgement.differences["3:1"].n == 4
    assert any("18 of 20 runs" in remark and "1 failed" in remark and "1 missing" in remark for remark in judgement.remarks)
    assert "3:1 is unstable: failed in 1 of 5 seeds" in judgement.answer and "the loss is nan" in judgement.answer
    assert not judgement.word("5:1"), "a verdict is read when all its runs have ended"
    assert any("5:1: no verdict yet" in remark and "1 run of 5:1 missing" in remark for remark in judgement.remarks)
    html = tables_html.results(tables.results(study, judgement))
    assert "<td><small>its verdict is read at 5 seeds; 1 run of 5:1 missing</small></td>" in html
    assert "<span class='badge unstable'>unstable</span><small>failed in 1 of 5 seeds" in html


def test_before_the_first_look_there_is_no_word(make_study):
    missing = [(arm, 4) for arm in ("1:1", "3:1", "5:1", "local-only")]
    judgement = judge(load(make_study(spread=0.0005, missing=missing)))
    assert "no verdict yet" in judgement.answer and not any(verdict.word for verdict in judgement.verdicts.values())
    page = write_report(make_study(spread=0.0005, missing=missing)).read_text()
    assert "badge worse" not in page and "no verdict yet" in page and "intervals over seeds and texts" not in page


def test_a_seed_with_most_of_the_variance_is_named(make_study):
    folder = make_study(spread=0.0005)
    path = folder / "arm1-0123/seed-3/record.json"
    record = RunRecord.read(path.parent)
    record.model_copy(update={"metrics": record.metrics | {"report/loss": record.metrics["report/loss"] + 0.05}}).write(path.parent)
    said = " ".join(judge(load(folder)).remarks)
    assert "eed 3 carries" in said and "of 3:1" in said
    for other, named in (("5:1", False), ("3:1", True)):  # a claim is about its own difference
        stated = {"far": {"type": "worse", "arm": "local-only", "than": other}}
        StudyRecord.read(folder).model_copy(update={"claims": stated}).write(folder)
        assert ("eed 3 carries" in " ".join(judge(load(folder)).remarks)) == named
    stated = {"first": {"type": "better", "arm": "1:1", "than": "3:1"}}  # the first arm may be what a claim is about
    StudyRecord.read(folder).model_copy(update={"claims": stated}).write(folder)
    assert "eed 3 carries" in " ".join(judge(load(folder)).remarks)


def test_machines_of_different_types_are_said(make_study):
    folder = make_study(spread=0.0005)
    record = RunRecord.read(folder / "arm1-0123/seed-3")
    record.model_copy(update={"hardware": {"cpu": "another CPU"}}).write(folder / "arm1-0123/seed-3")
    assert any("seed 3" in remark and "another CPU" in remark for remark in judge(load(folder)).remarks)


def test_a_claim_of_a_paper_is_reproduced_or_contradicted(make_study):
    claims = {
        "worse": {"type": "worse", "arm": "local-only", "by": 0.02, "source": "figure 3"},
        "better": {"type": "better", "arm": "local-only"},
        "order": {"type": "ordered", "arms": ["1:1", "3:1", "local-only"]},
    }
    judged = judgements(load(make_study(spread=0.0005, claims=claims)))
    assert [each.answer.partition(":")[0] for each in judged] == ["Reproduced", "Contradicted", "Supported"]
    assert "local-only is worse than 1:1 by more than 2" in judged[0].answer and "(figure 3)" in judged[0].answer
    page = write_report(make_study(spread=0.0005, claims=claims)).read_text()
    assert "reproduced" in page and "contradicted" in page


def test_an_interval_stands_beside_the_difference_that_it_is_of(make_study):
    """A claim that is true or false may be about another arm, or a stated value: no interval of a row's difference."""
    for about in ({"type": "better", "than": "local-only"}, {"type": "value", "value": 4.0, "within": 0.01}):
        claims = {"first": about | {"metric": "report/loss", "arm": "3:1"}}
        study = load(make_study(spread=0.0005, claims=claims))
        row = tables.results(study, judge(study)).frame.set_index("arm").loc["3:1"]
        assert abs(row.difference_percent) < 0.5 and pd.isna(row.difference_percent_low), about
        if "than" in about:  # the word, too, is that of another difference
            assert not row.verdict and pd.isna(row.p) and pd.isna(row.level)
        else:
            assert row.verdict in ("supported", "contradicted")


def test_what_ended_after_a_look_is_not_in_the_numbers_beside_its_word(make_study):
    """The table, the sentence and the figure say the same of an arm that was decided before the last seeds."""
    study = load(make_study(spread=0.004, seeds=8, plan={"looks": [5, 8], "questions": 2}))
    judgement = judge(study)
    verdict, row = judgement.verdicts["local-only"], tables.results(study, judgement).frame.set_index("arm").loc["local-only"]
    assert verdict.word == WORSE and verdict.n == 5 == judgement.differences["local-only"].n == row.pairs
    assert judgement.differences["local-only"].mean == pytest.approx(verdict.difference)
    assert row.difference_percent == pytest.approx(judgement.shown.effect(verdict.difference)) and row.n == 8


def test_exploratory_stands_beside_every_word(make_study):
    """In the sentences, the table, its CSV, the table of claims and the title of the figure."""
    earlier = [{"plan": {"looks": [3], "questions": 2}, "looks": [{"seeds": 3, "time": "", "words": {}}], "why": "the seeds"}]
    claims = {
        "quality": {"type": "equivalent", "known_worse": ["local-only"]},
        "worse": {"type": "worse", "arm": "local-only"},
    }
    for known in ([], earlier):
        folder = make_study(spread=0.0005, claims=claims, earlier=known)
        study = load(folder)
        quality, worse = judgements(study)
        raw = tables.results(study, quality)
        rows = list(tables.readable(raw)["verdict"])
        said = [any("Exploratory" in line for line in quality.sentences), "exploratory" in summary(quality)]
        said += [
            raw.frame.exploratory.all(),
            tables.claims([worse]).exploratory.all(),
            "exploratory" in tables_html.claims([worse]),
        ]
        said += ["exploratory" in row for row in rows[1:]]
        assert said == [bool(known)] * len(said) and rows[0] == "baseline"


def test_another_baseline_than_the_first_arm_is_named(make_study):
    claims = {"quality": {"type": "equivalent", "to": "5:1", "known_worse": ["local-only"]}}
    study = load(make_study(spread=0.0005, claims=claims))
    raw = tables.results(study, judge(study))
    assert next(iter(tables.readable(raw)["differs in"])) == DASH
    page = write_report(study.folder).read_text()
    assert "relative to 5:1" in page and "<th scope=row>1:1<small>the first arm</small></th>" in page
    assert judge(study).answer.startswith("Perplexity compared with 5:1: local-only is worse; ")


def test_a_study_of_costs_alone_has_its_numbers_and_needs_no_control(make_study):
    claims = {"size": {"type": "equivalent", "metric": "cost/parameters"}, "less": {"type": "better", "arm": "3:1"}}
    claims["less"]["metric"] = "cost/parameters"
    folder = make_study(claims=claims)
    record = StudyRecord.read(folder)
    sizes = {"1:1": 1e6, "3:1": 1e6, "5:1": 2e6, "local-only": 1e6}
    arms = {arm: each.model_copy(update={"costs": {"cost/parameters": sizes[arm]}}) for arm, each in record.arms.items()}
    record.model_copy(update={"arms": arms}).write(folder)
    study = load(folder)
    size, less = judgements(study)
    assert {arm: verdict.word for arm, verdict in size.verdicts.items() if arm != "1:1"} == {
        "3:1": SAME,
        "5:1": WORSE,
        "local-only": SAME,
    }
    assert less.word("3:1") == "contradicted", "as many are not fewer"
    assert "known to be worse" not in " ".join(size.sentences) and not size.undecided
    row = tables.results(study, size).frame.set_index("arm").loc["5:1"]
    assert row.difference_percent == pytest.approx(100) and row.n == row.runs_planned == 1
    write_report(folder)


@pytest.mark.parametrize(
    "command, expected",
    [
        ("sweeps run s --scale demo --workers 2", "sweeps run s --scale big --workers 2"),
        ("sweeps run s", "sweeps run s --scale big"),
    ],
)
def test_larger_command(make_study, command, expected):
    study = load(make_study(command=command, larger_scale="big"))
    assert larger_command(study.record) == expected


def test_an_accuracy_is_said_in_its_unit_and_the_right_way_round(make_study):
    judgement = judge(load(make_study(accuracy=True, spread=0.0005, effects={"a": 0.0, "low": 0.06, "high": -0.05})))
    assert judgement.verdicts["low"].word == WORSE and judgement.verdicts["high"].word == BETTER
    assert judgement.answer == "Accuracy compared with a: low is worse; high is better."
    study = load(make_study(accuracy=True, spread=0.0005, effects={"a": 0.0, "low": 0.06, "high": -0.05}))
    shown = tables.readable(tables.results(study, judge(study))).set_index("arm")[tables.DIFFERENCE]
    assert shown["low"].startswith(f"{MINUS}0.06") and "points" in shown["low"] and "%" not in "".join(shown)


def test_each_of_several_claims_has_its_answer(make_study):
    claims = {name: {"type": "equivalent", "metric": f"report/{name}"} for name in ("loss", "perplexity")}
    judged = judgements(load(make_study(claims=claims)))
    assert [each.name for each in judged] == ["loss", "perplexity"]
    assert [verdict.word for verdict in judged[0].verdicts.values()] == [verdict.word for verdict in judged[1].verdicts.values()]
    said = lines(judged)
    assert said[0].startswith("loss: Perplexity compared") and any(line.startswith("perplexity: Perplexity") for line in said)


def test_the_figure_of_claims_that_are_true_or_false_has_the_word_and_the_interval_of_each(make_study):
    from analysis import plots

    stated = {
        "near": {"type": "not_worse", "arm": "3:1", "than": None, "metric": "report/loss", "margin": 0.01, "source": "a paper"},
        "far": {"type": "worse", "arm": "local-only", "than": None, "metric": "report/loss", "by": 0.01, "source": ""},
        "other": {"type": "worse", "arm": "local-only", "than": "3:1", "metric": "report/loss", "by": 0.01, "source": ""},
    }
    study = load(make_study(claims=stated, spread=0.0005))
    judged = judgements(study)
    axes = plots.differences(study, judged[0], judged).axes[0]
    assert [text.get_text() for text in axes.texts] == ["reproduced, n = 5", "n = 5", "supported, n = 5"]
    bars = {line.get_label(): len(line.get_xdata()) for line in axes.lines if line.get_linestyle() == "-" and line.get_lw() == 1.3}
    assert {*bars} == {"3:1", "local-only"}  # what is compared with another arm is not this difference
    assert "interval of the verdict" in axes.get_xlabel()


def test_a_claim_on_another_difference_than_that_from_the_first_arm_has_a_row_in_a_figure_of_its_own(make_study):
    from analysis import plots, stated

    claims = {
        "near": {"type": "not_worse", "arm": "3:1", "metric": "report/loss", "margin": 0.01, "source": "a paper"},
        "far": {"type": "better", "arm": "local-only", "than": "3:1", "metric": "report/loss"},
        "ratio": {"type": "value", "arm": "5:1", "relative_to": "3:1", "metric": "report/loss", "value": 1.1, "within": 0.01},
        "exact": {"type": "value", "arm": "5:1", "metric": "cost/cache_bytes@131072", "value": 1, "within": 0.01},
    }
    study = load(make_study(claims=claims, spread=0.0005))
    judged = judgements(study)
    figures = plots.figures(study, judged[0], judged)
    assert next(iter(figures)) == "claims"
    axes = figures["claims"].axes[0]
    assert [text.get_text() for text in axes.texts] == ["reproduced, n = 5", "contradicted, n = 5", "contradicted, n = 5"]
    labels = [label.get_text().split("\n") for label in axes.get_yticklabels()]
    assert labels == [["3:1", f"is not worse than 1:1 by 1{SPACE}% or more"], ["local-only", "is better than 3:1"], *labels[2:]]
    assert " ".join(labels[2]) == f"report/loss of 5:1 relative to 3:1 is 1.1 within 1{SPACE}%"
    _, *near, dots, bar, mean, no_dots, _, away = axes.lines
    assert len(near) == 3 and not len(no_dots.get_xdata())  # no seed of two arms has just this difference
    assert away.get_xdata()[0] == pytest.approx(-100 / 11, abs=0.3)  # the ratio is 1, and so 1 / 11 below 1.1
    losses = study.values("report/loss")
    seen = [100 * math.expm1(losses["local-only"][seed] - losses["3:1"][seed]) for seed in range(5)]
    assert list(dots.get_xdata()) == pytest.approx(seen)
    assert bar.get_xdata()[0] < mean.get_xdata()[0] < bar.get_xdata()[1] and mean.get_xdata()[0] == pytest.approx(6.2, abs=0.3)
    # The figure of all arms has what is about the first arm, and arms are asked about one by one there.
    only_first = {"near": claims["near"], "far": {"type": "worse", "arm": "local-only"}, "exact": claims["exact"]}
    assert not stated.rows(judgements(load(make_study(claims=only_first))))
    per_arm = {"quality": {"type": "equivalent", "metric": "report/loss"}, "far": claims["far"]}
    assert not stated.rows(judgements(load(make_study(claims=per_arm))))


def test_of_comparisons_each_has_its_word_and_its_interval(make_study):
    """Also those that are not with the first arm: a row of the figure is the comparison itself."""
    from analysis import plots

    pairs = [("1:1", "local-only"), ("3:1", "5:1"), ("3:1", "local-only")]
    contrasts = {f"{b} against {a}": {"weights": {b: 1.0, a: -1.0}} for a, b in pairs}
    study = load(make_study(claims={"far": {"type": "worse", "by": 0.01, "contrasts": contrasts}}, spread=0.0005))
    judged = judgements(study)
    axes = plots.differences(study, judged[0], judged).axes[0]
    assert [text.get_text() for text in axes.texts] == ["supported, n = 5", "contradicted, n = 5", "supported, n = 5"]
    assert len([line for line in axes.lines if line.get_linestyle() == "-" and line.get_lw() == 1.3]) == 3


def test_very_many_claims_do_not_make_an_endless_figure(make_study):
    from analysis import crowd, stated

    effects = {"1:1": 0.0, "base": 0.01} | {f"arm {i}": 0.02 for i in range(30)}
    judged = judgements(load(make_study(effects=effects, seeds=3, claims={"far": {"type": "worse", "than": "base"}})))
    assert len(stated.rows(judged)) == 31
    axes = stated.figure(judged).axes[0]
    assert len(axes.get_yticks()) == crowd.MANY and f"the first {crowd.MANY} of 31 claims" in axes.get_xlabel()
