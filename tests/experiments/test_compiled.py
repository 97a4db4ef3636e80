"""Compiled blocks give the same losses and gradients, each is compiled once, and the record says how blocks ran."""

import os
import re

import pytest
import torch

from arch.errors import SpecError
from arch.model import new_model
from experiments import compiled
from experiments.bench.run import check
from experiments.bench.sides import Ours
from experiments.bench.spec import BenchSpec
from experiments.checkpoint import load_model
from experiments.data.corpus import prepare
from experiments.objectives.next_token import NextToken
from experiments.plan import plan, resolve, worth
from experiments.train import train


@pytest.fixture
def forgetful(monkeypatch):
    """torch.compile with nothing compiled yet; its settings and environment are restored after the test."""
    monkeypatch.setattr(compiled, "_case", None)
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "set, so that it is restored")
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
    with torch._dynamo.config.patch(recompile_limit=8, fail_on_recompile_limit_hit=False):
        torch._dynamo.reset()
        yield
        torch._dynamo.reset()


@pytest.fixture
def traced(forgetful, monkeypatch):
    """Blocks are traced as usual but run by torch (`aot_eager`): this needs no C++ compiler and little time."""
    monkeypatch.setattr(compiled, "compiler", lambda device: "compiled by a test")
    with torch.compiler.set_stance(force_backend="aot_eager"):
        yield


def graphs():
    return torch._dynamo.utils.counters["stats"]["unique_graphs"]


def losses_and_gradients(tiny, compile=False, steps=1):
    """(the loss of the last step's batch, {parameter name: gradient})"""
    spec = resolve(tiny)
    corpus, model = prepare(spec.data, spec.model.vocab_size), new_model(spec.model, 0)
    if compile:
        compiled.compile_blocks(model, "cpu")
    objective = NextToken(NextToken.Config(), corpus)
    for step in range(steps):
        batch = corpus.batch("train", step, 0, spec.data.rows, spec.data.context)
        model.zero_grad()
        loss, _ = objective(model, batch)["loss"]
        loss.backward()
    return loss.detach(), {name: weight.grad for name, weight in model.named_parameters()}


def same_as_eager(tiny):
    tiny["model"]["blocks"]["local"]["mixer"]["qk_norm"] = True
    tiny["model"]["blocks"]["local"]["norm"] = "sandwich"
    loss, gradients = losses_and_gradients(tiny)
    with_compiled, others = losses_and_gradients(tiny, compile=True)
    torch.testing.assert_close(with_compiled, loss)
    assert list(others) == list(gradients)
    for name, gradient in gradients.items():
        assert (others[name] - gradient).norm() <= 1e-5 * gradient.norm() + 1e-7, name
    assert graphs() > 0


@pytest.mark.slow
def test_traced_blocks_equal_eager_ones(tiny, traced):
    same_as_eager(tiny)


@pytest.mark.slow
def test_compiled_blocks_equal_eager_ones(tiny, forgetful):
    try:
        compiled.compiler("cpu")
    except compiled.CompileError as error:
        pytest.skip(str(error))
    same_as_eager(tiny)
    assert any((compiled.cache.root() / compiled.FOLDER).rglob("*.so")), "the next process finds them"


@pytest.mark.parametrize("pattern", [["rec"], ["rec", "local", "global"]])
@pytest.mark.slow
def test_each_distinct_block_is_compiled_once(pattern, tiny, traced):
    """One layer per kind decides the number of programs; more layers, a layout's empty memo and more steps add none."""
    counts = []
    for layers in (len(pattern), 7):
        tiny["model"] |= {"pattern": pattern, "layers": layers}
        torch._dynamo.reset()
        before = graphs()
        losses_and_gradients(tiny, compile=True, steps=2)
        counts.append(graphs() - before)
    assert counts[0] == counts[1] > 0


def test_more_kinds_of_blocks_than_torch_compiles_by_default(tiny, traced):
    names = [f"ffn{i}" for i in range(10)]
    blocks = {name: {"ffn": {"type": "gated", "hidden": 8 + i}} for i, name in enumerate(names)}
    tiny["model"] |= {"blocks": blocks, "pattern": names, "layers": len(names)}
    before = graphs()
    losses_and_gradients(tiny, compile=True)
    assert graphs() - before == len(names), "none was left eager"


@pytest.mark.slow
def test_the_record_says_which_it_was_and_how_long_it_took(tiny, tmp_path, traced):
    tiny["model"] |= {"pattern": ["local"], "layers": 2}
    eager = train(plan(tiny), 0, tmp_path / "eager")
    assert eager.versions["blocks"] == "eager" and "compile_seconds" not in eager.timing
    tiny["train"]["compile"] = "on"
    before = graphs()
    record = train(plan(tiny), 0, tmp_path / "compiled")
    assert record.status == "finished", record.failure
    assert record.versions["blocks"] == "compiled by a test"
    assert 0 < record.timing["compile_seconds"] < record.timing["train_seconds"]
    assert record.metrics["report/loss"] == pytest.approx(eager.metrics["report/loss"], rel=1e-3)
    assert list(load_model(tmp_path / "compiled").state_dict()) == list(load_model(tmp_path / "eager").state_dict())
    assert record.sample, "a model with compiled blocks writes"
    whole = graphs() - before
    tiny["evaluate"] |= {"every": 1000, "sample_tokens": 0}
    torch._dynamo.reset()
    before = graphs()
    train(plan(tiny), 1, tmp_path / "less")
    assert graphs() - before == whole > 0, "evaluation, with other shapes and no gradients, compiles nothing"


