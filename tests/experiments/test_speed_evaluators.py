"""Evaluators that time steps, scans and decoding beside another model, and that count states: by a clock that tests turn."""

from pathlib import Path

import pytest
import torch

from arch import cost, registry
from arch.contracts import Given
from arch.document import node
from arch.errors import SpecError
from arch.express import resolved
from arch.kernels import linear_scan, native
from arch.model import new_model
from experiments import beside, drawn_step, turns
from experiments.evaluators import decode_speed
from experiments.evaluators.scan_speed import ScanSpeed
from experiments.evaluators.state_bytes import StateBytes
from experiments.evaluators.step_speed import StepSpeed
from experiments.objectives.next_token import NextToken

CPU = torch.device("cpu")
BESIDE = {"pattern": ["global"]}


class Drawn:
    """What an evaluator that draws its tokens needs of a dataset."""

    vocabulary, tokenizer = 11, None


@pytest.fixture(scope="module")
def model():
    """Two recurrent layers and one with a window; a block for attention without one."""
    ffn = {"type": "gated", "hidden": 12}
    attention = {"type": "attention", "heads": 2}
    blocks = {
        "recurrent": {"mixer": {"type": "rg_lru", "blocks": 2}, "ffn": ffn},
        "local": {"mixer": {**attention, "window": 4}, "ffn": ffn},
        "global": {"mixer": attention, "ffn": ffn},
    }
    spec = {"dim": 8, "vocab_size": 16, "layers": 3, "pattern": ["2*recurrent", "local"], "blocks": blocks}
    return new_model(resolved(spec), 0).eval()


def measured(evaluator, model):
    with torch.no_grad():
        return evaluator(model, Drawn(), Given(NextToken(NextToken.Config(), Drawn()), None, "report", 8, 4, CPU, 0))


@pytest.fixture
def clock(monkeypatch):
    """A clock that only tests turn: clock.now, in seconds."""

    class Clock:
        now = 0.0

    monkeypatch.setattr(turns, "now", lambda device: Clock.now)
    return Clock


def test_works_take_turns_every_other_round_in_the_opposite_order(clock):
    order = []

    def work(name, seconds):
        order.append(name)
        clock.now += seconds

    seconds = turns.in_turns({"a": lambda: work("a", 2.0), "b": lambda: work("b", 0.5)}, 3, CPU)
    assert order == [*"ab", *"ab", *"ba", *"ab"] and seconds == {"a": [2.0] * 3, "b": [0.5] * 3}
    assert turns.ratio([2.0, 8.0, 9.0], [1.0, 2.0, 9.0]) == 2.0  # of each round, and then the median


def test_a_drawn_step_has_the_gradient_of_the_mean_loss_and_leaves_the_model_as_it_was(model):
    objective, tokens_BT = NextToken(NextToken.Config(), Drawn()), drawn_step.tokens(2, 6, 11, 0)
    with drawn_step.training(model):
        assert model.training
        drawn_step.step(model, objective, tokens_BT)
        found = {name: weight.grad.clone() for name, weight in model.named_parameters()}
        model.zero_grad()
        scores_BTV = model(tokens_BT)
        torch.nn.functional.cross_entropy(scores_BTV.flatten(0, 1), tokens_BT.roll(-1, 1).flatten()).backward()
        for name, weight in model.named_parameters():
            torch.testing.assert_close(found[name], weight.grad, rtol=1e-4, atol=1e-6)
    assert not model.training and all(weight.grad is None for weight in model.parameters())


def test_a_step_is_told_by_length_and_beside_another_model(model, clock, monkeypatch):
    def step(each, objective, tokens_BT):
        own = each is model
        clock.now += tokens_BT.numel() * (3.0 if own else 1.0) * (tokens_BT.shape[1] / 4 if not own else 1)

    monkeypatch.setattr(drawn_step, "step", step)
    findings = measured(StepSpeed(StepSpeed.Config(lengths=[8, 4], tokens=20, rounds=2, beside=BESIDE)), model)
    # 20 tokens are 5 rows of 4, or 2 rows of 8: a step of 8 has fewer tokens, and the slowdown is per token.
    assert [(row["length"], row["rows"], row["seconds"], row["beside_seconds"]) for row in findings.table] == [
        (4, 5, 60.0, 20.0),
        (8, 2, 48.0, 32.0),
    ]
    assert findings.values == {
        "step_seconds@4": 60.0,
        "step_seconds@8": 48.0,
        "step_slowdown": 1.0,
        "step_over_beside@4": 3.0,
        "step_over_beside@8": 1.5,
        "step_over_beside": 1.5,
    }
    alone = measured(StepSpeed(StepSpeed.Config(lengths=[4], rounds=1)), model)
    assert set(alone.values) == {"step_seconds@4", "step_slowdown"} and alone.table[0]["rows"] == 8  # as many tokens as in training


