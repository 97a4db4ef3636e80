"""The sentences say what the verdicts are, in the metric's own words."""

import pytest

from analysis.claims import judge, judgements, larger_command, lines
from analysis.runs import load
from arch.units import MINUS, SPACE
from sweeps.claims.against_baseline import BETTER, SAME, WORSE


def test_answer_of_an_undecided_study_names_the_larger_scale(make_study):
    study = load(make_study(spread=0.02))
    text = " ".join(judge(study).sentences)
    assert "undecided" in text
    assert "archbench study run gemma3/local_global --scale laptop" in text


def test_answer_of_a_decided_study(make_study):
    judgement = judge(load(make_study(spread=0.0005)))
    assert judgement.known_worse_found and not judgement.undecided
    assert [judgement.verdicts[arm].word for arm in ("3:1", "5:1", "local-only")] == [SAME, SAME, WORSE]
    assert "Incomplete" not in " ".join(judgement.sentences)


def test_failed_runs_are_said(make_study):
    judgement = judge(load(make_study(failed=[("3:1", 0)], missing=[("5:1", 1)])))
    assert judgement.differences["3:1"].n == 4
    assert any("18 of 20 runs" in remark and "1 failed" in remark and "1 missing" in remark for remark in judgement.remarks)


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
    answer = judgement.answer.replace(SPACE, " ").replace(MINUS, "-")
    assert answer.startswith("Accuracy compared with a") and "low (-0.06" in answer and "points" in answer
    assert "erplexity" not in answer and "+5" not in answer and " %" not in answer.replace("95 %", "")


def test_each_of_several_claims_has_its_answer(make_study):
    claims = {name: {"type": "against_baseline", "metric": f"report/{name}"} for name in ("loss", "perplexity")}
    judged = judgements(load(make_study(claims=claims)))
    assert [each.name for each in judged] == ["loss", "perplexity"]
    assert [verdict.word for verdict in judged[0].verdicts.values()] == [verdict.word for verdict in judged[1].verdicts.values()]
    said = lines(judged)
    assert said[0].startswith("loss: Perplexity compared") and any(line.startswith("perplexity: Perplexity") for line in said)
