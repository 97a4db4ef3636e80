"""Exports: the same numbers in every form, read back by the library that the form belongs to; nothing leaves the machine."""

import json
import os
import socket
import struct
import sys
import threading
import tomllib

import numpy as np
import pandas as pd
import pytest

from analysis import __main__ as commands
from analysis import tables
from analysis.claims import judge
from analysis.exports.runs import exported, flat
from analysis.exports.write import FORMATS
from analysis.runs import load
from arch.errors import DataError

FILES = ("csv", "parquet", "latex", "markdown")


@pytest.fixture
def study(make_study):
    """A study with a failed run, a name that LaTeX and Markdown would obey, and specs in its records."""
    folder = make_study(
        effects={"1:1": 0.0, "a|b_c & 50%": 0.1, "local-only": 0.3}, seeds=3, failed={("local-only", 2)}, question="Is 1 < 2_3?"
    )
    for path in folder.glob("*/seed-*/record.json"):
        record = json.loads(path.read_text())
        record["spec"] = {"model": {"dim": 16, "pattern": ["local", "global"]}, "optimizer": {"lr": 3e-3, "clip": None}}
        path.write_text(json.dumps(record))
    return folder


def export(folder, form, out=None, capsys=None):
    commands.report(folder, to=[form], out=out)
    return (out or folder / "export" / form).resolve()


def test_csv_and_parquet_hold_every_number(study):
    data = load(study)
    numbers, columns = export(study, "csv"), export(study, "parquet")
    assert {path.stem for path in numbers.iterdir()} == {path.stem for path in columns.iterdir()} >= {"results", "runs", "curves"}
    results = tables.results(data, judge(data)).frame
    for name, frame in {"results": results, "runs": data.runs, "curves": data.curves}.items():
        read = {"csv": pd.read_csv(numbers / f"{name}.csv"), "parquet": pd.read_parquet(columns / f"{name}.parquet")}
        for form, back in read.items():
            assert list(back) == list(frame) and len(back) == len(frame), (name, form)
            for column in frame.select_dtypes("number"):
                np.testing.assert_allclose(back[column].astype(float), frame[column].astype(float), rtol=1e-12)
        assert list(read["parquet"].iloc[:, 0]) == list(frame.iloc[:, 0])


def test_latex_and_markdown_escape_what_they_would_obey(study):
    latex, markdown = export(study, "latex"), (export(study, "markdown") / "report.md").read_text()
    results = (latex / "results.tex").read_text()
    assert r"a|b\_c \& 50\%" in results and results.startswith(r"\begin{tabular}")
    rows = [line for line in results.splitlines() if line.endswith(r"\\")]
    assert len({line.replace(r"\&", "").count("&") for line in rows}) == 1 and len(rows) == 4, "as many cells in every row"
    whole = (latex / "tables.tex").read_text()
    inputs = [part.partition("}")[0] for part in whole.split(r"\input{")[1:]]
    assert sorted(f"{name}.tex" for name in inputs) == sorted(path.name for path in latex.iterdir() if path.name != "tables.tex")
    assert markdown.startswith("# Is 1 < 2_3?\n\nPerplexity compared with 1:1") and r"a\|b_c & 50%" in markdown
    table = [line for line in markdown.partition("## Results\n\n")[2].splitlines() if line.startswith("|")][:5]
    assert len({line.replace(r"\|", "").count("|") for line in table}) == 1
    assert "Run again: `archbench study run gemma3/local_global --scale demo`" in markdown


def test_a_single_run_is_exported_too(study):
    run = study / "arm0-0123/seed-0"
    read = pd.read_csv(export(run, "csv") / "curves.csv")
    assert len(read) == 40 and read["seed"].eq(0).all()
    assert "| report/loss |" in (export(run, "markdown") / "report.md").read_text()
    assert (export(run, "latex") / "metrics.tex").is_file() and pd.read_parquet(export(run, "parquet") / "runs.parquet").seed[
        0
    ] == 0


def test_an_export_replaces_its_own_folder_and_no_other(study, tmp_path):
    folder = export(study, "csv")
    (folder / "old.csv").touch()
    assert not (export(study, "csv") / "old.csv").exists()
    other = tmp_path / "mine"
    other.mkdir()
    (other / "thesis.tex").touch()
    with pytest.raises(DataError, match=r"mine: it is there already; expected a new folder"):
        export(study, "latex", other)
    assert [path.name for path in other.iterdir()] == ["thesis.tex"]
    assert (export(study, "markdown", tmp_path / "new") / "report.md").is_file()
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="cannot be written"):
        export(study, "csv", tmp_path / "file" / "below")


