"""Components of one's own, each in one file: an objective, an evaluator, a dataset. And what the contracts promise."""

import re

import pytest
import torch

from arch.errors import DataError, SpecError
from experiments import evaluations
from experiments.checkpoint import load_model
from experiments.data.dataset import prepare
from experiments.history import History
from experiments.plan import plan, resolve
from experiments.record import EVALUATIONS, RunRecord
from experiments.train import measure, train

DIGITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]


@pytest.fixture
def copying(plugins, tiny):
    """The tiny experiment on the generated task, with the objective of one's own."""
    tiny["data"] = {"source": {"type": "own_dataset:Copying"}, "context": 16, "rows": 4}
    tiny["objective"] = {"type": "own_objective:WithAccuracy"}
    return tiny


def test_an_objective_without_perplexity_is_trained_and_recorded(plugins, tiny, tmp_path):
    tiny["objective"] = {"type": "own_objective:WithAccuracy"}
    record = train(plan(tiny), 0, tmp_path / "run")
    assert record.status == "finished", record.failure
    assert {"report/loss", "report/accuracy", "select/accuracy", "train/accuracy"} <= set(record.metrics)
    assert not any("perplexity" in name for name in record.metrics)
    info = RunRecord.read(tmp_path / "run").metric_info["report/accuracy"]
    assert (info.better, info.compare) == ("higher", "difference")
    assert {"step", "tokens", "train/accuracy", "select/accuracy"} <= set(_columns(tmp_path / "run"))


def _columns(folder):
    import pyarrow.parquet

    return pyarrow.parquet.read_schema(folder / "history.parquet").names


def test_what_an_objective_holds_is_in_no_checkpoint(plugins, tiny, tmp_path):
    tiny["objective"] = {"type": "own_objective:WithAccuracy"}
    stops = iter([False] * 5 + [True])
    record = train(plan(tiny), 0, tmp_path / "run", stop=lambda: next(stops))
    assert record.status == "interrupted"
    state = torch.load(tmp_path / "run" / "checkpoint.ckpt", weights_only=True)["state_dict"]
    assert state and all(name.startswith("model.") for name in state)
    resumed, whole = train(plan(tiny), 0, tmp_path / "run"), train(plan(tiny), 0, tmp_path / "whole")
    assert resumed.metrics == whole.metrics


@pytest.mark.parametrize(
    "options, text",
    [
        ({"trained": True}, "the objective has trainable parameters (frozen.weight, frozen.bias); they belong to the model"),
        ({"weigh": 2.0}, "the weights of the objective's loss add up to"),
    ],
)
def test_an_objective_that_breaks_its_contract_fails_with_the_reason(options, text, plugins, tiny, tmp_path):
    tiny["objective"] = {"type": "own_objective:WithAccuracy", **options}
    record = train(plan(tiny), 0, tmp_path / "run")
    assert record.status == "failed" and text in record.failure.message


def test_a_finished_run_gains_an_evaluation_without_a_training_step(plugins, tiny, tmp_path):
    first = train(plan(tiny), 0, tmp_path / "run")
    history = (tmp_path / "run" / "history.parquet").stat().st_mtime_ns
    tiny["evaluate"] = {"report": {"loss": {"type": "objective", "rows": 3}, "norms": {"type": "own_evaluator:Norms"}}}
    again = plan(tiny)
    assert again.identity == first.identity
    record = train(again, 0, tmp_path / "run")
    assert record.status == "finished" and (tmp_path / "run" / "history.parquet").stat().st_mtime_ns == history
    by_name = {evaluation.name: evaluation.record(tmp_path / "run") for evaluation in evaluations.planned(again.spec)}
    assert by_name["loss"].values["report/loss"] != first.metrics["report/loss"]
    assert by_name["norms"].values["report/embedding_norm"] > 0 and len(by_name["norms"].table) == 3
    assert not evaluations.missing(evaluations.planned(again.spec), tmp_path / "run")


