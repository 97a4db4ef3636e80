"""`archbench study keep`: a copy without weights says what the study says."""

import gzip
import json
import re

import pandas as pd
import pytest
from typer.testing import CliRunner

from analysis import live, tables
from analysis.claims import judgements
from analysis.report import write_report
from analysis.runs import load
from arch.contracts import Documents
from arch.errors import DataError
from experiments.record import (
    EvaluationRecord,
    content_of,
    documents_file,
    documents_of,
    evaluation_file,
    evaluation_of,
    record_file,
)
from sweeps import keeping
from sweeps.__main__ import app


def test_a_copy_without_weights_says_the_same_and_has_thinner_curves(tmp_path, plant):
    runs = tmp_path / "runs"
    folder = plant(runs / "windows" / "demo", seeds=3, spread=0.0005)
    for run in folder.glob("*/seed-*"):
        (run / "model.safetensors").write_bytes(bytes(1000))
        (run / "evaluations").mkdir()
        (run / "evaluations" / "report.loss-0.json").write_text("{}")
    untrained = next(folder.glob("arm3-*/seed-0/history.parquet"))
    pd.read_parquet(untrained).iloc[:0].to_parquet(untrained)
    copy = keeping.keep(folder, tmp_path / "results", every=50)
    assert copy == tmp_path / "results" / "windows" / "demo"
    assert not list(copy.rglob("model.safetensors")) and len(list(copy.rglob("report.loss-0.json.gz"))) == 12
    said = [tables.claims(judgements(load(each))) for each in (folder, copy)]
    pd.testing.assert_frame_equal(*said)
    whole, thin = (pd.read_parquet(next(each.glob("*/seed-0/history.parquet"))) for each in (folder, copy))
    assert len(thin) < len(whole) and thin.step.iloc[-1] == whole.step.iloc[-1]
    assert {*whole.step[whole["select/loss"].notna()]} <= {*thin.step}
    pd.testing.assert_frame_equal(thin, whole[whole.step.isin(thin.step)].reset_index(drop=True), check_dtype=False, rtol=1e-6)
    again = keeping.keep(copy, tmp_path / "again", every=50)  # who goes on from kept records keeps them again
    for each in copy.rglob("history.parquet"):
        assert (again / each.relative_to(copy)).read_bytes() == each.read_bytes()
    packed = list(copy.rglob("record.json.gz"))
    assert len(packed) == 12 and not list(copy.rglob("record.json"))
    for each in packed:
        whole = record_file(folder / each.parent.relative_to(copy))
        assert content_of(each) == json.loads(whole.read_text())
        assert each.stat().st_size < 0.6 * whole.stat().st_size
        assert (again / each.relative_to(copy)).read_bytes() == each.read_bytes()


def test_a_file_that_is_not_whole_is_not_kept(tmp_path, plant):
    folder = plant(tmp_path / "runs" / "windows" / "demo", seeds=2)
    broken = next(folder.glob("*/seed-0")) / "evaluations" / "report.loss-0.json"
    broken.parent.mkdir()
    broken.write_text('{"values": {')
    with pytest.raises(DataError, match=r"report\.loss-0\.json: not whole"):
        keeping.keep(folder, tmp_path / "results")
    assert not (tmp_path / "results").exists(), "nothing is written before all is read"
    broken.write_text('{"text": "caf\\udce9"}')  # a byte that is no text, as a shell passes it
    copy = keeping.keep(folder, tmp_path / "results")
    kept = evaluation_file((copy / broken.relative_to(folder)).parent.parent, broken.name)
    assert kept.suffix == ".gz" and json.loads(gzip.decompress(kept.read_bytes())) == {"text": "caf\udce9"}


def test_evaluations_are_packed_and_read_as_before_and_a_copy_that_goes_on_has_one_of_each(tmp_path, plant):
    folder = plant(tmp_path / "runs" / "windows" / "demo", seeds=2)
    run = next(folder.glob("*/seed-0"))
    table = [{"position": n, "loss": 3 - n / 100} for n in range(100)]
    about = {"split": "report", "name": "loss", "evaluator": {}, "identity": "0", "seed": 0, "values": {"report/loss": 2.5}}
    written = EvaluationRecord(
        **about, table=table, documents=Documents(names=["a"], sums={"loss": [1.0]}, weights={"loss": [1.0]})
    )
    written.write(run, "report.loss-0.json")
    copy = keeping.keep(folder, tmp_path / "results")
    kept = copy / run.relative_to(folder)
    assert {file.name for file in (kept / "evaluations").iterdir()} == {"report.loss-0.json.gz", "report.loss-0.documents.json.gz"}
    assert evaluation_of(kept, "report.loss-0.json") == evaluation_of(run, "report.loss-0.json")
    EvaluationRecord(**about | {"values": {"report/loss": 2.25}}).write(kept, "report.loss-0.json")  # measured again
    assert [file.name for file in (kept / "evaluations").iterdir()] == ["report.loss-0.json"]
    assert evaluation_of(kept, "report.loss-0.json").values == {"report/loss": 2.25}


