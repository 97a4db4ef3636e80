"""A number that is not finite: the part that makes it first is named, and the run's weights are nobody's result.

A number that only a fast path lost is not the model's fault.
"""

import importlib
import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from arch import checkpoint as checkpoints
from arch import digests, hf
from arch.errors import DataError, SpecError
from arch.kernels import native, paths
from arch.model import new_model
from experiments import leftovers, nonfinite
from experiments.checkpoint import load_model
from experiments.module import TrainingModule
from experiments.plan import plan
from experiments.record import RunRecord
from experiments.train import train


def ruin(monkeypatch, name, value, step=0, everywhere=False):
    """Set one value of a parameter, or all, before a step's forward pass."""
    original = TrainingModule.training_step

    def ruined(self, batch, index):
        if self.global_step == step:
            with torch.no_grad():
                self.model.get_parameter(name).view(-1)[: None if everywhere else 1] = value
        return original(self, batch, index)

    monkeypatch.setattr(TrainingModule, "training_step", ruined)


@pytest.mark.parametrize(
    "name, where",
    [
        ("blocks.0.mixer.before.weight", "blocks.0.mixer"),
        ("blocks.1.mixer.component.q.weight", "blocks.1.mixer"),
        ("blocks.1.ffn.component.up.weight", "blocks.1.ffn"),
        ("norm.weight", "norm"),
    ],
)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_the_first_part_that_is_not_finite_is_named_and_its_tensor(name, where, value, tiny, tmp_path, monkeypatch):
    """Also where every later part gets and gives such numbers too, so that their gradients are not finite either."""
    ruin(monkeypatch, name, value, step=2)
    record = train(plan(tiny), 0, tmp_path / "run")
    failure = record.failure
    assert (record.status, failure.error, failure.step) == ("failed", "NonFinite", 2)
    assert (failure.what, failure.where, failure.parameters) == ("loss", where, [name])
    assert failure.reason.startswith(f"loss not finite at step 2, first in {where}; ") and name in failure.message
    assert not failure.by_machine and RunRecord.read(tmp_path / "run").failure == failure


def test_the_embedding_is_named_where_the_blocks_get_such_numbers_already(tiny, tmp_path, monkeypatch):
    ruin(monkeypatch, "embedding", float("nan"), everywhere=True)
    failure = train(plan(tiny), 0, tmp_path / "run").failure
    assert (failure.where, failure.parameters) == ("embedding", ["embedding"])


def test_a_row_of_the_embedding_that_no_token_has_is_found_in_the_head(tiny, tmp_path, monkeypatch):
    """Embedding and head are one tensor; the trunk's numbers are finite."""
    ruin(monkeypatch, "embedding", float("nan"))  # token 0 is padding, which texts do not have
    failure = train(plan(tiny), 0, tmp_path / "run").failure
    assert (failure.what, failure.where, failure.parameters) == ("loss", "head", ["embedding"])


def test_an_overflow_of_finite_weights_names_the_part_and_its_large_tensor(tiny, tmp_path, monkeypatch):
    name = "blocks.1.ffn.component.down.weight"
    ruin(monkeypatch, "blocks.1.ffn.component.up.weight", 1e4, everywhere=True)
    original = TrainingModule.training_step

    def large(self, batch, index):
        with torch.no_grad():
            self.model.get_parameter(name).fill_(3e38)
        return original(self, batch, index)

    monkeypatch.setattr(TrainingModule, "training_step", large)
    failure = train(plan(tiny), 0, tmp_path / "run").failure
    assert (failure.what, failure.where, failure.parameters) == ("loss", "blocks.1.ffn", [name])
    assert f"{name} has values up to 3e+38" in failure.message


INF = float("inf")


class Grows(torch.autograd.Function):
    """Multiplies a value, and its gradient."""

    @staticmethod
    def forward(context, x, value, gradient):
        context.gradient = gradient
        return x * value

    @staticmethod
    def backward(context, gradient):
        return gradient * context.gradient, None, None


def grows_in_fast_paths(x, value, gradient):
    """A kernel with a fault in its compiled path alone."""
    return Grows.apply(x, value, gradient) if native.is_on() else x


