"""A report says for which texts its verdicts are, and gives an interval for texts like them."""

import json
import math

import numpy as np
import pandas as pd
import pytest

from analysis import tables, texts
from analysis.claims import judge
from analysis.report import write_report
from analysis.runs import load
from arch import units
from arch.contracts import Documents
from experiments.metrics import NEXT_TOKEN
from experiments.record import EvaluationRecord, RunRecord
from sweeps.record import NAME

FILE = "report.loss-0123456789ab.json"


@pytest.fixture
def with_documents(make_study):
    """`with_documents(lengths, offset={arm: (N,)}, ...)` plants a study whose runs say what each document has.

    offset: what a document adds to each run's loss of an arm, in nats, beside the study's own effects.
    """

    def make(lengths, offset=None, without=(), targets=None, bytes_a_target=3.0, metric="report/loss", **planted):
        folder = make_study(claims={"quality": {"type": "against_baseline", "metric": metric, "known_worse": []}}, **planted)
        study = json.loads((folder / NAME).read_text())
        random = np.random.default_rng(7)
        for arm, record in study["arms"].items():
            record["evaluations"] = {"report.loss": FILE}
            own_N = np.zeros(len(lengths)) if offset is None else offset.get(arm, np.zeros(len(lengths)))
            for seed, path in record["runs"].items():
                run = RunRecord.read(folder / path)
                if run is None or run.status != "finished":
                    continue
                weights_N = np.asarray((targets or {}).get(arm, lengths), dtype=float)
                nats_N = weights_N * (run.metrics["report/loss"] + own_N + random.normal(0, 1e-4, len(lengths)))
                evaluation(arm, int(seed), nats_N, weights_N, bytes_a_target, arm not in without).write(folder / path, FILE)
        (folder / NAME).write_text(json.dumps(study))
        return folder

    return make


def evaluation(arm, seed, nats_N, weights_N, bytes_a_target, with_documents=True):
    """An EvaluationRecord like the evaluator's."""

    def metrics(nats, targets):
        loss = nats / targets
        return {"loss": loss, "perplexity": math.exp(loss), "bits_per_byte": loss / bytes_a_target / math.log(2)}

    others = [metrics(nats_N.sum() - nats, weights_N.sum() - n) for nats, n in zip(nats_N, weights_N, strict=True)]
    documents = Documents(
        names=[f"{i:016x}" for i in range(len(nats_N))],
        sums={"loss": nats_N.tolist(), "nats_per_byte": nats_N.tolist()},
        weights={"loss": weights_N.tolist(), "nats_per_byte": (bytes_a_target * weights_N).tolist()},
        without={name: [each[name] for each in others] for name in others[0]},
    )
    values = metrics(nats_N.sum(), weights_N.sum())
    return EvaluationRecord(
        split="report",
        name="loss",
        evaluator={"type": "objective", "rows": 256},
        identity=f"identity of {arm}",
        seed=seed,
        values={f"report/{name}": value for name, value in values.items()},
        metric_info={f"report/{name}": NEXT_TOKEN[name] for name in values},
        documents=documents if with_documents else None,
    )


EQUAL = np.full(50, 1000)


def test_documents_that_disagree_widen_the_interval_and_not_the_verdict(with_documents):
    split = np.where(np.arange(50) % 2, 0.05, -0.05)
    effects = {"1:1": 0.0, "3:1": 0.01, "5:1": 0.01}
    study = load(with_documents(EQUAL, {"5:1": split}, effects=effects))
    judgement = judge(study)
    made = texts.of(study, judgement)
    assert (made.documents, round(made.effective)) == (50, 50)
    width = {arm: high - low for arm, (low, high) in made.effects.items()}
    expected = 100 * 2 * 2.01 * split.std(ddof=1) / np.sqrt(50)  # of the documents alone, in percent
    assert made.effects.keys() == {"3:1", "5:1"} and width["5:1"] > 0.9 * expected > 2 * width["3:1"]
    seeds = judgement.differences["5:1"]
    assert made.intervals["5:1"].mean == pytest.approx(seeds.mean, abs=1e-4)
    assert made.effects["5:1"][0] < 0 < judgement.shown.effect(judgement.verdicts["5:1"].interval[0]), (
        "worse on these texts; on others it may not be"
    )
    assert judgement.verdicts["5:1"].word == "worse"


@pytest.mark.parametrize("metric", ["report/loss", "report/perplexity", "report/bits_per_byte"])
def test_every_metric_that_is_derived_from_a_mean_has_the_same_interval(with_documents, metric):
    """Relative differences of loss's exponential and of perplexity are one; bits per byte divides by the loss."""
    split = np.where(np.arange(50) % 2, 0.05, -0.05)
    study = load(with_documents(EQUAL, {"5:1": split}, effects={"1:1": 0.0, "5:1": 0.01}, metric=metric))
    interval = texts.of(study, judge(study)).intervals["5:1"]
    loss = np.mean([run["report/loss"] for run in study.metrics.values()])
    scale = loss if metric == "report/bits_per_byte" else 1.0
    expected = 2.01 * split.std(ddof=1) / np.sqrt(50)
    assert scale * (interval.high - interval.mean) == pytest.approx(expected, rel=0.1)