def test_what_was_measured_of_documents_is_packed_and_read_as_before(tmp_path, plant):
    folder = plant(tmp_path / "runs" / "windows" / "demo", seeds=2)
    run = next(folder.glob("*/seed-0"))
    (run / "evaluations").mkdir()
    said = Documents(
        names=[f"module {n}" for n in range(200)], sums={"loss": [n / 7 for n in range(200)]}, weights={"loss": [1 / 3] * 200}
    )
    plain = documents_file(run, "report.loss-0.json")
    plain.write_text(json.dumps(said.dump()))
    copy = keeping.keep(folder, tmp_path / "results")
    kept = copy / run.relative_to(folder)
    packed = documents_file(kept, "report.loss-0.json").with_suffix(".json.gz")
    assert documents_of(run, "report.loss-0.json") == said
    there = documents_of(kept, "report.loss-0.json")
    assert there.names == said.names and there.weights == said.weights
    assert there.sums["loss"] == pytest.approx(said.sums["loss"], rel=1e-7) and there.sums != said.sums
    assert packed.stat().st_size < plain.stat().st_size / 2 and not documents_file(kept, "report.loss-0.json").exists()
    again = keeping.keep(copy, tmp_path / "again")
    assert (again / packed.relative_to(copy)).read_bytes() == packed.read_bytes()
    documents_file(again / run.relative_to(folder), "report.loss-0.json").write_text("{}")  # of a copy that an older release made
    keeping.keep(copy, tmp_path / "again")
    assert documents_of(again / run.relative_to(folder), "report.loss-0.json") == there
    packed.write_bytes(packed.read_bytes()[:40])
    for read in (lambda: documents_of(kept, "report.loss-0.json"), lambda: keeping.keep(copy, tmp_path / "third")):
        with pytest.raises(DataError, match=r"report\.loss-0\.documents\.json\.gz: not whole"):
            read()
    assert not (tmp_path / "third").exists()


def test_the_command_writes_the_report_and_figures_of_several_studies(tmp_path, plant):
    for name in ("one", "two"):
        plant(tmp_path / "runs" / name / "demo", seeds=2, name=name)
    into = tmp_path / "results"
    result = CliRunner().invoke(app, ["keep", "one/demo", "two/demo", "--into", str(into), "--runs", str(tmp_path / "runs")])
    assert result.exit_code == 0 and [line.split(": ")[0] for line in result.stdout.splitlines()] == [
        str(into / name / "demo") for name in ("one", "two")
    ]
    for name in ("one", "two"):
        assert (into / name / "demo" / "report.html").is_file() and (into / name / "demo" / "figures" / "differences.png").is_file()


def test_kept_reports_share_one_copy_of_the_library_of_charts(tmp_path, plant):
    folder = plant(tmp_path / "runs" / "one" / "demo", seeds=2)
    whole, into = write_report(folder), tmp_path / "results"
    kept = into / "one" / "demo" / "report.html"
    kept.parent.mkdir(parents=True)
    kept.write_text(whole.read_text())
    for _ in range(2):  # a page that was shared stays as it is
        live.share(kept, into)
        (library,) = into.glob("bokeh-*.js")
        link = f"<script src='../../{library.name}'></script>"
        carried = re.search(r"<script type='text/plain' id=bokeh>.*?</script>", whole.read_text())[0]
        assert kept.read_text() == whole.read_text().replace(carried, link) and carried in library.read_text()


def test_kept_reports_show_the_figures_beside_them(tmp_path, plant):
    folder = plant(tmp_path / "runs" / "one" / "demo", seeds=2)
    whole = write_report(folder)
    CliRunner().invoke(app, ["keep", "one/demo", "--into", str(tmp_path / "results"), "--runs", str(tmp_path / "runs")])
    kept = tmp_path / "results" / "one" / "demo" / "report.html"
    text, still = kept.read_text(), "<div class=still data-figure='([^']*)'"
    shown = re.findall(still + r"[^>]*><img src='([^']*)' alt='' loading=lazy></div>", text)
    assert [name for name, _ in shown] == re.findall(still, whole.read_text()) and len(shown) > 2
    assert all(place == f"figures/{name}.png" and (kept.parent / place).is_file() for name, place in shown)
    assert "<svg" not in text and "<svg" in whole.read_text()


def test_a_page_of_which_a_figure_is_missing_keeps_its_pictures(tmp_path, plant):
    page = write_report(plant(tmp_path / "runs" / "one" / "demo", seeds=2))
    before = page.read_text()
    live.beside(page, tmp_path / "figures")
    assert page.read_text() == before


def test_what_cannot_be_kept_is_refused(tmp_path, plant):
    folder = plant(tmp_path / "runs" / "one" / "demo", seeds=2)
    with pytest.raises(DataError, match="is where the study is already"):
        keeping.keep(folder, tmp_path / "runs")
    record = folder / "study.json"
    record.write_text(record.read_text().replace("arm0-0123/seed-0", "../../../elsewhere/seed-0", 1))
    stray = tmp_path / "elsewhere" / "seed-0"
    stray.mkdir(parents=True)
    (stray / "record.json").write_text("{}")
    with pytest.raises(DataError, match="lies outside of"):
        keeping.keep(folder, tmp_path / "results")
    assert not (tmp_path / "results").exists()