def faulty(monkeypatch, layer, kind, spoilt):
    """Give new models a sub-layer whose output is what `spoilt` makes of it."""
    from experiments import train as training

    def build(spec, seed):
        model = new_model(spec, seed)
        component = getattr(model.blocks[layer], kind).component
        inner = component.forward

        def forward(x_BTD, *more):
            given = inner(x_BTD, *more)
            return (spoilt(given[0]), *given[1:]) if isinstance(given, tuple) else spoilt(given)

        component.forward = forward
        return model

    monkeypatch.setattr(training, "new_model", build)


@pytest.mark.parametrize("layer, kind", [(0, "mixer"), (1, "ffn"), (2, "mixer")])
def test_a_gradient_that_is_not_finite_is_found_in_backward_order(layer, kind, tiny, tmp_path, monkeypatch):
    """The loss is finite; below the part that makes them all gradients are NaN."""
    faulty(monkeypatch, layer, kind, lambda x: Grows.apply(x, 1.0, INF))
    failure = train(plan(tiny), 0, tmp_path / "run").failure
    assert (failure.what, failure.step, failure.where) == ("gradient", 0, f"blocks.{layer}.{kind}")
    assert failure.message == f"gradient not finite at step 0, first in blocks.{layer}.{kind}" and not failure.by_machine


needs_native = pytest.mark.skipif(not native.is_on(), reason="no fast path is on")


@needs_native
@pytest.mark.parametrize("what, value, gradient", [("loss", INF, 1.0), ("gradient", 1.0, INF), ("gradient", 1.0, 1e38)])
def test_a_number_that_plain_torch_does_not_lose_is_no_evidence_against_the_model(
    what, value, gradient, tiny, tmp_path, monkeypatch
):
    faulty(monkeypatch, 1, "mixer", lambda x: grows_in_fast_paths(x, value, gradient))
    record = train(plan(tiny), 0, tmp_path / "run")
    place = "blocks.1.mixer" if INF in (value, gradient) else ""
    assert (record.status, record.failure.what, record.failure.parameters) == ("failed", what, [])
    assert record.failure.where in (place, "objective")
    said = "with `ARCHBENCH_NATIVE=0` it is finite: a fast path is at fault, and not the model"
    assert record.failure.reason.startswith(f"{what} not finite at step 0") and record.failure.reason.endswith(said)
    assert record.failure.by_machine and RunRecord.read(tmp_path / "run").failure.by_machine
    assert native.is_on()
    monkeypatch.setenv("ARCHBENCH_NATIVE", "0")  # as it says, the run goes on so
    assert train(plan(tiny), 0, tmp_path / "run").status == "finished"


@needs_native
@pytest.mark.parametrize("caller", ["watch", "train"])
def test_a_metric_that_only_a_fast_path_loses_is_no_evidence_either(caller, tiny, tmp_path, monkeypatch):
    module = importlib.import_module(f"experiments.{caller}")
    original, measuring = module.explained, []

    def explained(*words, **more):
        measuring.append(True)
        try:
            return original(*words, **more)
        finally:
            measuring.pop()

    monkeypatch.setattr(module, "explained", explained)
    faulty(monkeypatch, 0, "ffn", lambda x: grows_in_fast_paths(x, INF, 1.0) if measuring else x)
    failure = train(plan(tiny), 0, tmp_path / "run").failure
    assert failure.what == "select/loss" and failure.where == "blocks.0.ffn" and failure.by_machine
    assert "ARCHBENCH_NATIVE=0" in failure.message


@needs_native
@pytest.mark.parametrize("value, gradient", [(1e12, 1.0), (1.0, 1e12)])
def test_numbers_that_plain_torch_barely_holds_are_the_models_fault(value, gradient, tiny, tmp_path, monkeypatch):
    """Two paths round otherwise, so near the end of float32 one of them overflows first: also inside, under a norm."""
    faults = {"value": INF if value > 1 else 1.0, "gradient": INF if gradient > 1 else 1.0}
    faulty(monkeypatch, 1, "mixer", lambda x: Grows.apply(grows_in_fast_paths(x, *faults.values()), value, gradient))
    with native.disabled():
        assert train(plan(tiny), 0, tmp_path / "plain").status == "finished"
    failure = train(plan(tiny), 0, tmp_path / "run").failure
    assert not failure.by_machine and "ARCHBENCH_NATIVE" not in failure.message


