"""What is not paired is shown as such: in sentences, tables, figures, curves, and beside other studies."""

import numpy as np
import pytest
from scipy.stats import ttest_ind

from analysis import curves, plots, tables, texts
from analysis.claims import judge, summary
from analysis.conditions import unequal
from analysis.joined import joined
from analysis.report import write_report
from analysis.runs import load
from experiments.record import RunRecord
from sweeps.record import StudyRecord

FIRST = 100


@pytest.fixture
def aa_folder(make_study):
    """A study whose arm 3:1 has the seeds 100 to 104; local-only shares those of the baseline."""
    folder = make_study(effects={"1:1": 0.0, "3:1": 0.0, "local-only": 0.1}, spread=0.02, margin=0.2)
    record = StudyRecord.read(folder)
    arm = record.arms["3:1"]
    for seed, place in arm.runs.items():
        run = RunRecord.read(folder / place)
        run.model_copy(update={"seed": FIRST + int(seed)}).write(folder / place)
    moved = arm.model_copy(
        update={"first_seed": FIRST, "runs": {str(FIRST + int(seed)): place for seed, place in arm.runs.items()}}
    )
    record.model_copy(update={"arms": record.arms | {"3:1": moved}}).write(folder)
    return folder


def test_the_sentences_and_the_table_say_what_is_not_paired(aa_folder):
    study = load(aa_folder)
    judgement = judge(study)
    losses = {arm: list(study.values("report/loss")[arm].values()) for arm in study.record.arms}
    assert judgement.verdicts["3:1"].p == pytest.approx(ttest_ind(losses["3:1"], losses["1:1"], equal_var=False).pvalue)
    assert not judgement.paired and judgement.differences["local-only"].paired
    said = " ".join(judgement.remarks)
    assert "3:1 is compared without pairing, by Welch's t test" in said and "Incomplete" not in said
    raw = tables.results(study, judgement)
    frame = raw.frame.set_index("arm")
    assert (frame.pairs["3:1"], frame.pairs["local-only"]) == (0, 5) and frame.n["3:1"] == 5
    sds = [np.std(losses[arm], ddof=1) for arm in ("1:1", "3:1")]
    assert frame.difference_sd_nats["3:1"] == pytest.approx(np.hypot(*sds))
    readable = tables.readable(raw)
    assert tables.UNPAIRED in readable and tables.DIFFERENCE not in readable
    assert readable.set_index("arm")["differs in"]["3:1"].startswith("first_seed: 100")
    for form in (tables.text(raw), tables.markdown(raw), tables.words_first([judgement], [raw], list(study.record.arms))):
        assert "paired difference" not in form and "difference" in form


def test_the_report_says_it_and_its_figures_draw_no_difference_of_a_seed(aa_folder):
    page = write_report(aa_folder).read_text()
    for text in ("of 3:1 it is not paired, since the seeds are others", "Welch", "3:1: 100, 101, 102, 103, 104", "0, 1, 2, 3, 4"):
        assert text in page
    assert "compared seed by seed" not in page
    study = load(aa_folder)
    (axes,) = plots.differences(study, judge(study)).axes
    dots = {line.get_label(): len(line.get_xdata()) for line in axes.lines if line.get_marker() == "."}
    assert dots == {"3:1": 0, "local-only": 5} and "where arms share them" in axes.get_xlabel()


def test_curves_have_the_difference_of_the_means_with_welchs_interval(aa_folder):
    study = load(aa_folder)
    band = curves.difference_bands(study, "select/loss", "step")["3:1"]
    by_seed = curves._by_seed(study, "select/loss", "step", None)
    step = band.index[-1]
    one, base = by_seed["3:1"].loc[step], by_seed["1:1"].loc[step]
    low, high = ttest_ind(one, base, equal_var=False).confidence_interval(0.95)
    assert np.log1p(band.loc[step, ["low", "high"]]).tolist() == pytest.approx([low, high])


def test_there_is_no_interval_for_other_texts_without_pairs(aa_folder):
    study = load(aa_folder)
    assert "3:1" not in texts.of(study, judge(study)).intervals


def test_a_machine_that_only_such_an_arm_had_is_a_difference_of_what_is_compared(aa_folder):
    record = StudyRecord.read(aa_folder)
    for place in record.arms["3:1"].runs.values():
        run = RunRecord.read(aa_folder / place)
        run.model_copy(update={"hardware": {**run.hardware, "cpu": "another"}}).write(aa_folder / place)
    assert any(each.paired for each in unequal(load(aa_folder)))


def test_beside_another_study_it_is_compared_without_pairing_too(aa_folder):
    study = load(aa_folder)
    rows = joined([study, study]).frame.set_index("arm")
    losses = {arm: list(study.values("report/loss")[arm].values()) for arm in study.record.arms}
    low, high = ttest_ind(losses["3:1"], losses["1:1"], equal_var=False).confidence_interval(0.95)
    row = rows.loc["3:1"].iloc[0]
    shown = row[["difference_percent_low", "difference_percent_high"]].tolist()
    assert row.pairs == 0 and shown == pytest.approx([100 * np.expm1(low), 100 * np.expm1(high)])


def test_a_title_does_not_say_within_seeds(aa_folder):
    record = StudyRecord.read(aa_folder)
    claim = {"type": "better", "metric": "report/loss", "by": 0.0}
    record.model_copy(update={"claims": {"better": claim}}).write(aa_folder)
    judgement = judge(load(aa_folder))
    assert "seeds" not in summary(judgement) and any("without pairing" in text for text in judgement.sentences)
