"""The page of all findings: a row per question of each claim, what papers published beside it, and nothing but records in it."""

import pytest
from typer.testing import CliRunner

from analysis import findings
from analysis.__main__ import app
from analysis.claims import judge
from analysis.runs import load
from arch import document
from arch.errors import DataError, SpecError
from arch.units import DASH
from sweeps.outline import outline
from sweeps.spec import PublishedSpec, split


@pytest.fixture
def runs(tmp_path, plant):
    """Two studies, one of them at two scales, and one at `smoke`."""
    plant(tmp_path / "gemma3-local_global/demo", seeds=3, spread=0.0005)
    plant(tmp_path / "gemma3-local_global/laptop", scale="laptop", seeds=5, spread=0.0005)
    plant(tmp_path / "own/demo", name="own", spread=0.02, question="Own | question?", effects={"1:1": 0.0, "5:1": 0.0})
    plant(tmp_path / "tried/smoke", name="tried", scale="smoke")
    return tmp_path


def test_every_question_has_a_row_with_the_words_of_its_verdict(runs):
    studies = findings.studies(runs)
    assert [(study.place, study.others) for study in studies] == [
        ("gemma3-local_global/laptop", ("gemma3-local_global/demo",)),
        ("own/demo", ()),
    ]
    told = {"quality": PublishedSpec(source="Gemma 3, figure 3", value="-0.02 to +0.03")}
    rows = findings.rows(studies[0], told)
    verdicts = judge(load(runs / "gemma3-local_global/laptop")).verdicts
    assert [row["verdict"] for row in rows] == [verdicts[arm].word for arm in ("3:1", "5:1", "local-only")]
    assert [row["paper"] for row in rows] == ["Gemma 3, figure 3", "Gemma 3, figure 3", findings.OUR_CONTROL]
    assert [row["published"] for row in rows] == ["-0.02 to +0.03", "-0.02 to +0.03", DASH] and {row["n"] for row in rows} == {"5"}
    assert ["control" in row["statement"] for row in rows] == [False, False, True]
    assert all("[" in row["ours"] and "%" in row["ours"] for row in rows)
    assert findings.rows(studies[1], {})[0]["paper"] == findings.OURS


@pytest.mark.slow
def test_the_page_is_made_of_records_alone_and_a_check_finds_what_was_edited(runs, tmp_path):
    page = tmp_path / "docs" / "findings.md"
    assert CliRunner().invoke(app, ["findings", str(runs), "--write", str(page)]).exit_code == 0
    text = page.read_text()
    assert "Own \\| question?" not in text and "Own | question?" in text  # only cells of tables are escaped
    assert "](../gemma3-local_global/laptop/report.html)" not in text  # no report was written there
    assert "2 studies, 4 questions" in text and "## gemma3/local_global" in text and "also run: `demo`" in text
    # What has no records is said to have none, with what would run.
    assert "`gemma3/local_global`: " not in text
    gqa = next(line for line in text.splitlines() if line.startswith("* `gemma2/gqa`: "))
    assert gqa.endswith(f"`laptop`: {outline(document.load('gemma2/gqa', 'sweeps'), 'laptop')}.") and "M tokens" in gqa
    findings.check(runs, page)
    page.write_text(text.replace("worse", "better", 1))
    with pytest.raises(DataError, match="is not what the records in"):
        findings.check(runs, page)
    result = CliRunner().invoke(app, ["findings", str(runs), "--write", str(page), "--check"])
    assert result.exit_code and page.read_text() != text


def test_a_damaged_record_and_a_published_claim_that_is_none_are_refused(runs):
    study = {"question": "?", "arms": {"a": {}}, "published": {"qualty": {"value": "1"}}}
    with pytest.raises(SpecError, match="no claim 'qualty'; did you mean 'quality'"):
        split(study)
    (runs / "own/demo/study.json").write_text("{")
    with pytest.raises(DataError, match="own/demo"):
        findings.page(runs)


def test_the_committed_page_says_what_the_committed_records_say(request):
    root = request.config.rootpath
    findings.check("results", root / "docs" / "findings.md") if (root / "results").is_dir() else pytest.skip("no results here")
