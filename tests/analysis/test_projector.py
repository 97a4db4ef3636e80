"""TensorBoard's own projector reads the vectors and texts that a run's evaluations kept."""

import json

import numpy as np
import pytest
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.plugins.base_plugin import TBContext
from tensorboard.plugins.projector.projector_plugin import ProjectorPlugin
from werkzeug.test import Client

from analysis import projector
from analysis.runs import load
from analysis.tensorboard import refresh, write_logs
from arch.contracts import Points
from experiments.record import EVALUATIONS, EvaluationRecord, points_files

FILE = "report.retrieval-0123456789ab.json"


def measured(run, points):
    """Write a record of an evaluation with points into a run's folder."""
    about = {"split": "report", "name": "retrieval", "evaluator": {"type": "retrieval"}, "identity": "x", "seed": 0, "values": {}}
    EvaluationRecord(**about, points=points).write(run, FILE)


def asked(logs):
    """`ask(route, run, **more)`: what TensorBoard's projector answers for a folder of logs."""
    multiplexer = EventMultiplexer().AddRunsFromDirectory(str(logs))
    multiplexer.Reload()
    plugin = ProjectorPlugin(TBContext(logdir=str(logs), data_provider=MultiplexerDataProvider(multiplexer, str(logs))))
    routes = plugin.get_plugin_apps()

    def ask(route, **query):
        answer = Client(routes[route]).get(route, query_string=query)
        assert answer.status_code == 200, answer.get_data(as_text=True)
        return answer.get_data()

    ask("/runs")  # it reads what there is
    return ask


@pytest.fixture
def study(plant, tmp_path):
    """(folder, {(arm, seed): folder of the run})"""
    folder = plant(tmp_path / "study", {"1:1": 0.0, "3:1": 0.0}, seeds=2)
    record = load(folder).record
    return folder, {(arm, int(seed)): folder / run for arm in record.arms for seed, run in record.arms[arm].runs.items()}


def test_it_shows_vectors_with_their_texts(study):
    folder, runs = study
    vectors = np.random.default_rng(0).normal(size=(7, 5)).tolist()
    texts = [f"text\t{i}\nwith a line" for i in range(7)]
    measured(runs["1:1", 0], Points(vectors=vectors, columns={"text": texts, "label": [*"aabbccd"]}))
    measured(runs["3:1", 1], Points(vectors=vectors, columns={"text": texts}))
    logs = write_logs(folder)
    ask = asked(logs)
    assert sorted(json.loads(ask("/runs"))) == ["1to1/seed-0", "3to1/seed-1"], "the other runs kept nothing"
    (embedding,) = json.loads(ask("/info", run="1to1/seed-0"))["embeddings"]
    assert embedding["tensorName"] == FILE.removesuffix(".json") and embedding["tensorShape"] == [7, 5]
    shown = np.frombuffer(ask("/tensor", run="1to1/seed-0", name=embedding["tensorName"]), dtype=np.float32)
    assert np.allclose(shown.reshape(7, 5), vectors, atol=1e-5)
    lines = ask("/metadata", run="1to1/seed-0", name=embedding["tensorName"]).decode().splitlines()
    assert lines[:2] == ["text\tlabel", "text 0 with a line\ta"] and len(lines) == 8
    alone = ask("/metadata", run="3to1/seed-1", name=embedding["tensorName"]).decode().splitlines()
    assert alone == [f"text {i} with a line" for i in range(7)], "without a line of names, which would count as a point"


def test_a_running_board_gets_new_points(study):
    folder, runs = study
    logs = write_logs(folder)
    assert not list(logs.rglob(projector.CONFIG))
    for number in (1.0, 2.0):
        measured(runs["1:1", 0], Points(vectors=[[number, 0.0]] * 3, columns={"text": ["a", "b", "c"]}))
        refresh(load(folder), logs, {})
        shown = np.frombuffer(asked(logs)("/tensor", run="1to1/seed-0", name=FILE.removesuffix(".json")), dtype=np.float32)
        assert shown.tolist() == [number, 0.0] * 3


def test_half_of_what_is_kept_is_nothing(tmp_path):
    measured(tmp_path, Points(vectors=[[1.0]], columns={"text": ["a"]}))
    assert len(projector.kept(tmp_path)) == 1
    points_files(tmp_path, FILE)[1].unlink()
    assert projector.kept(tmp_path) == {} and (tmp_path / EVALUATIONS).is_dir()
    projector.write(tmp_path, tmp_path / "logs")
    assert not (tmp_path / "logs").exists()
