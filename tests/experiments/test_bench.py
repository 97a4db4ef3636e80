"""The benchmark: what it compares, in which order and what it records. No test depends on speed."""

import importlib.util
import json
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from arch import cli, cost, document, registry
from arch.errors import SpecError
from arch.kernels import products as funnel
from arch.model import new_model
from arch.model_spec import ModelSpec
from experiments import __main__ as commands
from experiments import device, sampled
from experiments.bench import answers, ceilings, images, journal, kernels, models, products, quantised, workbench
from experiments.bench.child import ChildFailed, Lodger, in_child
from experiments.bench.peer import check_same, new_peer
from experiments.bench.peers import llama_cpp
from experiments.bench.peers.llama_cpp import LlamaCpp
from experiments.bench.profile import profiled
from experiments.bench.record import NAME, BenchRecord, Measurement, ratio
from experiments.bench.run import bench
from experiments.bench.sides import Ours, Peer, tokens_of
from experiments.bench.spec import KERNELS, MODELS, TARGETS, BenchSpec, Target
from experiments.bench.table import tables
from experiments.compiled import compiler
from experiments.memory import held_bytes

ROOT = Path(__file__).parent.parent.parent
SMALL = ("small/gemma3", "small/gemma2", "small/recurrentgemma")
CPU = torch.device("cpu")
TINY = {"dim": 32, "vocab_size": 64}
TINIER = {
    "small/gemma3": {"blocks.local.mixer.heads": 2, "blocks.local.mixer.head_dim": 16, "blocks.local.mixer.window": 8},
    "small/gemma2": {"blocks.local.mixer.heads": 2, "blocks.local.mixer.head_dim": 16, "blocks.local.mixer.window": 8},
    "small/recurrentgemma": {
        "blocks.recurrent.mixer.blocks": 2,
        "blocks.attention.mixer.heads": 2,
        "blocks.attention.mixer.head_dim": 16,
        "blocks.attention.mixer.window": 8,
    },
}


def tiny(name, **changes):
    """A shipped small spec, made even smaller."""
    ffn = "blocks.recurrent.ffn.hidden" if "recurrent" in name else "blocks.local.ffn.hidden"
    return kernels.shipped(name, **TINY, **TINIER[name], **{ffn: 48}, **changes)


def transformers():
    return pytest.importorskip("transformers")


@pytest.mark.parametrize("name", SMALL)
def test_the_product_floor_has_the_flops_of_the_step(name):
    step = Ours(tiny(name), CPU, "float32").training(2, 24)
    found = products.noted(step)
    with FlopCounterMode(display=False) as counter:
        step()
    counted = counter.get_flop_counts()["Global"]
    own = sum(flops for op, flops in counted.items() if not str(op).startswith("archbench."))
    assert found.flops == own > 0
    with FlopCounterMode(display=False) as counter:
        products.alone(found.products, CPU)()
    assert counter.get_total_flops() == found.flops


def test_the_product_floor_runs_the_same_shapes_strides_and_types():
    step = Ours(tiny("small/gemma3"), CPU, "bfloat16").training(2, 24)
    found = products.noted(step)
    again = products.noted(products.alone(found.products, CPU))
    assert again.products == found.products and not again.opaque
    dtypes = {value.dtype for each in found.products for value in each.args if isinstance(value, products.Operand)}
    multiplied = torch.bfloat16 if funnel.unit() else torch.float32  # without a unit, factors are widened
    assert multiplied in dtypes <= {torch.bfloat16, torch.float32}


def test_what_the_floor_cannot_see_is_named():
    found = products.noted(Ours(tiny("small/recurrentgemma"), CPU, "float32").training(1, 24))
    assert any("rg_lru" in name for name in found.opaque)


def test_sides_take_turns():
    called, seconds = [], {"a": [], "b": [], "c": []}
    journal.in_turns({side: lambda side=side: called.append(side) for side in seconds}, seconds, repeats=4)
    assert "".join(called) == "abc" * 5, "one round to warm up, then four"
    assert {len(each) for each in seconds.values()} == {4}


def test_a_slow_measurement_ends_after_its_third_round():
    seconds = {"a": []}
    journal.in_turns({"a": lambda: None}, seconds, repeats=50, limit=0.0)
    assert len(seconds["a"]) == journal.FEWEST_ROUNDS


