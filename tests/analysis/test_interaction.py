"""What a report shows of a study with factors, and of one with a ladder: comparisons in words, tables, figures."""

import numpy as np
import pandas as pd
import pytest

from analysis import drawing, interaction, plots, scaling, tables
from analysis.claims import in_words, judge, judgements, lines
from analysis.report import write_report
from analysis.runs import load
from analysis.texts import of as texts_of
from sweeps import contrasts
from sweeps.record import ArmRecord, PlanRecord, StudyRecord

GRID = {"W": {"4": {}, "16": {}}, "cap": {"off": {}, "on": {}}}
EFFECTS = {"W=4 cap=off": 0.0, "W=4 cap=on": 0.01, "W=16 cap=off": -0.02, "W=16 cap=on": 0.03, "control": 0.2}
ASKED = {name: each.dump() for name, each in contrasts.factorial(GRID, EFFECTS).items()}
SPACE = "\N{NO-BREAK SPACE}"


def claim(**options):
    """A resolved claim about the factors."""
    return {"type": "equivalent", "metric": "report/loss", "margin": 0.01, "known_worse": ["control"], "contrasts": ASKED} | options


@pytest.fixture
def factors(make_study):
    """The folder of a study with two factors that interact: cap costs 1 % at W=4 and 5 % at W=16."""
    return make_study(
        effects=EFFECTS,
        spread=0.001,
        spec={"grid": GRID, "compare": "factors"},
        claims={"quality": claim()},
        plan=PlanRecord(looks=(5,), questions=3),
    )


def test_an_interaction_is_said_in_words(factors):
    study = load(factors)
    judgement = judge(study)
    answer = lines(judgements(study))[0]
    assert "; worse: cap=on against cap=off, averaged over W; " in answer and "+" not in answer
    said = "the effect of cap=on is larger at W=16 than at W=4"
    assert in_words(judgement, "cap=on × W=16") == said and f"worse together: {said}" in answer
    assert judgement.word("cap=on × W=16") == "worse together" and judgement.verdicts["cap=on × W=16"].word == "worse"
    assert "found control worse" in " ".join(lines([judgement])), "the control is compared with the first cell"


def test_tables_have_the_comparisons_and_the_arms(factors):
    write_report(factors)
    frame = pd.read_csv(factors / "claims.csv")
    assert list(frame.subject) == ["W=16", "cap=on", "cap=on × W=16", "control"]
    assert frame.statement[2] == "the effect of cap=on at W=16 against that at W=4" and frame.n.eq(5).all()
    study = load(factors)
    raw = tables.results(study, judge(study))
    assert list(raw.frame.arm) == list(EFFECTS) and raw.frame.set_index("arm").pairs.to_dict()["control"] == 5
    assert raw.frame.pairs.notna().sum() == 1, "only the control is compared with an arm"
    for form in (tables.text, tables.markdown):
        assert "cap=on against cap=off, averaged over W" in form(raw) and "worse together" in form(raw)
    page = (factors / "report.html").read_text()
    assert page.count("<svg") >= 3 and "<h2>Factors</h2>" in page and "<h2>Comparisons</h2>" in page
    assert "cap=on against off [95" in page, "the figure as a table"


def test_the_figure_draws_the_means_of_the_cells(factors):
    study = load(factors)
    judgement = judge(study)
    (axes,) = [each for each in plots.figures(study, judgement)["interaction"].axes if each.get_visible()]
    assert axes.get_title(loc="left") == "cap over W: worse together"
    drawn = {box.get_label(): box.lines[0].get_ydata() for box in axes.containers}
    assert list(drawn) == ["cap=off", "cap=on"]
    for name, heights in drawn.items():
        cells = [judgement.scaled[f"W={level} {name}"] for level in ("4", "16")]
        assert heights == pytest.approx([np.exp(np.mean(list(cell.values()))) for cell in cells])


def test_intervals_of_cells_leave_out_what_seeds_share():
    random = np.random.default_rng(0)
    own, shared = random.normal(0, 0.01, (4, 6)), random.normal(0, 1.0, 6)
    widths = []
    for shift in (0, shared):
        found = interaction.within_seeds({i: dict(enumerate(row)) for i, row in enumerate(own + shift)})
        widths.append([each.high - each.low for each in found.values()])
    assert widths[0] == pytest.approx(widths[1])
    # On average over draws they are those of independent cells: the noise of a cell alone.
    ratios = []
    for _ in range(200):
        values = random.normal(0, 0.01, (4, 6))
        found = interaction.within_seeds({i: dict(enumerate(row)) for i, row in enumerate(values)})
        ratios += [((each.high - each.low) / 2 * np.sqrt(6) / 2.571) ** 2 / 0.01**2 for each in found.values()]
    assert np.mean(ratios) == pytest.approx(1.0, abs=0.1)