@needs_native
def test_all_micro_batches_are_done_again_and_what_comes_before_them_too(tiny, tmp_path, monkeypatch):
    from experiments.objectives.next_token import NextToken

    calls, prepared = [], []

    def second(x):
        calls.append(x)
        return grows_in_fast_paths(x, INF if len(calls) % 2 == 0 else 1.0, 1.0)

    def prepare(self, model, batch):
        prepared.append(native.is_on())
        return batch

    monkeypatch.setattr(NextToken, "prepare", prepare, raising=False)
    tiny["train"]["accumulate"] = 2
    faulty(monkeypatch, 0, "mixer", second)
    failure = train(plan(tiny), 0, tmp_path / "run").failure
    assert failure.by_machine and "ARCHBENCH_NATIVE=0" in failure.message
    assert prepared == [True, True, True, False]


def test_a_pass_is_done_again_with_its_random_numbers(tiny, tmp_path, monkeypatch):
    """Half of the draws overflow: another draw would be finite, and say nothing."""

    def draws(x):
        return x * (INF if x.requires_grad and torch.rand(()) < 0.5 else 1.0)

    faulty(monkeypatch, 0, "mixer", draws)
    ended = [train(plan(tiny), seed, tmp_path / f"run {seed}") for seed in range(4)]
    assert "failed" in {record.status for record in ended}
    assert not any(record.failure and record.failure.by_machine for record in ended)


def test_a_number_that_only_a_compiled_program_loses_names_that_setting(tiny, tmp_path, monkeypatch):
    from experiments import train as training

    def backend(graph, inputs):
        return lambda *given: [each * INF for each in graph.forward(*given)]

    def build(spec, seed):
        model = new_model(spec, seed)
        model.blocks[1].ffn.component.compile(backend=backend, dynamic=False)
        return model

    monkeypatch.setattr(training, "new_model", build)
    failure = train(plan(tiny), 0, tmp_path / "run").failure
    assert failure.by_machine and "with `train.compile: off` it is finite" in failure.message


def test_the_setting_that_turns_fast_paths_off_is_that_of_the_device(monkeypatch):
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert paths.switch(cuda) == ""
    monkeypatch.setenv("ARCHBENCH_TRITON", "1")
    assert paths.switch(cuda) == "ARCHBENCH_TRITON=0" and paths.switch(cpu) == ("ARCHBENCH_NATIVE=0" if native.is_on() else "")
    with paths.plain():
        assert paths.switch(cuda) == paths.switch(cpu) == ""


def test_a_number_that_is_finite_when_done_again_is_the_machines_fault(tiny, tmp_path, monkeypatch):
    calls = []

    def once(x):
        calls.append(x.requires_grad)
        return x * (INF if calls.count(True) == 1 else 1.0)

    faulty(monkeypatch, 0, "mixer", once)
    failure = train(plan(tiny), 0, tmp_path / "run").failure
    assert failure.message == "loss not finite at step 0; done again in the same way it is finite" and failure.by_machine


def test_the_model_is_to_blame_if_it_is_on_any_rank(monkeypatch):
    """A rank whose rows give finite numbers finds no fault; one that computes too little of the model does not know where."""
    told = [(4, "loss", "", (), "fine", nonfinite.MACHINE), (4, "loss", "norm", (), "kernel", nonfinite.PATH)]
    monkeypatch.setattr(nonfinite.ranks, "gathered", lambda mine: [*told, mine])
    of_model = nonfinite.NonFinite(4, "loss", "blocks.0.ffn")
    assert (nonfinite.agreed(of_model).where, nonfinite.agreed(of_model).fault) == ("blocks.0.ffn", nonfinite.MODEL)
    fine = nonfinite.NonFinite(4, "loss", note="fine", fault=nonfinite.MACHINE)
    assert (nonfinite.agreed(fine).where, nonfinite.agreed(fine).fault) == ("norm", nonfinite.PATH)