def test_measured_again_it_gives_the_same_bits(tiny, tmp_path):
    planned = plan(tiny)
    train(planned, 0, tmp_path / "run")
    kinds = evaluations.planned(planned.spec)
    before = [evaluation.record(tmp_path / "run") for evaluation in kinds]
    for evaluation in kinds:
        (tmp_path / "run" / EVALUATIONS / evaluation.file).unlink()
    again = list(measure(planned, 0, tmp_path / "run"))
    assert [(each.values, each.text) for each in again] == [(each.values, each.text) for each in before]


def test_measuring_changes_no_bit_of_training(plugins, tiny, tmp_path):
    plain = train(plan(tiny), 0, tmp_path / "plain")
    tiny["evaluate"] = {"every": 1, "select": {"norms": {"type": "own_evaluator:Norms"}}}
    drawing = train(plan(tiny), 0, tmp_path / "drawing")
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("plain", "drawing")]
    assert plain.identity == drawing.identity and weights[0] == weights[1]


def test_a_metric_that_was_not_declared_is_named(plugins, tiny, tmp_path):
    tiny["evaluate"] = {"report": {"norms": {"type": "own_evaluator:Norms", "name": "surprise"}}}
    record = train(plan(tiny), 0, tmp_path / "run")
    assert record.status == "failed"
    assert record.failure.message == "report.norms: surprise: not declared in `metrics`, which has embedding_norm"


def test_a_dataset_of_ones_own_trains_and_decides_identity(copying, plugins, tmp_path):
    planned = plan(copying)
    record = train(planned, 0, tmp_path / "run")
    assert record.status == "finished", record.failure
    assert record.tokens == 12 * 4 * 16 and 0 <= record.metrics["report/accuracy"] <= 1 and not record.sample
    copying["data"]["source"]["symbols"] = 9
    assert plan(copying).identity != planned.identity
    copying["data"]["source"]["symbols"] = 8
    code = (plugins / "own_dataset.py").read_text()
    (plugins / "own_dataset.py").write_text(code.replace("[split, seed, n]", "[split, seed, n, 1]"))
    assert plan(copying).identity != planned.identity, "its code decides its rows"


def test_data_that_cannot_be_is_refused_at_its_key(copying, tiny):
    with_tokenizer = {**copying, "data": {**copying["data"], "tokenizer": {"type": "byte"}}}
    with pytest.raises(SpecError, match=r"data\.tokenizer: the source own_dataset:Copying gives tokens, not texts"):
        plan(with_tokenizer)
    copying["data"]["source"]["symbols"] = 301
    with pytest.raises(SpecError, match=r"model\.vocab_size: the source own_dataset:Copying has 301 tokens but"):
        plan(copying)


def test_texts_need_a_tokenizer(tiny):
    del tiny["data"]["tokenizer"]
    with pytest.raises(SpecError, match=r"data\.tokenizer: missing: the source text gives texts"):
        plan(tiny)
    with pytest.raises(DataError):
        prepare(resolve(tiny).data, 300)


@pytest.mark.parametrize(
    "change, text",
    [
        ({}, "objective: next_token needs `causal`: .*; but the mixer of block global sees later tokens"),
        (
            {
                "objective": {"type": "own_objective:WithAccuracy"},
                "evaluate": {"report": {"norms": {"type": "own_evaluator:Norms"}}},
            },
            "evaluate.report.norms: own_evaluator:Norms needs `decodes`.*but the mixer of block global has no state",
        ),
    ],
)
def test_planning_refuses_what_the_model_cannot_serve(change, text, plugins, tiny):
    tiny["model"]["blocks"]["global"] = {"like": "local", "mixer": {"window": None, "causal": False}}
    with pytest.raises(SpecError, match=text):
        resolve(tiny | change)


def test_the_older_spelling_of_evaluate_means_the_same(tiny):
    older = resolve(tiny)
    loss = lambda rows: {"loss": {"type": "objective", "rows": rows}}  # noqa: E731
    tiny["evaluate"] = {"every": 4, "select": loss(4), "report": {**loss(4), "sample": {"type": "sample", "tokens": 5}}}
    assert resolve(tiny) == older
    assert "evaluate" not in older.dump(identity=True)