def test_three_factors_give_a_panel_for_each_two_and_survive_a_missing_cell(make_study):
    grid = {**GRID, "norm": {"a": {}, "b": {}}}
    effects = dict.fromkeys(contrasts.cells(grid), 0.0)
    del effects["W=16 cap=on norm=b"]
    asked = {name: each.dump() for name, each in contrasts.factorial(grid, effects).items()}
    plan = PlanRecord(looks=(3,), questions=len(asked))
    folder = make_study(
        effects=effects, seeds=3, spec={"grid": grid}, claims={"quality": claim(contrasts=asked, known_worse=[])}, plan=plan
    )
    study = load(folder)
    judgement = judge(study)
    assert [each.title for each in interaction.panels(study, judgement)] == ["cap over W", "norm over W", "norm over cap"]
    assert len([each for each in interaction.figure(study, judgement).axes if each.get_visible()]) == 3
    assert interaction.tables_html(study, judgement).count("<table") == 3
    said = in_words(judgement, "norm=b × W=16")
    assert " at W=16 than at W=4" in said and said.endswith("averaged over cap where complete")


def test_a_study_without_factors_or_a_ladder_has_neither_figure(make_study):
    study = load(make_study())
    assert interaction.figure(study, judge(study)) is None and scaling.figure(study, judge(study)) is None
    assert judge(study).contrasts == {}


SIZES = {"s": 1e12, "m": 1e13, "l": 1e14}
EXPONENTS = {"a": -0.05, "b": -0.06}


@pytest.fixture
def laddered(make_study):
    """The folder of a study whose losses are power laws of the FLOPs, and {arm: exponent} of what was planted."""
    labels = {f"{arm} {size}": (arm, flops) for size, flops in SIZES.items() for arm in EXPONENTS}
    effects = {label: 4.1 * (flops / 1e12) ** EXPONENTS[arm] - 4.1 for label, (arm, flops) in labels.items()}
    groups = {arm: [f"{arm} {size}" for size in SIZES] for arm in EXPONENTS}
    pairs = {name: each.dump() for name, each in contrasts.pairs((f"a {size}", f"b {size}") for size in SIZES).items()}
    claims = {
        "quality": claim(contrasts=pairs, known_worse=[]),
        "law": {
            "type": "power_law",
            "metric": "report/loss",
            "over": "cost/train_flops",
            "groups": groups,
            "than_first": "steeper",
        },
    }
    plan = PlanRecord(looks=(5,), questions=4)
    folder = make_study(
        effects=effects, spread=0.001, spec={"ladder": {"sizes": {size: {} for size in SIZES}}}, claims=claims, plan=plan
    )
    record = StudyRecord.read(folder)
    arms = {label: arm.model_copy(update={"costs": {"cost/train_flops": labels[label][1]}}) for label, arm in record.arms.items()}
    assert all(isinstance(arm, ArmRecord) for arm in arms.values())
    record.model_copy(update={"arms": arms}).write(folder)
    return folder


def test_a_ladder_is_drawn_with_its_exponents(laddered):
    study = load(laddered)
    judged = judgements(study)
    found = scaling.laws(study, judged[0])
    for arm, exponent in EXPONENTS.items():
        assert found[arm].exponents.mean == pytest.approx(exponent, abs=0.003)
    (axes,) = plots.figures(study, judged[0])["scaling"].axes
    texts = [text.get_text() for text in axes.get_legend().get_texts()]
    assert texts == [f"{arm}: exponent {scaling.exponent_text(law)}" for arm, law in found.items()]
    (line,) = [each for each in axes.lines if len(each.get_xdata()) == 2 and each.get_color() == drawing.INK][-1:]
    (x0, x1), (y0, y1) = line.get_xdata(), line.get_ydata()
    assert np.log(y1 / y0) / np.log(x1 / x0) == pytest.approx(found["a"].exponents.mean), "the line has the slope of the fit"
    assert [axes.get_xscale(), axes.get_yscale()] == ["log", "log"]
    said = " ".join(lines(judged))
    assert "b s against a s" in said and "b against a: its exponent is steeper" in said
    assert texts_of(study, judged[1]).effects == {}  # nobody asks about one size against another
    write_report(laddered)
    page = (laddered / "report.html").read_text()
    assert "Loss against training compute" in page and "exponent [95" in page