def test_a_short_measurement_goes_on_for_as_long_as_it_must():
    seconds = {"a": []}
    journal.in_turns({"a": lambda: time.sleep(0.001)}, seconds, repeats=3, least=0.05)
    assert 3 < len(seconds["a"]) <= 50


@pytest.mark.parametrize("name", SMALL)
def test_the_peer_is_the_same_model(name):
    transformers()
    ours, theirs = Ours(tiny(name), CPU, "float32"), Peer(tiny(name), CPU, "float32")
    check_same(ours.model, theirs.model, name)
    count = [sum(weight.numel() for weight in side.model.parameters()) for side in (ours, theirs)]
    assert count[0] == count[1] == cost.summary(tiny(name), 8)["parameters"]["total"]
    config = theirs.model.config
    assert config._attn_implementation == ("eager" if name == "small/gemma2" else "sdpa")
    if name == "small/gemma2":
        assert (config.attn_logit_softcapping, config.final_logit_softcapping) == (50.0, 30.0)


def test_another_model_is_refused_with_what_differs():
    transformers()
    other = new_peer(tiny("small/gemma3", layers=5))
    with pytest.raises(SpecError, match=r"the peer is another model: .* parameters here"):
        check_same(Ours(tiny("small/gemma3"), CPU, "float32").model, other, "small/gemma3")


def test_a_model_that_the_peer_does_not_have_is_refused():
    data = {"dim": 8, "vocab_size": 9, "layers": 1, "pattern": ["f"], "blocks": {"f": {"ffn": {"type": "gated", "hidden": 8}}}}
    transformers()
    with pytest.raises(SpecError, match="no class of transformers can express this model"):
        new_peer(registry.resolve(ModelSpec.parse(data), data))


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("side", [Ours, Peer])
def test_decoding_after_a_prompt_says_what_reading_all_of_it_says(name, side):
    """Decoding gives the next token of one long prefill, on both sides; our cache has the size that arch.cost gives."""
    transformers()
    made, spec = side(tiny(name), CPU, "float32"), tiny(name)
    prompt_BT = tokens_of(spec, 2, 20, CPU)
    made.fill(prompt_BT, further=4)
    read_BT = torch.cat([prompt_BT, made.next_B1], dim=1)
    for _ in range(3):
        made.decode(1)
        read_BT = torch.cat([read_BT, made.next_B1], dim=1)
    made.fill(read_BT[:, :-1], further=1)
    assert torch.equal(made.next_B1, read_BT[:, -1:])
    if side is Ours:
        made.fill(prompt_BT, further=4)
        kept = models.cache_of(made, spec, {}, 24, 2, "float32")
        assert kept.values == [kept.facts["arch.cost"]] == [2 * cost.cache_bytes(spec, 24)["total"]]


def test_both_sides_of_the_loss_agree():
    paths = kernels.loss_paths(50, CPU, tokens=16)
    gradients = []
    for side in ("ours", "plain"):
        paths[side]()
        gradients.append([weight.grad.clone() for weight in (*paths["weights"].parameters(), paths["inputs"])])
    assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(*gradients, strict=True))


@pytest.mark.parametrize("side", ["ours", "plain"])
def test_what_a_loss_takes_is_not_hidden_in_freed_memory(side):
    """With so few tokens, each path holds all logits and at most a few times as much memory."""
    tokens, vocabulary = 256, 65_536
    extra = in_child(kernels.loss_memory, side, vocabulary, "cpu", tokens)["extra"]
    assert 0.9 < extra / (4 * tokens * vocabulary) < 8


def test_the_profile_divides_the_whole_step():
    found = profiled(Ours(tiny("small/recurrentgemma"), CPU, "float32").training(1, 24), {"spec": "x", "context": 24}, CPU)
    assert sum(found.kinds.values()) == pytest.approx(found.seconds, rel=0.05)
    assert {"matrix products", "recurrence", "optimizer", "element-wise"} <= set(found.kinds)


def test_lightning_and_the_bare_loop_do_the_same_steps(tmp_path, monkeypatch):
    monkeypatch.setitem(workbench.TRIVIAL, "train", {"steps": 5})
    kept = journal.Journal(BenchRecord(status="running", asked={}), tmp_path, lambda line: None)
    workbench.lightning(kept, BenchSpec(measure=("lightning",), repeats=2))
    assert [(each.side, len(each.values), each.work) for each in kept.record.measurements] == [
        ("lightning", 2, 4.0),
        ("bare", 2, 4.0),
    ]