def test_a_compiled_run_resumes_bit_for_bit(tiny, tmp_path, traced):
    tiny["train"]["compile"] = "on"
    tiny["model"] |= {"pattern": ["local"], "layers": 2}
    planned, asked = plan(tiny), []
    alone = train(planned, 0, tmp_path / "alone")

    def stop():
        asked.append(1)
        return len(asked) == 5

    assert train(planned, 0, tmp_path / "stopped", stop=stop).status == "interrupted"
    resumed = train(planned, 0, tmp_path / "stopped")
    assert resumed.status == "finished" and resumed.metrics == alone.metrics


def test_the_benchmark_compiles_as_training_does(tiny, traced):
    tiny["model"] |= {"pattern": ["local"], "layers": 2}
    weights = []
    for compile in (False, True):
        before, side = graphs(), Ours(resolve(tiny).model, torch.device("cpu"), "float32", compile=compile)
        step = side.training(2, 16)
        step()
        assert (graphs() > before) == compile
        weights.append(list(side.model.parameters()))
    for a, b in zip(*weights, strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-4)


def test_without_a_compiler_a_run_fails_and_says_what_to_do(tiny, tmp_path, forgetful, monkeypatch):
    from torch._inductor.exc import InvalidCxxCompiler

    def none():
        raise InvalidCxxCompiler

    monkeypatch.setattr("torch._inductor.cpp_builder.get_cpp_compiler", none)
    with pytest.raises(SpecError, match=r"^compile: no C\+\+ compiler"):
        check(BenchSpec(specs=("small/gemma3",), compile=True))
    tiny["train"] |= {"compile": "on", "steps": 2}
    failure = train(plan(tiny), 0, tmp_path / "run").failure
    assert failure.error == "CompileError" and "say `train.compile: off`" in failure.message


def test_the_compiler_is_named_by_its_release():
    try:
        said = compiled.compiler("cpu")
    except compiled.CompileError as error:
        pytest.skip(str(error))
    assert re.fullmatch(r"compiled by inductor, \S.*\d+\.\d+.*", said) and len(said) < 120


def test_a_failing_compiler_is_told_in_one_line(tiny, tmp_path, traced):
    tiny["train"]["compile"] = "on"

    def broken(graph, inputs):
        raise ValueError("cannot do that\nand much more")

    with torch.compiler.set_stance(force_backend=broken):
        failure = train(plan(tiny), 0, tmp_path / "run").failure
    assert failure.message.startswith("compiling the blocks failed: ") and "\n" not in failure.message
    assert "cannot do that" in failure.message and "`train.compile: off`" in failure.message


def test_off_leaves_identity_alone_and_auto_is_what_it_became(tiny):
    plain = plan(tiny)
    assert "compile" not in plain.spec.dump()["train"] and not plain.notes

    def with_compile(choice, **changes):
        tiny["train"] |= {"compile": choice, **changes}
        return plan(tiny)

    auto = with_compile("auto")
    assert with_compile("off").identity == plain.identity == auto.identity != with_compile("on").identity
    assert auto.spec == plain.spec and auto.notes[0].startswith("train.compile: auto became off: on a CPU")
    long = with_compile("auto", accelerator="gpu", steps=10**12)
    assert long.identity == with_compile("on").identity and long.spec.train.compile == "on"
    assert long.notes[0].startswith("train.compile: auto became on: ")


@pytest.mark.parametrize(
    "accelerator, steps, pays",
    [("cpu", 10**12, False), ("mps", 10**12, False), ("gpu", 9, False), ("gpu", 10**12, True)],
)
def test_where_compiling_pays(accelerator, steps, pays, tiny):
    tiny["train"] |= {"accelerator": accelerator, "steps": steps}
    assert worth(resolve(tiny))[0] == pays


def test_the_break_even_moves_with_devices_and_with_kinds_of_blocks(tiny):
    def least_steps():
        low, high = 1, 10**15
        while low < high:
            tiny["train"]["steps"] = middle = (low + high) // 2
            low, high = (low, middle) if worth(resolve(tiny))[0] else (middle + 1, high)
        return low

    tiny["train"]["accelerator"] = "gpu"
    three = least_steps()
    assert 1 < three < 10**15
    tiny["train"]["devices"] = 2
    assert least_steps() == pytest.approx(2 * three, rel=1e-6), "twice as fast, and no sooner compiled"
    tiny["model"]["pattern"] = ["rec"]
    assert least_steps() < three, "one kind of block instead of three"


def test_programs_are_kept_in_our_cache_unless_told_otherwise(tiny, traced, monkeypatch):
    from torch._inductor.runtime.cache_dir_utils import cache_dir

    model = new_model(resolve(tiny).model, 0)
    assert cache_dir() == os.environ["TORCHINDUCTOR_CACHE_DIR"], "torch writes its own choice there"
    compiled.compile_blocks(model, "cpu")
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(compiled.programs())
    assert compiled.programs().parent == compiled.cache.root() / "inductor"
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "/elsewhere")
    compiled.compile_blocks(model, "cpu")
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == "/elsewhere"


def test_each_cpu_type_has_programs_of_its_own(monkeypatch):
    """torch would take a program generated for another vector width, and it gives wrong numbers."""
    monkeypatch.delenv("ATEN_CPU_CAPABILITY", raising=False)
    folders = [compiled.programs()]
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "avx2")
    folders.append(compiled.programs())
    monkeypatch.setattr(compiled.native, "cpu", lambda: "another CPU")
    folders.append(compiled.programs())
    assert len(set(folders)) == 3 and compiled.programs() == folders[2]