def test_a_history_has_the_columns_that_were_reported(tmp_path):
    import pyarrow.parquet

    history = History()
    history.add(step=1, tokens=8, **{"train/loss": 2.0})
    history.add(step=2, tokens=16, **{"train/loss": 1.0, "select/accuracy": 0.5})
    history.write(tmp_path)
    table = pyarrow.parquet.read_table(tmp_path / "history.parquet").to_pydict()
    assert list(table) == ["step", "tokens", "train/loss", "select/accuracy"]
    assert (
        table["step"] == [1, 2]
        and table["select/accuracy"][0] != table["select/accuracy"][0]
        and table["select/accuracy"][1] == 0.5
    )


def test_a_network_a_source_and_a_tokenizer_of_ones_own_train(plugins, tiny, tmp_path):
    tiny["model"]["blocks"]["local"]["ffn"] = {"type": "own_ffn:SquaredReLU", "hidden": 24}
    tiny["model"]["pattern"] = ["local", "global"]
    tiny["data"] |= {"source": {"type": "own_texts:Counting"}, "tokenizer": {"type": "own_texts:Words"}}
    planned = plan(tiny)
    record = train(planned, 0, tmp_path / "run")
    assert record.status == "finished", record.failure
    assert record.data["vocabulary"] == 4 + 10 and record.metrics["report/bits_per_byte"] > 0
    assert set(record.plugins) == {"own_ffn", "own_texts"} and set(record.sample.split()) <= set(DIGITS)


def test_a_mistake_in_an_evaluator_loses_nothing_that_was_trained(plugins, tiny, tmp_path):
    norms = {"type": "own_evaluator:Norms", "fails": True}
    tiny["evaluate"] = {"report": {"loss": {"type": "objective", "rows": 3}, "norms": norms}}
    record = train(plan(tiny), 0, tmp_path / "run")
    assert record.status == "failed" and "this evaluator has a mistake" in record.failure.message
    assert RunRecord.read(tmp_path / "run").status == "finished" and (tmp_path / "run" / "model.safetensors").is_file()
    history = (tmp_path / "run" / "history.parquet").stat().st_mtime_ns
    norms["fails"] = False
    record = train(plan(tiny), 0, tmp_path / "run")
    assert record.status == "finished" and record.metrics["report/embedding_norm"] > 0
    assert (tmp_path / "run" / "history.parquet").stat().st_mtime_ns == history


def test_a_run_shows_what_its_spec_asks_for_now(tiny, tmp_path):
    first = train(plan(tiny), 0, tmp_path / "run")
    tiny["evaluate"]["report_rows"] = 2
    again = train(plan(tiny), 0, tmp_path / "run")
    assert (
        again.metrics["report/loss"] != first.metrics["report/loss"] and again.metrics["train/loss"] == first.metrics["train/loss"]
    )


def test_an_evaluators_changed_source_is_noticed(plugins, tiny, tmp_path):
    tiny["evaluate"] = {"report": {"norms": {"type": "own_evaluator:Norms"}}}
    planned = plan(tiny)
    code = (plugins / "own_evaluator.py").read_text()
    (plugins / "own_evaluator.py").write_text(code + "# changed\n")
    record = train(planned, 0, tmp_path / "run")
    assert record.status == "failed" and "the source of report.norms has changed" in record.failure.message
    assert plan(tiny).evaluations[-1].file != planned.evaluations[-1].file


@pytest.mark.parametrize(
    "report, text",
    [
        ({"a": {"type": "objective"}, "b": {"type": "objective"}}, "evaluate.report.b: the objective's metrics: measured by 'a'"),
        (
            {"a": {"type": "own_evaluator:Norms"}, "b": {"type": "own_evaluator:Norms"}},
            "evaluate.report.b: embedding_norm: measured by 'a' already",
        ),
        ({"a/b": {"type": "objective"}}, "evaluate.report: the name 'a/b' becomes a file's"),
    ],
)
def test_evaluators_that_cannot_stand_beside_each_other_are_refused(report, text, plugins, tiny):
    tiny["evaluate"] = {"report": report}
    with pytest.raises(SpecError, match=re.escape(text)):
        resolve(tiny)


def test_the_older_spelling_overrides_what_a_spec_extends(tiny):
    loss = {"type": "objective", "rows": 4}
    tiny["evaluate"] = {"report": {"loss": loss, "sample": {"type": "sample"}}, "report_rows": 7, "sample_tokens": 0}
    report = resolve(tiny).evaluate.report
    assert report == {"loss": {"type": "objective", "rows": 7}}


