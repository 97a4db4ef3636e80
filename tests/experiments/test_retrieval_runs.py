"""Evaluators of encoders in whole runs: planned, measured at the end of training and afterwards, refused at the spec's line."""

import json

import pytest

from arch import document, registry
from arch.document import node
from arch.errors import SpecError
from experiments import measuring
from experiments.plan import plan, resolve
from experiments.record import EVALUATIONS, documents_of, points_files
from experiments.train import measure, train

RETRIEVAL = {"type": "retrieval", "k": 3, "dims": [8], "quantise": ["binary"], "by": "label", "keep": 5, "matrix": 4}


@pytest.fixture
def encoder(tmp_path):
    """A complete experiment of a tiny encoder on 320 pairs in 80 groups, with two labels."""
    rows = [
        {"query": f"{word} {g} {i}?", "positive": f"{word} of {g} is {i * g % 7}", "group": f"g{g}", "label": word}
        for g in range(80)
        for i, word in enumerate(("colour", "size") * 2)
    ]
    file = tmp_path / "pairs.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    block = {"mixer": {"type": "attention", "heads": 2, "causal": False}, "ffn": {"type": "gated", "hidden": 24}}
    return {
        "model": {
            "dim": 16,
            "vocab_size": 300,
            "layers": 1,
            "pattern": ["all"],
            "blocks": {"all": block},
            "pool": {"type": "mean"},
        },
        "data": {
            "source": {"type": "pairs", "files": [str(file)]},
            "tokenizer": {"type": "byte"},
            "context": 64,
            "rows": 8,
        },
        "objective": {"type": "contrastive"},
        "optimizer": {"lr": 3e-3},
        "train": {"steps": 2},
        "evaluate": {
            "every": 2,
            "select": {"retrieval": {**RETRIEVAL, "rows": 4}},
            "report": {"retrieval": RETRIEVAL, "probe": {"type": "probe"}},
        },
    }


def test_a_run_measures_them_and_again_the_same(encoder, tmp_path):
    planned, folder = plan(encoder), tmp_path / "run"
    record = train(planned, 0, folder)
    assert record.status == "finished", record.failure
    assert record.identity == plan({**encoder, "evaluate": {"every": 2, "select": {}, "report": {}}}).identity
    for evaluation in planned.evaluations:
        stored = evaluation.record(folder)
        declared = registry.build("evaluator", evaluation.evaluator)
        assert {f"{evaluation.split}/{name}" for name in declared.metrics} == set(stored.values) <= set(record.metrics)
        assert stored.charts == list(getattr(declared, "charts", ()))
    report = next(each for each in planned.evaluations if each.key == "report.retrieval")
    assert "retrieval_ndcg@3" in documents_of(folder, report.file).without
    numbers, texts = points_files(folder, report.file)
    assert len(numbers.read_text().splitlines()) == 5 and len(texts.read_text().splitlines()) == 6
    for path in (folder / EVALUATIONS).iterdir():
        path.unlink()
    again = {name: value for each in measure(planned, 0, folder) for name, value in each.values.items()}
    assert again == {name: record.metrics[name] for name in again} and len(again) > 12
    assert numbers.exists()


def test_a_finished_run_is_measured_by_name(encoder, tmp_path):
    encoder["train"]["steps"], encoder["evaluate"] = 0, {"select": {}, "report": {}}
    record = train(plan(encoder), 0, tmp_path / "run")
    section = measuring.named(["retrieval", "probe"], ["retrieval.k=3", "retrieval.dims=[4, 8]"], "report")
    measured = list(measure(measuring.of_run(tmp_path / "run", record, section), 0, tmp_path / "run"))
    assert [each.name for each in measured] == ["retrieval", "probe"] and all(each.values for each in measured)
    section = measuring.named(["retrieval"], ["retrieval.dims=[17]"], "report")
    with pytest.raises(SpecError, match=r"retrieval\.dims\.0: 17 is more than the 16 numbers"):
        measuring.of_run(tmp_path / "run", record, section)


@pytest.mark.parametrize(
    "options, text",
    [
        ({"dims": [8, 32]}, "retrieval.dims.1: 32 is more than the 16 numbers of the model's vectors"),
        ({"rows": 5000}, "retrieval.rows: the report split has"),
        ({"k": 5000}, "retrieval.k: the report split has"),
        ({"quantise": ["int3"]}, "retrieval.quantise.0: 'int3' is not one of them; did you mean"),
        ({"by": "part"}, "retrieval.by: no pair of the report split has a part"),
    ],
)
def test_what_cannot_be_measured_is_refused_at_its_line(options, text, encoder, tmp_path):
    encoder["evaluate"]["report"] = {"retrieval": {"type": "retrieval", "k": 3, **options}}
    file = tmp_path / "spec.yaml"
    file.write_text(json.dumps({"schema": 1, **encoder}, indent=1))
    with pytest.raises(SpecError) as error:
        plan(document.read(file))
    said = str(error.value)
    assert said.startswith(f"{file}:") and f" evaluate.report.{text}" in said and "\n" not in said
    line = int(said.removeprefix(f"{file}:").partition(":")[0])
    wrong = next(iter(options))
    assert any(f'"{wrong}"' in each for each in file.read_text().splitlines()[line - 3 : line])


@pytest.mark.parametrize("name", ["retrieval", "probe"])
def test_models_without_a_pool_and_data_without_pairs_are_refused(name, plugins, encoder, tiny):
    tiny["evaluate"] = {"report": {"it": {"type": name}}}
    with pytest.raises(SpecError, match=f"evaluate.report.it: {name} needs `encodes`: it gives one vector per text"):
        resolve(tiny)
    encoder["evaluate"] = {"report": {"it": {"type": name}}}
    encoder["data"]["source"], encoder["objective"] = tiny["data"]["source"], {"type": "own_objective:WithAccuracy"}
    with pytest.raises(SpecError, match=f"evaluate.report.it: {name} needs `pairs`: its data are pairs of texts"):
        resolve(node(encoder))