def test_infinities_that_stay_inside_of_a_part_are_not_named(tiny):
    """A mask of -inf is no fault: the output of what is around it is finite."""

    class Masked(torch.nn.Module):
        def forward(self, x):
            return x.masked_fill(x > 0, float("-inf"))

    class Around(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.mask, self.out = Masked(), torch.nn.Linear(4, 4)

        def forward(self, x):
            return self.out(self.mask(x).softmax(-1))

    model = torch.nn.Sequential(Around(), torch.nn.Linear(4, 4))
    with torch.no_grad():
        model[1].weight[0, 0] = float("nan")
    assert nonfinite.forward(model, lambda: model(torch.ones(2, 4) * torch.tensor([1.0, -1, 1, -1]))) == "1"
    with torch.no_grad():
        model[1].weight.zero_()
    assert nonfinite.forward(model, lambda: model(torch.ones(2, 4) * torch.tensor([1.0, -1, 1, -1]))) is None


def test_nothing_is_watched_while_numbers_are_finite(tiny, tmp_path, monkeypatch):
    def never(*words):
        raise AssertionError("a pass was done again")

    for name in ("forward", "backward"):
        monkeypatch.setattr(nonfinite, name, never)
    assert train(plan(tiny), 0, tmp_path / "run").status == "finished"


def test_hooks_are_removed_and_an_error_of_the_second_pass_hides_nothing(tiny):
    model = new_model(plan(tiny).spec.model, 0)

    def fails():
        model(torch.ones(1, 4, dtype=torch.long))
        raise RuntimeError("the second pass fails")

    assert nonfinite.forward(model, fails) is None and nonfinite.backward(model, fails) is None
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_a_metric_that_is_not_finite_names_its_part_too(tiny, tmp_path, monkeypatch):
    """The weights are bad after the last step: the select split's metric is the first number to show it."""
    tiny["optimizer"] |= {"lr": 1e36, "weight_decay": 10.0}
    tiny["train"]["steps"] = 1
    failure = train(plan(tiny), 0, tmp_path / "run").failure
    assert failure.what == "select/loss" and failure.step == 1 and failure.where and failure.parameters


def test_weights_that_are_not_finite_fail_a_run_whose_metrics_are_finite(tiny, tmp_path, monkeypatch):
    import experiments.train as training

    original = training.new_model

    def spoilt(self):
        with torch.no_grad():
            self.model.blocks[1].ffn.component.up.weight.view(-1)[0] = float("nan")

    monkeypatch.setattr(TrainingModule, "on_train_end", spoilt, raising=False)
    tiny["evaluate"] = {"every": 4, "select": {}, "report": {}}
    record = train(plan(tiny), 0, tmp_path / "run")
    assert training.new_model is original and record.status == "failed"
    assert record.failure.reason.startswith("weight not finite at step 12, first in blocks.1.ffn")
    assert record.failure.parameters == ["blocks.1.ffn.component.up.weight"]
    assert not (tmp_path / "run" / "model.safetensors").exists()


@pytest.fixture
def copying(plugins, tiny):
    """A task whose rows have no target: its weights are fine, and its loss on a split is not a number."""
    code = (plugins / "own_dataset.py").read_text()
    (plugins / "own_dataset.py").write_text(code.replace("targets[:, half - 1 : -1] = tokens[:, half:]", "pass"))
    tiny["data"] = {"source": {"type": "own_dataset:Copying"}, "context": 16, "rows": 4}
    tiny["objective"] = {"type": "own_objective:WithAccuracy"}
    tiny["evaluate"] = {"every": 100, "select": {}, "report": {"loss": {"type": "objective", "rows": 4}}}
    tiny["train"]["steps"] = 0
    return tiny


def test_a_failed_runs_weights_are_no_result_and_open_only_where_they_are_named(copying, tmp_path):
    run = tmp_path / "run"
    record = train(plan(copying), 0, run)
    assert record.status == "failed" and record.failure.what == "report/loss" and record.failure.where == "report.loss"
    aside = run / leftovers.FAILED
    assert not checkpoints.is_checkpoint(run) and checkpoints.is_checkpoint(aside)
    with pytest.raises(DataError) as caught:
        load_model(run)
    said = str(caught.value)
    assert "\n" not in said and "its run failed (report/loss not finite" in said and str(aside) in said
    assert torch.isfinite(checkpoints.load(aside).embedding).all()
    for load in (hf.load, checkpoints.open_checkpoint):  # `archbench generate` and `export`
        with pytest.raises(DataError, match=r"there is one in .*run/failed"):
            load(run)

    with pytest.raises(SpecError, match="its weights are no result") as refused:
        plan({**copying, "init_from": str(run)})
    assert refused.value.path == ("init_from",)
    assert plan({**copying, "init_from": str(aside)}).start


def test_what_an_earlier_start_left_is_gone_after_the_next(tiny, tmp_path):
    run = tmp_path / "run"
    finished = train(plan(tiny), 0, run)
    record = finished.model_copy(update={"status": "failed"})
    leftovers.set_aside(run)
    record.write(run)
    again = train(plan(tiny), 0, run)
    assert again.status == "finished" and again.metrics == finished.metrics
    assert not (run / leftovers.FAILED).exists() and load_model(run)


def spoil(folder, name, value=float("nan")):
    tensors = load_file(folder / "model.safetensors")
    tensors[name].view(-1)[0] = value
    save_file(tensors, folder / "model.safetensors")
    digests.discard(folder)


def test_a_checkpoint_with_a_bad_tensor_is_refused_with_its_name_before_anything_is_trained(tiny, tmp_path):
    train(plan(tiny), 0, tmp_path / "first")
    name = "blocks.1.mixer.component.q.weight"
    spoil(tmp_path / "first", name)
    with pytest.raises(SpecError) as caught:
        plan({**tiny, "init_from": str(tmp_path / "first")})
    assert caught.value.path == ("init_from",) and f"{name} has 1 of " in str(caught.value)
    with pytest.raises(SpecError) as caught:
        plan({**tiny, "init_from": [str(tmp_path / "first"), {"run": str(tmp_path / "first")}]})
    assert caught.value.path[:2] == ("init_from", 0)


def test_a_bad_tensor_that_the_model_does_not_take_does_no_harm(tiny, tmp_path):
    train(plan(tiny), 0, tmp_path / "first")
    spoil(tmp_path / "first", "blocks.1.ffn.component.up.weight")
    other = json.loads(json.dumps({**tiny, "init_from": str(tmp_path / "first")}))
    other["model"]["blocks"]["local"]["ffn"]["hidden"] = 20
    other["model"]["blocks"]["rec"] = {"like": "local", "mixer": {"type": "rg_lru", "blocks": 2}}
    assert "blocks.1.ffn.component.up.weight" in plan(other).start.new


def test_bad_weights_that_come_only_when_the_run_starts_end_it_before_its_first_step(tiny, tmp_path):
    """A run that was made for it (its identity and seed are what they should be, its weights are not finite)."""
    from experiments.start import Parent

    first = plan(tiny)
    train(first, 0, tmp_path / "first")
    second = plan({**tiny, "init_from": str(tmp_path / "first")})
    spoil(tmp_path / "first", "norm.weight")
    made = Parent(name="warm", folder=str(tmp_path / "first"), run=first.identity, seed=0)
    second = second.model_copy(update={"start": second.start.model_copy(update={"parents": (made,)})})
    failure = train(second, 0, tmp_path / "second").failure
    assert (failure.what, failure.where, failure.parameters, failure.step) == ("weight", "norm", ["norm.weight"], -1)
    assert failure.message.startswith("weight not finite before the first step, first in norm; ")
    assert str(tmp_path / "first") in failure.message


@pytest.mark.parametrize(
    "error, machine",
    [
        (OSError(28, "No space left on device"), True),
        (MemoryError(), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"), True),
        (DataError("the corpus has changed since the run was planned"), True),
        (RuntimeError("The size of tensor a (3) must match the size of tensor b (4)"), False),
        (ValueError("a mistake of the component"), False),
    ],
)
def test_a_failure_says_whether_the_machine_caused_it(error, machine, tiny, tmp_path, monkeypatch):
    def raises(self, batch, index):
        raise error

    monkeypatch.setattr(TrainingModule, "training_step", raises)
    failure = train(plan(tiny), 0, tmp_path / "run").failure
    assert failure.by_machine is machine and RunRecord.read(tmp_path / "run").failure.by_machine is machine