def test_the_report_has_both_intervals_and_says_what_verdicts_are_about(with_documents):
    folder = with_documents(EQUAL, effects={"1:1": 0.0, "5:1": 0.01})
    page = write_report(folder).read_text()
    assert "Verdicts are about the texts of the report split" in page
    assert "For texts like these (50 documents, in effect 50)" in page and "for texts like these" in page
    assert "Few texts decide" not in page
    study = load(folder)
    raw = tables.results(study, judge(study))
    column = tables.readable(raw)[raw.for_texts.column]
    assert column[0] == "–" and column[1].startswith("[+")
    frame = pd.read_csv(folder / "results.csv")
    assert frame.difference_percent_texts_low[1] < frame.difference_percent[1] < frame.difference_percent_texts_high[1]


def test_the_level_is_that_which_was_asked_for(with_documents):
    study = load(with_documents(EQUAL))
    narrow, wide = (texts.of(study, judge(study), level) for level in (0.05, 0.002))
    assert wide.effects["5:1"][1] - wide.effects["5:1"][0] > 2 * (narrow.effects["5:1"][1] - narrow.effects["5:1"][0])
    assert "99.8" in wide.column and "99.8" in wide.sentences[1]


def test_few_or_unequal_documents_are_warned_of(with_documents):
    lengths = np.full(50, 100)
    lengths[0] = 20_000
    study = load(with_documents(lengths))
    made = texts.of(study, judge(study))
    assert made.effective < 2
    assert any(
        "the 50 documents count as 2 of equal length (fewer than 30), and the longest holds 80.3" in text for text in made.sentences
    )


def test_groups_of_texts_are_called_so(with_documents):
    folder = with_documents(np.arange(1, 9))
    for path in folder.rglob("*.documents.json"):
        path.write_text(json.dumps({**json.loads(path.read_text()), "called": "groups"}))
    study = load(folder)
    sentences = texts.of(study, judge(study)).sentences
    assert any("For texts like these (8 groups, in effect 6)" in text for text in sentences)
    few = f"the largest holds {units.share(8 / 36)} of all. Give more groups."
    assert any(text.endswith(few) for text in sentences)


def test_records_without_documents_say_that_there_are_none(make_study, with_documents):
    study = load(make_study())
    made = texts.of(study, judge(study))
    assert not made.effects and len(made.sentences) == 1 and "no interval for other texts" in made.sentences[0]
    assert not any("texts" in name for name in tables.readable(tables.results(study, judge(study))))


def test_an_arm_without_documents_is_named_and_has_no_interval(with_documents):
    study = load(with_documents(EQUAL, without=("3:1",)))
    made = texts.of(study, judge(study))
    assert made.effects.keys() == {"5:1", "local-only"}
    assert made.sentences[-1] == "Runs of 3:1 say nothing of each document."


def test_an_arm_that_was_measured_on_other_rows_is_named(with_documents):
    study = load(with_documents(EQUAL, targets={"5:1": np.full(50, 900)}))
    made = texts.of(study, judge(study))
    assert made.other_rows.keys() == {"5:1"}
    assert "5:1 was measured on other rows than 1:1: 50 documents with 45,000 targets, against 50 with 50,000" in " ".join(
        made.sentences
    )


def test_one_seed_has_no_interval_and_a_broken_file_is_a_problem(with_documents):
    study = load(with_documents(EQUAL, seeds=1))
    assert "needs two seeds" in texts.of(study, judge(study)).sentences[1]
    folder = with_documents(EQUAL, seeds=3)
    broken = next((folder / "arm1-0123" / "seed-1" / "evaluations").glob("*.documents.json"))
    broken.write_text("{")
    study = load(folder)
    assert texts.of(study, judge(study)).intervals["3:1"] is not None
    assert any("cannot be read" in problem for problem in study.problems)


def test_reading_a_study_does_not_read_its_documents(with_documents, monkeypatch):
    monkeypatch.setattr(texts, "documents_of", lambda *args: pytest.fail("read"))
    assert len(load(with_documents(EQUAL)).metrics) == 20


def test_an_interval_beyond_all_numbers_is_no_end_of_a_report(with_documents):
    """Few documents that differ a lot: the end of the interval is more nats than e can be raised to."""
    folder = with_documents(np.full(4, 100), {"far": np.array([400, -400, 400, -400])}, effects={"1:1": 0.0, "far": 100.0})
    study = load(folder)
    found = texts.of(study, judge(study))
    assert found.effects["far"][1] == math.inf
    raw = tables.results(study, judge(study))
    assert any(">+999,999]" in text for text in tables.readable(raw)[raw.for_texts.column])
    assert "999,999" in write_report(folder).read_text()