def test_a_real_step_changes_nothing_of_the_model(model):
    before = {name: (weight._version, weight.clone()) for name, weight in model.named_parameters()}
    evaluator = StepSpeed(StepSpeed.Config(lengths=[4, 8], rounds=1, beside=BESIDE))
    values = measured(evaluator, model).values
    assert set(values) == set(evaluator.metrics) and all(value > 0 for value in values.values())
    for name, weight in model.named_parameters():
        assert weight._version == before[name][0] and torch.equal(weight, before[name][1]) and weight.grad is None


def test_a_model_beside_is_made_from_the_runs_own_and_refused_at_its_key(model):
    other = beside.model_of(model, BESIDE, 3)
    assert other.spec.layer_blocks() == ["global"] * 3 and not other.training
    evaluators = (
        StepSpeed(StepSpeed.Config(lengths=[4], beside={"pattern": ["globl"]})),
        decode_speed.DecodeSpeed(decode_speed.DecodeSpeed.Config(beside={"pattern": ["globl"]})),
    )
    for evaluator in evaluators:
        with pytest.raises(SpecError, match="globl") as refused:
            evaluator.check_model(model.spec)
        assert refused.value.path[:2] == ("beside", "pattern")
    StepSpeed(StepSpeed.Config(lengths=[4], beside=BESIDE)).check_model(model.spec)


def test_an_option_that_is_not_used_changes_no_file_name():
    """Evaluations of finished runs are found by the digest of the evaluator's options."""
    options = registry.resolve_component("evaluator", node({"type": "decode_speed"}), ())
    assert "beside" not in options


def test_decoding_is_told_beside_another_model(model, clock, monkeypatch):
    def run(case, prompt_BT):
        own = case.model is model
        case.prefill_seconds.append(case.prompt / (4.0 if own else 1.0))
        case.seconds.append(case.tokens * (2.0 if own else (1.0 + case.prompt) * case.batch))
        case.state = case.held = case.batch

    monkeypatch.setattr(decode_speed._Case, "run", run)
    attention = beside.respecified(model.spec, BESIDE)
    weights = 4 * cost.outline(attention, 8)["parameters"]["total"]
    memory = weights + 2 * cost.cache_bytes(attention, 68)["total"]  # attention has room for two streams
    config = {"batches": [2, 8], "tokens": [2, 4], "prefills": [0, 64], "repeats": 3, "memory": memory, "beside": BESIDE}
    evaluator = decode_speed.DecodeSpeed(decode_speed.DecodeSpeed.Config(**config))
    findings = measured(evaluator, model)
    assert {row["streams"] for row in findings.table} == {2, 8}
    assert {row["streams"] for row in findings.table if "over_beside" in row} == {2}
    values = findings.values
    # This model takes 2 s for a token of all streams; the other takes a second of each stream, and one for each prompt token.
    assert values["decode_latency_over_beside@0"] == 1.0
    assert values["decode_latency_over_beside@64"] == values["decode_latency_over_beside"] == 1 / 65
    assert values["decode_throughput_over_beside@2"] == values["decode_throughput_over_beside"] == pytest.approx(8 / 2 * 65)
    assert values["decode_prefill_over_beside"] == 4.0
    assert set(values) == set(evaluator.metrics)


@pytest.mark.parametrize("streams", [1, 3])
def test_bytes_of_filled_states_are_those_that_are_foreseen(model, streams):
    evaluator = StateBytes(StateBytes.Config(lengths=[2, 9, 600], streams=streams))
    findings = measured(evaluator, model)
    weights = sum(weight.nbytes for weight in model.parameters())
    for row in findings.table:
        foreseen = cost.cache_bytes(model.spec, row["length"])["total"]
        assert row["state_bytes"] == row["foreseen_bytes"] == foreseen
        assert foreseen <= row["held_bytes"] <= foreseen + 2 * 3 * 8 * 4  # the inputs of two convolutions are a view of some more
        assert findings.values[f"state_bytes@{row['length']}"] == row["held_bytes"]
        assert findings.values[f"state_over_weights@{row['length']}"] == row["held_bytes"] / weights
    assert findings.values["state_over_foreseen"] == 1 <= findings.values["state_held_over_foreseen"]
    assert set(findings.values) == set(evaluator.metrics)
    assert all(metric.varies == "never" for metric in evaluator.metrics.values())