def test_a_loss_without_any_target_is_not_a_number(copying, plugins, tmp_path):
    code = (plugins / "own_dataset.py").read_text()
    (plugins / "own_dataset.py").write_text(code.replace("targets[:, half - 1 : -1] = tokens[:, half:]", "pass"))
    record = train(plan(copying), 0, tmp_path / "run")
    assert record.status == "failed" and record.failure.error == "NonFinite" and "select/" in record.failure.message


def test_a_run_of_no_steps_measures_as_a_trained_one_does(tiny, tmp_path):
    """Also in a precision that converts the model."""
    tiny["train"] |= {"steps": 0, "precision": "bf16-true"}
    planned = plan(tiny)
    record = train(planned, 0, tmp_path / "run")
    assert record.status == "finished", record.failure
    for evaluation in planned.evaluations:
        (tmp_path / "run" / EVALUATIONS / evaluation.file).unlink()
    again = train(planned, 0, tmp_path / "run")
    assert again.metrics == {name: value for name, value in record.metrics.items() if not name.startswith("train/")}


def test_a_broken_weights_file_is_named(tiny, tmp_path):
    from experiments.checkpoint import load_model

    train(plan(tiny), 0, tmp_path / "run")
    weights = tmp_path / "run" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(DataError, match=r"model\.safetensors: not the weights of this model"):
        load_model(tmp_path / "run")


def test_the_command_evaluates_what_a_spec_names_and_says_what_is_wrong(plugins, tiny, tmp_path, capsys):
    import typer

    from experiments.__main__ import evaluate

    train(plan(tiny), 0, tmp_path / "run")
    spec = tmp_path / "more.yaml"
    spec.write_text("evaluate: {report: {norms: {type: own_evaluator:Norms}}}")
    evaluate(tmp_path / "run", str(spec))
    out = capsys.readouterr().out
    assert "report.norms" in out and "(new)" in out and "report/embedding_norm" in out and "norm " in out
    assert "select.loss" not in out, "only the splits that are named"
    evaluate(tmp_path / "run")
    out = capsys.readouterr().out
    assert "report/perplexity" in out and "(new)" not in out
    spec.write_text("evaluate: {report: {norms: {type: own_evaluator:Norms, fails: true}}}")
    with pytest.raises(typer.Exit):
        evaluate(tmp_path / "run", str(spec))
    said = capsys.readouterr().err
    assert said.startswith("RuntimeError: this evaluator has a mistake (") and "own_evaluator.py:" in said and said.count("\n") == 1
    with pytest.raises(DataError, match="no finished run in it"):
        evaluate(tmp_path / "nowhere")
    (tmp_path / "run" / "model.safetensors").unlink()
    with pytest.raises(DataError, match=r"its weights are gone, as in a kept copy; expected model\.safetensors"):
        load_model(tmp_path / "run")


@pytest.mark.parametrize("split", ["select", "report"])
@pytest.mark.parametrize("hidden", [False, True])
def test_an_evaluator_that_changes_the_model_fails_its_run(plugins, tiny, tmp_path, split, hidden):
    """What is measured is no part of identity, so a run that was changed by a measurement would be taken for another."""
    tiny["evaluate"] = {"every": 4, split: {"adapt": {"type": "own_adapting:Adapting", "hidden": hidden}}}
    record = train(plan(tiny), 0, tmp_path / "run")
    assert record.status == "failed" and f"{split}.adapt: the evaluator changed the model" in record.failure.message
    assert not record.failure.by_machine


def test_a_model_with_a_pool_encodes_and_does_not_decode(tiny):
    from experiments import capabilities

    with_pool = tiny | {"model": tiny["model"] | {"pool": {"type": "mean"}}}
    plain, pooled = (capabilities.of(plan(data).spec) for data in (tiny, with_pool))
    assert {"causal", "decodes"} <= plain.words and "encodes" not in plain.words
    assert {"causal", "encodes"} <= pooled.words and "decodes" not in pooled.words
    assert pooled.reasons["decodes"] == "a model with a `pool` gives no next token"