def test_one_function_in_a_process_of_its_own():
    assert in_child(divmod, 7, 2) == (3, 1)
    with pytest.raises(ChildFailed, match="ZeroDivisionError"):
        in_child(divmod, 7, 0)
    with pytest.raises(ChildFailed, match="ended with 3"):
        in_child(os._exit, 3)


def test_an_object_that_takes_its_turns_in_an_untouched_process():
    settings = dict(os.environ)
    with Lodger(Counter, "aab") as lodger:
        assert lodger.call("most_common", 1) == [("a", 2)] and lodger.call("total") == 3
        process = lodger.process
        assert 0 < lodger.seconds() < 600
        with pytest.raises(ChildFailed, match="no attribute 'none'"):
            lodger.call("none")
        with pytest.raises(ChildFailed, match="its process ended with 0"):
            lodger.call("total")
    assert not process.is_alive() and settings == dict(os.environ)
    with pytest.raises(ChildFailed, match="TypeError"):
        Lodger(Counter, 3)


@pytest.mark.slow
def test_the_peer_as_it_comes_is_the_same_model_and_is_timed_as_well(tmp_path, spec_file):
    transformers()
    measured = bench(asked(spec_file, against="hf", stock=True, measure=["train", "decode"]), tmp_path, tell=lambda line: None)
    assert measured.status == "finished" and measured.peers() == [("hf", "", "hf"), ("hf stock", " stock", "hf")], measured.failures
    assert {each.what for each in measured.measurements if each.side == "hf" and "stock" in each.what} == {
        f"{what} stock" for what in ("train", "prefill", "decode")
    }
    assert measured.speedup("train stock", "ours", "hf", spec=spec_file, context=16).rounds == 3
    assert tables(measured)


def asked(spec, **changes):
    whole = {"specs": [spec], "contexts": [16], "decode_contexts": [10], "batches": [2], "decode_tokens": 2}
    return whole | {"tokens": 32, "repeats": 3, "threads": 1} | changes


@pytest.fixture
def spec_file(tmp_path, monkeypatch):
    """The path of a user's spec; the ceilings are made small, so that they take no time."""
    monkeypatch.setattr(ceilings, "SQUARE", {"cpu": 32})
    monkeypatch.setattr(ceilings, "ELEMENTS", {"cpu": 1024})
    path = tmp_path / "own.yaml"
    changes = TINY | TINIER["small/gemma3"]
    lines = ["extends: small/gemma3", *(f"{key}: {value}" for key, value in TINY.items())]
    inner = ", ".join(f"{key.rpartition('.')[2]}: {value}" for key, value in changes.items() if "mixer" in key)
    path.write_text("\n".join([*lines, f"blocks: {{local: {{mixer: {{{inner}}}, ffn: {{hidden: 48}}}}}}"]))
    return str(path)


def test_a_record_holds_every_timing_and_comes_back_whole(tmp_path, spec_file):
    record = bench(asked(spec_file, measure=["train", "decode", "profile"]), tmp_path / "out", tell=lambda line: None)
    assert record.status == "finished" and not record.failures
    assert BenchRecord.read(tmp_path / "out") == record == BenchRecord.read(tmp_path / "out" / NAME)
    said = Counter((each.what, each.side) for each in record.measurements)
    assert set(said) >= {("train", "ours"), ("train", "products"), ("prefill", "ours"), ("decode", "ours"), ("cache", "ours")}
    assert all(len(each.values) == 3 for each in record.measurements if each.unit == "s")
    assert record.speedup("train", "ours", "products", spec=spec_file, context=16).rounds == 3
    assert record.specs[spec_file]["dim"] == 32 and f"{spec_file}@16" in record.costs
    assert {"flush_denormal", "mallopt", "preloaded"} == set(record.allocator) and record.versions["torch"]
    json.dumps(record.dump(), allow_nan=False)
    assert tables(record)


def test_what_fails_is_named_and_the_rest_is_measured(tmp_path, spec_file, monkeypatch):
    def broken(*arguments):
        raise RuntimeError("no memory for that")

    monkeypatch.setattr(models, "training", broken)
    record = bench(asked(spec_file, measure=["train", "decode"]), tmp_path, tell=lambda line: None)
    assert record.status == "failed" and "no memory for that" in record.failures[0].message
    assert record.find("decode", "ours")