def test_a_state_that_keeps_more_than_it_shows_is_told(model, monkeypatch):
    """A view of a larger buffer is the mistake that this measures."""
    made = model.init_state
    padded = lambda batch, capacity: made(batch, 3 * capacity)  # noqa: E731
    monkeypatch.setattr(model, "init_state", padded)
    values = measured(StateBytes(StateBytes.Config(lengths=[3])), model).values
    assert values["state_over_foreseen"] > 1 and values["state_held_over_foreseen"] > 1


def test_forms_of_the_scan_are_timed_alone_and_in_a_step(model):
    evaluator = ScanSpeed(ScanSpeed.Config(lengths=[4, 9], rows=2, rounds=1))
    findings = measured(evaluator, model)
    there = native.path("linear_scan").startswith("compiled")
    forms = ["step", "associative", "chunked", *(["compiled"] if there else [])]
    for length in (4, 9):
        assert [row["form"] for row in findings.table if row["length"] == length] == [*forms, "shipped"]
    assert set(findings.values) == {name for name in evaluator.metrics if there or not name.endswith("compiled")}
    assert all(row["step_speedup"] == row["scan_speedup"] == 1 for row in findings.table if row["form"] == "step")
    assert linear_scan.chosen() is None
    with native.disabled():
        without = measured(evaluator, model)
    assert "compiled is left out: switched off in this process" in without.text
    assert not [name for name in without.values if name.endswith("compiled")]


def test_a_model_without_the_recurrence_has_no_scan_to_time(model):
    with pytest.raises(SpecError, match="no layer of the model has the mixer rg_lru"):
        ScanSpeed(ScanSpeed.Config()).check_model(beside.respecified(model.spec, BESIDE))
    ScanSpeed(ScanSpeed.Config()).check_model(model.spec)


@pytest.mark.parametrize("name, options", [("step_speed", {"beside": BESIDE}), ("scan_speed", {"rows": 1}), ("state_bytes", {})])
def test_columns_of_charts_are_in_the_table(name, options, model):
    evaluator = registry.build("evaluator", {"type": name, "lengths": [4], **options})
    table = measured(evaluator, model).table
    for chart in evaluator.charts:
        columns = [column for column in (chart.x, chart.y, chart.by) if column]
        assert [row for row in table if all(row[column] is not None for column in columns)], chart.title
        assert {*chart.labels, *chart.log} <= set(columns)


def test_an_estimate_counts_what_evaluators_of_speed_compute(model):
    """Twice as many rounds, twice the FLOPs; and the model beside is counted."""
    flops = lambda **options: StepSpeed(StepSpeed.Config(lengths=[8], **options)).flops(model.spec, 4, 8)  # noqa: E731
    a_step = 32 * cost.outline(model.spec, 8)["flops_per_token"]["ideal"]["train"]
    assert flops(rounds=1) == 2 * a_step and flops(rounds=3) == 4 * a_step and flops(rounds=1, beside=BESIDE) > 3 * a_step
    for name, options in (("scan_speed", {}), ("state_bytes", {"lengths": [4]}), ("decode_speed", {})):
        assert registry.build("evaluator", {"type": name, **options}).flops(model.spec, 4, 8) > 0


def test_a_measured_time_says_what_others_took_of_the_cores(tiny, tmp_path, monkeypatch):
    from experiments import evaluate
    from experiments.plan import plan
    from experiments.record import EVALUATIONS, EvaluationRecord, read_record, shown
    from experiments.train import train

    readings = iter([(0.0, 0.0, 0.0), (1.0, 3.0, 1.0)] * 4)
    monkeypatch.setattr(evaluate, "cores_time", lambda: next(readings))
    report = {"speed": {"type": "step_speed", "lengths": [8]}, "bytes": {"type": "state_bytes", "lengths": [8]}}
    tiny["evaluate"], tiny["train"]["steps"] = {"select": {}, "report": report}, 0
    planned = plan(tiny)
    record = train(planned, 0, tmp_path / "run")
    assert record.status == "finished", record.failure
    files = {each.key: each.file for each in planned.evaluations}
    speed, count = (read_record(EvaluationRecord, Path(tmp_path, "run", EVALUATIONS, files[f"report.{name}"])) for name in report)
    assert speed.others == 0.5 and speed.text.endswith("; other programs took 50\N{NO-BREAK SPACE}% of the cores")
    assert count.others is None and "cores" not in count.text
    assert shown(record, tmp_path / "run", files, []).timing["others"] == 0.5