@pytest.mark.parametrize("form, module, package", [("wandb-offline", "wandb", "wandb"), ("mlflow", "mlflow", "mlflow-skinny")])
def test_without_the_package_the_error_says_what_to_install_and_nothing_is_written(form, module, package, study, monkeypatch):
    for name in [name for name in sys.modules if name == module or name.startswith(f"{module}.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(DataError) as refused:
        export(study, form)
    assert str(refused.value) == f"{form} needs the package {package}: pip install -e '.[{module}]'"
    assert not (study / "export").exists()


def test_every_format_of_the_command_is_there_and_every_extra_is_declared(pytestconfig):
    assert set(FORMATS) == set(commands.Format)
    extras = tomllib.loads((pytestconfig.rootpath / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert any(each.startswith("wandb") for each in extras["wandb"]) and any(each.startswith("mlflow") for each in extras["mlflow"])


def test_a_spec_is_flat(study):
    run = exported(study).runs[0]
    assert run.options == {
        "seed": 0,
        "model.dim": 16,
        "model.pattern": ["local", "global"],
        "optimizer.lr": 3e-3,
        "optimizer.clip": None,
    }
    assert flat({"a": {}, "b": {"c": {"d": 1}}}) == {"b.c.d": 1}
    assert run.points()[0] == (10, {key: value for key, value in run.points()[0][1].items() if np.isfinite(value)})


def installed(name):
    """The package, or a skip with the reason; where `make test-trackers` runs, no skip."""
    if os.environ.get("ARCHBENCH_NEEDS_TRACKERS"):
        return __import__(name)
    return pytest.importorskip(name, reason=f"the extra `{name}` is not installed; `make test-trackers` installs it")


@pytest.fixture
def nobody_calls(monkeypatch):
    """Every proxy is a port of this process, which must not be called; keys are set and must not be used."""
    calls = []
    server = socket.create_server(("127.0.0.1", 0))

    def listen():
        try:
            while True:
                connection, _ = server.accept()
                calls.append(connection.recv(200))
                connection.close()
        except OSError:
            pass

    threading.Thread(target=listen, daemon=True).start()
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{server.getsockname()[1]}")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracker.invalid:5000")
    yield
    server.close()
    assert calls == []


def wandb_records(path):
    """The records of a .wandb file, decoded by W&B's own messages. The file is W&B's header, then LevelDB's log format."""
    from wandb.proto import wandb_internal_pb2

    data, part, at = path.read_bytes(), b"", 7
    assert data[:4] == b":W&B"
    while at + 7 <= len(data):
        if (left := 32768 - at % 32768) < 7:  # no header fits into the rest of a block
            at += left
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + 7])
        part += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield wandb_internal_pb2.Record.FromString(part)
            part = b""


@pytest.mark.filterwarnings("ignore")  # of W&B's own code
def test_wandb_reads_every_run_and_nothing_is_sent(study, nobody_calls):
    installed("wandb")
    folder, data = export(study, "wandb-offline"), load(study)
    files = sorted((folder / "wandb").glob("offline-run-*/*.wandb"))
    assert len(files) == len(data.runs)
    assert not any(path.is_symlink() for path in folder.rglob("*")) and b"k" * 40 not in b"".join(map(_content, folder.rglob("*")))
    seen = {}
    for file in files:
        records = list(wandb_records(file))
        run = next(record.run for record in records if record.HasField("run"))
        config = {item.key: json.loads(item.value_json) for item in run.config.update}
        history = [_numbers(record.history.item) for record in records if record.HasField("history")]
        summary = {}
        for record in records:
            summary |= _numbers(record.summary.update)
        seen[run.display_name] = config, history, summary, run
    config, history, summary, run = seen["a|b_c & 50% seed 1"]
    assert config["model"] == {"dim": 16, "pattern": ["local", "global"]} and config["seed"] == 1 and run.run_group == "a|b_c & 50%"
    curve = data.curves[(data.curves.arm == "a|b_c & 50%") & (data.curves.seed == 1)]
    assert [row["_step"] for row in history] == curve.step.tolist()
    np.testing.assert_allclose([row["train/loss"] for row in history], curve["train/loss"], rtol=1e-12)
    assert summary["report/loss"] == data.metrics["a|b_c & 50%", 1]["report/loss"] and summary["verdict"] == "worse"
    assert "Is 1 < 2_3?" in run.notes and seen["local-only seed 2"][2]["status"] == "failed"


def _numbers(items):
    """{key: value} of W&B's items, whose keys are lists or, in older files, texts."""
    return {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in items}


def _content(path):
    return path.read_bytes() if path.is_file() else b""


@pytest.mark.filterwarnings("ignore")  # of MLflow's own code
def test_mlflow_reads_every_run_and_nothing_is_sent(study, nobody_calls):
    installed("mlflow")
    folder, data = export(study, "mlflow"), load(study)
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{folder / 'mlflow.db'}")
    (experiment,) = [each for each in client.search_experiments() if each.name != "Default"]
    assert experiment.name == "gemma3/local_global demo" and "Is 1 < 2_3?" in experiment.tags["mlflow.note.content"]
    assert experiment.artifact_location == (folder / "artifacts").as_uri()
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    assert len(runs) == len(data.runs) and runs["local-only seed 2"].info.status == "FAILED"
    run = runs["1:1 seed 1"]
    assert run.data.params["model.pattern"] == "[local, global]" and run.data.params["seed"] == "1"
    assert run.data.tags["arm"] == "1:1" and run.data.tags["verdict"] == "baseline"
    assert run.data.metrics["report/loss"] == data.metrics["1:1", 1]["report/loss"]
    curve = data.curves[(data.curves.arm == "1:1") & (data.curves.seed == 1)]
    history = sorted(client.get_metric_history(run.info.run_id, "train/loss"), key=lambda each: each.step)
    assert [each.step for each in history] == curve.step.tolist()
    np.testing.assert_allclose([each.value for each in history], curve["train/loss"], rtol=1e-12)