def test_an_interrupted_benchmark_keeps_what_it_measured(tmp_path, spec_file, monkeypatch):
    rounds = []

    def decode(self, count):
        rounds.append(count)
        if len(rounds) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(Ours, "decode", decode)
    with pytest.raises(KeyboardInterrupt):
        bench(asked(spec_file, measure=["decode"]), tmp_path, tell=lambda line: None)
    record = BenchRecord.read(tmp_path)
    assert record.status == "interrupted" and record.ended
    assert len(record.find("prefill", "ours").values) == 3 and len(record.find("decode", "ours").values) == 1


@pytest.mark.slow
def test_an_interrupt_on_the_command_line(tmp_path, spec_file):
    (tmp_path / "bench.yaml").write_text("contexts: [16]\ntokens: 32\nmeasure: [train]\nrepeats: 1000000\nseconds: 1000\n")
    command = [sys.executable, "-u", "-m", "experiments", "bench", spec_file, "--spec", str(tmp_path / "bench.yaml")]
    command += ["--out", str(tmp_path / "out")]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not (tmp_path / "out" / NAME).exists() and process.poll() is None:
        time.sleep(0.1)
    time.sleep(1)
    process.terminate()  # like Ctrl-C, but works even if the shell that runs the tests ignores SIGINT
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in err
    assert BenchRecord.read(tmp_path / "out").status == "interrupted" and "bench.json" in out


def command(*arguments):
    line = [sys.executable, "-m", "experiments", "bench", *arguments]
    return subprocess.run(line, cwd=ROOT, check=False, capture_output=True, text=True)


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["small/gemma3", "--set", "contexts=[1000]"], "--set contexts=[1000]: contexts: 1000 does not divide tokens = 4096"),
        (["small/gemna3"], "did you mean 'small/gemma3'"),
        (["--set", "specs=[small/gemna3]"], "--set specs=[small/gemna3]: specs.0: no shipped spec"),
        (["small/gemma3", "--set", "measure=[trian]"], "measure.0: 'trian' is not one of them; did you mean 'train'"),
        (["small/gemma3", "--set", "against=jax"], "--set against=jax: against.0: 'jax'"),
        (["small/gemma3", "--set", "measures=[train]"], "measures: unknown key; did you mean 'measure'"),
        (["--set", "measure=[train]"], "name a model spec"),
        (["small/gemma3", "--set", "stock=true"], "expected `against: hf` too"),
        (["--set", "stock"], "--set stock: expected KEY=VALUE"),
        (["--set", "specs=[a"], "--set specs=[a: not valid YAML"),
        (["--spec", "cpus"], "no shipped spec 'cpus' (a path must end in .yaml); did you mean 'cpu'"),
    ],
)
def test_bad_arguments_are_one_message(arguments, said, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["experiments", "bench", *arguments])
    with pytest.raises(SystemExit) as end:
        cli.main(commands.app, "experiments")
    shown = capsys.readouterr().err
    assert end.value.code == 2 and said in shown and "Traceback" not in shown


def test_a_file_that_extends_a_shipped_benchmark_is_checked_by_line(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("extends: cpu\nspecs: [small/gemma3]\ndecode_contexts: [0]\n")
    with pytest.raises(SpecError, match=r"mine\.yaml:3: decode_contexts\.0: should be greater"):
        bench(document.load(str(path), "bench"), tmp_path / "out")
    path.write_text("extends: kernels\nspecs: [nothing.yaml]\n")
    with pytest.raises(SpecError, match=r"mine\.yaml:2: specs\.0: no such file"):
        bench(document.load(str(path), "bench"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_shipped_benchmarks_are_valid_and_cpu_measures_every_target():
    found = {name: BenchSpec.parse(document.load(name, "bench")) for name in document.shipped("bench")}
    assert set(found) == {
        "cpu",
        "distillation",
        "gpu",
        "kernels",
        "peers",
        "decode",
        "precisions",
        "encoding",
        "quantised",
        "images",
        "answers",
    }
    assert set(found["cpu"].specs) == set(SMALL) and {*MODELS, *KERNELS} == set(found["cpu"].measure)
    assert found["cpu"].against and found["cpu"].stock and found["cpu"].compile
    assert found["gpu"].device == "cuda"


def test_a_peer_that_is_not_installed_names_the_command_to_install_it(monkeypatch, tmp_path):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SpecError, match=r"against: needs .*pip install -e '.\[parity\]'"):
        bench(asked("small/gemma3", against="hf"), tmp_path)


def test_peers_are_named_once_or_several_times_and_by_an_option():
    for given, names in ((None, ()), ("hf", ("hf",)), (["llama.cpp", "hf-compiled"], ("llama.cpp", "hf-compiled"))):
        assert BenchSpec.parse({"specs": ["small/gemma3"], "against": given}).against == names
    done = command("small/gemma3", "--against", "llama.cp")
    assert done.returncode == 2 and "against.0: 'llama.cp' is not one of them; did you mean 'llama.cpp'" in done.stderr
    assert BenchRecord(status="finished", asked={"against": "hf"}).against() == ["hf"], "a record of an earlier benchmark"
    assert BenchRecord(status="finished", asked={"against": None}).against() == []


def test_what_is_not_installed_is_left_out_and_the_record_says_so(monkeypatch, tmp_path, spec_file):
    found = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name in ("llama_cpp", "x_transformers") else found(name))
    transformers()
    wanted = asked(spec_file, against=["hf", "llama.cpp", "x-transformers"], measure=["train", "decode"])
    record = bench(wanted, tmp_path, tell=lambda line: None)
    assert record.status == "finished" and record.find("train", "hf") and record.find("decode", "hf")
    assert record.notes == [
        f"{peer}: not measured: it needs the package {package}: pip install -e '.[peers]'"
        for peer, package in (("llama.cpp", "llama_cpp"), ("x-transformers", "x_transformers"))
    ]
    assert tables(record)
    with pytest.raises(SpecError, match=r"against: needs the package llama_cpp: pip install -e '.\[peers\]'"):
        bench(asked(spec_file, against="llama.cpp"), tmp_path / "none")


def test_further_types_of_weights_take_turns(tmp_path, spec_file):
    record = bench(asked(spec_file, measure=["decode"], decode_types=["float32", "bfloat16"]), tmp_path, tell=lambda line: None)
    sides = {(each.what, each.side): each for each in record.measurements}
    assert {("decode", "ours"), ("decode", "ours bfloat16"), ("prefill", "ours bfloat16")} <= set(sides)
    assert record.types() == [("float32", ""), ("bfloat16", " bfloat16")]
    assert record.speedup("decode", "ours bfloat16", "ours", spec=spec_file).rounds == 3
    assert tables(record)


@pytest.mark.slow
def test_how_else_a_model_trains_is_timed_and_weighed_and_is_no_other_model(tmp_path, spec_file):
    record = bench(
        asked(spec_file, measure=["train", "memory"], precisions=["products", "bf16-mixed"]), tmp_path, tell=lambda line: None
    )
    assert not record.failures
    for what in ("train", "memory"):
        assert {"ours", "ours products", "ours bf16-mixed"} <= {each.side for each in record.measurements if each.what == what}
    columns = [column.header for column in tables(record).renderables[1].columns]
    assert {"products tokens/s", "bf16-mixed tokens/s", "ours bf16-mixed memory"} <= set(columns)
    losses = {kind: float(loss_of(tiny("small/gemma3"), kind)) for kind in (None, "products", "bf16-mixed")}
    assert len(set(losses.values())) == 3 and max(losses.values()) - min(losses.values()) < 0.02
    with pytest.raises(SpecError, match="precisions: these are of a CPU with float32 weights"):
        BenchSpec.parse({"measure": ["scan"], "precisions": ["products"], "dtype": "bfloat16"})


def loss_of(spec, kind):
    return Ours(spec, CPU, "float32", precision=kind)._mean_loss(tokens_of(spec, 2, 16, CPU))().detach()


@pytest.mark.slow
def test_a_compiled_peer_computes_the_eager_ones_loss(tmp_path):
    transformers()
    compiler("cpu")
    spec, losses = tiny("small/gemma3", layers=1), []
    for how in ({}, {"compile": True}, {"compile": True, "autocast": True}):
        torch.manual_seed(0)
        losses.append(Peer(spec, CPU, "float32", **how)._mean_loss(tokens_of(spec, 1, 24, CPU))().item())
    assert losses[1] == pytest.approx(losses[0], rel=1e-4) and losses[2] == pytest.approx(losses[0], rel=0.02)


@pytest.mark.parametrize("dtype, bound", [("float32", 2e-3), ("bfloat16", 1e-2)])
@pytest.mark.parametrize("name", ["small/gemma3", "small/gemma2"])
def test_llama_cpp_computes_the_same_model(name, dtype, bound):
    """Its GELU is a table of float16; bfloat16 weights beside float16 keys and values."""
    pytest.importorskip("llama_cpp")
    spec = tiny(name)
    with Lodger(LlamaCpp, spec.dump(), "cpu", dtype, 1) as peer:
        peer.call("fill", 2, 30, 4)
        peer.call("decode", 2)
        theirs = torch.tensor(peer.call("scores"))
    ours = Ours(spec, CPU, dtype)
    ours.model.float()
    ours.fill(tokens_of(spec, 2, 30, CPU), 4)
    ours.decode(1)
    logits_B1V = ours.model.decode(ours.next_B1, ours.state)[0]
    assert (logits_B1V[:, 0] - theirs).abs().max() <= bound * theirs.abs().max()


def test_llama_cpp_is_measured_only_with_what_it_computes():
    q4 = {"quantise.matrix.type": "q4_0"}
    for name, changes, reason in (
        ("small/gemma3", {"pattern": ["local"]}, "blocks.local.mixer.window: llama.cpp's gemma3 has both kinds of layers"),
        ("small/recurrentgemma", {}, "blocks.recurrent.mixer.type: "),
        ("small/gemma3", q4, "quantise: llama.cpp is measured with float weights"),
    ):
        with pytest.raises(SpecError, match=reason):
            llama_cpp.check(tiny(name, **changes))
    llama_cpp.check(tiny("small/gemma3"))


def test_steps_with_rounded_weights_stand_beside_a_plain_one(tmp_path, spec_file):
    record = bench(asked(spec_file, measure=["quantise"]), tmp_path / "out", tell=lambda line: None)
    found = {each.side for each in record.measurements if each.what == "quantised step"}
    assert record.status == "finished" and found == {"plain", "int4_channel", "sfp8"}
    assert record.speedup("quantised step", "plain", "sfp8", spec=spec_file, context=16).rounds == 3
    left = [note for note in record.notes if "not measured: matrix: q4_0 needs rows of a multiple of 32 values" in note]
    assert len(left) == 1 and len(record.notes) == 2
    plain = tiny("small/gemma3")
    assert quantised.rounded(quantised.rounded(plain, "sfp8"), None) == plain


SIGLIP = {"type": "siglip", "image_size": 8, "patch": 2, "dim": 16, "layers": 1, "heads": 2, "hidden": 24, "tokens": 4}
SEEING = {"vision": {**SIGLIP, "frozen": False, "placeholder": 4}}


def test_steps_with_images_stand_beside_steps_of_text(tmp_path, spec_file):
    seeing = tmp_path / "seeing.yaml"
    seeing.write_text(Path(spec_file).read_text() + f"\nvision: {json.dumps(SEEING['vision'])}\n")
    record = bench(asked(str(seeing), measure=["images"], contexts=[32]), tmp_path / "out", tell=lambda line: None)
    found = {each.side: each for each in record.measurements if each.what == "images"}
    assert record.status == "finished" and set(found) == {"text", "images", "products"}
    assert found["images"].facts["images"] == 2
    target = next(each for each in TARGETS if each.what.startswith("step with images over"))
    more = found["images"].facts["flops"] / found["text"].facts["flops"]
    assert target.measured(record).median == pytest.approx(record.speedup("images", "text", "images").median / more)


def test_the_flops_of_images_are_those_that_a_step_does():
    """Counted while the tower runs. But pixels have no gradient, and the backward pass of attention computes its scores again."""
    spec = tiny("small/gemma3", **SEEING)
    ours, batch = Ours(spec, CPU, "float32"), images.with_images(spec, 2, 32, CPU)
    pixels_BI3SS = batch["text"].extra["images"]
    assert pixels_BI3SS.shape == (2, 2, 3, 8, 8)
    done = products.noted(lambda: ours.model.vision(pixels_BI3SS.flatten(0, 1)).sum().backward()).flops
    tower = 4 * cost.summary(spec, 32)["vision"]["flops_per_image"]["train"]
    patches, values, width = 16, 3 * 2**2, 16
    assert done == tower + 4 * 2 * (patches**2 * width - patches * values * width)
    ahead = 2 * 3 * cost.looking_ahead(spec, batch["text"].layout.image_BT[:1])
    assert images.flops(spec, batch) - images.text_flops(spec, 2, 32) == tower + ahead > tower
    with pytest.raises(SpecError, match="an image has 4 tokens, which is over a quarter of 8"):
        images.with_images(spec, 2, 8, CPU)


def test_answers_are_drawn_beside_plain_generation(tmp_path, spec_file):
    record = bench(asked(spec_file, measure=["answers"]), tmp_path / "out", tell=lambda line: None)
    found = {each.side: each for each in record.measurements if each.what == "answers"}
    assert record.status == "finished" and set(found) == {"answers", "generate"}
    assert {each.work for each in found.values()} == {4}
    spec = tiny("small/gemma3")
    rows, dataset = answers.prompts(tokens_of(spec, 3, 10, CPU), spec.vocab_size, 5)
    wrote = sampled.answers(new_model(spec, 0).eval(), rows, dataset, 1.0, 5)
    assert [len(text.split()) for text in wrote.texts] == [5, 5, 5] and not wrote.ended_B.any()
    assert [(targets >= 0).sum().item() for targets in wrote.rows.targets_BT] == [5, 5, 5]


def test_what_other_programs_take_is_told():
    assert journal.others_share((10.0, 5.0, 1.0), (11.0, 8.0, 2.0)) == pytest.approx(0.5)
    assert journal.others_share((0.0, 0.0, 0.0), (1.0, 1.0, 1.02)) == 0.0
    record = BenchRecord(status="finished", asked={})
    quiet, loud = (Measurement(what="x", side="a", values=[1.0], others=share) for share in (0.01, 0.5))
    assert not record.model_copy(update={"measurements": [quiet]}).disturbed()
    assert "up to 50%" in record.model_copy(update={"measurements": [quiet, loud]}).disturbed()


def test_ratios_pair_the_rounds():
    fast = Measurement(what="train", side="ours", values=[1.0, 2.0, 4.0], work=8.0)
    slow = Measurement(what="train", side="hf", values=[3.0, 6.0, 12.0], work=8.0)
    found = ratio(fast, slow)
    assert (found.median, found.low, found.high, found.rounds) == (3.0, 3.0, 3.0, 3)
    assert ratio(fast, None) is None and ratio(slow, fast).median == pytest.approx(1 / 3)


def test_a_target_says_by_how_much_it_is_missed():
    made = [Target("x", None, least=3.0), Target("x", None, most=2.0), Target("x", None, exactly=1.0)]
    found = ratio(Measurement(what="x", side="a", values=[1.0]), Measurement(what="x", side="b", values=[2.5]))
    assert [target.met(found) for target in made] == [False, False, False]
    assert [target.missing(found) for target in made] == ["short by 1.20x", "short by 1.25x", "from 2.5 to 2.5"]


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_every_target_finds_what_the_benchmark_measures(made_up_benchmark, device):
    """Targets and measurements use the same names: no target looks for a measurement that never exists."""
    record = made_up_benchmark(device)
    unanswered = [target.what for target in TARGETS if target.hardware == device and target.measured(record) is None]
    assert not unanswered


def test_shipped_small_models_are_the_shapes_of_the_targets():
    for name in SMALL:
        spec = registry.resolve(ModelSpec.parse(document.load(name, "arch")), document.load(name, "arch"))
        mixers = [spec.blocks[block].mixer for block in spec.layer_blocks()]
        heads = {(m["heads"], m["kv_heads"], m["head_dim"]) for m in mixers if m["type"] == "attention"}
        assert (spec.dim, spec.layers, spec.vocab_size, heads) == (256, 6, 4096, {(4, 1, 64)})
        assert {block.ffn["hidden"] for block in spec.blocks.values()} == {1024}
        assert {m.get("window") for m in mixers if m["type"] == "attention"} <= {128, None}


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the system does not say how much memory is held")
def test_freed_memory_goes_back_when_it_is_released():
    device.setup(torch.get_num_threads())
    pieces = [torch.ones(1 << 18) for _ in range(200)]
    last, held = pieces[-1], held_bytes(CPU)
    size = sum(piece.nbytes for piece in pieces)
    del pieces
    device.release_memory()
    assert held_bytes(CPU) < held - 0.9 * size and last.sum() == 1 << 18
