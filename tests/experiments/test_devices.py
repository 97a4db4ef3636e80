"""One run on several devices: two processes on the CPU compute what one computes, end together and resume bit for bit."""

import copy
import json
import os
import signal
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file
from two_processes import differences, on_two, torchrun

from arch.errors import DataError, SpecError
from experiments import ranks, sharded
from experiments.orders import ABANDON, PRUNE, STOP
from experiments.plan import plan, resolve
from experiments.record import RunRecord

STRATEGIES = ("ddp", "fsdp2")
# Sums in another order: rounding of float32 after some steps of AdamW, in weights of about 1 and losses of about 5.
WEIGHTS, LOSSES = 1e-5, 1e-5

BAD_MIXER = """
import os
import torch
from torch import nn
from arch.registry import mixer
from arch.spec import Spec

@mixer
class BadOnOneRank(nn.Module):
    class Config(Spec):
        after: int = 3

    causal, state_size = True, "constant"

    def __init__(self, config, context):
        super().__init__()
        self.config, self.passes = config, 0
        self.scale = nn.Parameter(torch.ones(context.dim))
        self.scale.kind, self.scale.draw = "vector", lambda tensor, generator: tensor.fill_(1.0)

    def init_state(self, batch, capacity, dtype=torch.float32, device=None):
        return ()

    def forward(self, x_BTD, layout, state=None):
        if self.training and not x_BTD.is_meta and os.environ.get("RANK") == "1":
            self.passes += 1
            if self.passes > self.config.after:
                return x_BTD * self.scale * float("inf"), state
        noise = 0.1 * torch.randn_like(x_BTD) if self.training and "RANK" in os.environ else 0.0
        return x_BTD * self.scale + noise, state
"""


@pytest.fixture(scope="module")
def small(corpus_file):
    """A complete experiment as plain data: attention and a recurrence, tied embeddings, clipping that takes effect."""
    attention = {"type": "attention", "heads": 2, "kv_heads": 1, "head_dim": 8, "window": 4}
    return {
        "model": {
            "dim": 16,
            "vocab_size": 300,
            "layers": 3,
            "pattern": ["rec", "local", "global"],
            "blocks": {
                "local": {"mixer": attention, "ffn": {"type": "gated", "hidden": 24}},
                "global": {"like": "local", "mixer": {"window": None}},
                "rec": {"like": "local", "mixer": {"type": "rg_lru", "blocks": 2}},
            },
        },
        "data": {
            "source": {"type": "text", "files": [str(corpus_file)], "field": "text"},
            "tokenizer": {"type": "byte"},
            "context": 32,
            "rows": 4,
        },
        "optimizer": {"lr": 3e-3, "clip": 0.5},
        "train": {"steps": 8, "checkpoint_every": 3},
        "evaluate": {"every": 4, "select_rows": 4, "report_rows": 4, "sample_tokens": 0},
    }


@pytest.fixture(scope="module")
def ran(small, tmp_path_factory):
    """(folder of all runs, {rank: {run: [status, failure, steps] of each start}}) of the cases below, in one start of two
    processes by torchrun.
    """
    from experiments.train import train

    root = tmp_path_factory.mktemp("devices")
    (root / "bad_mixer.py").write_text(BAD_MIXER)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ARCHBENCH_CACHE", str(root / "cache"))
        specs = {"hybrid": copy.deepcopy(small), "attention": copy.deepcopy(small), "distill": copy.deepcopy(small)}
        specs["attention"]["model"] |= {"pattern": ["local", "global"], "layers": 2, "tie_embeddings": False}
        specs["attention"]["train"]["accumulate"] = 2
        specs["distill"]["objective"] = {
            "type": "distill",
            "teacher": str(root / "hybrid"),
            "mode": "top_k",
            "k": 16,
            "cache": True,
        }
        # Rounded weights, in micro-batches too; a format with small steps, because a sum in another order may round otherwise.
        specs["quantised"] = copy.deepcopy(specs["attention"])
        specs["quantised"]["model"]["quantise"] = {"embedding": {"type": "sfp8"}, "matrix": {"type": "int8_block", "block": 8}}
        for name, spec in specs.items():
            assert train(plan(spec), 0, root / name).status == "finished"
        specs["bad"] = copy.deepcopy(small)
        specs["bad"]["model"]["blocks"]["noisy"] = {"mixer": {"type": "bad_mixer:BadOnOneRank"}}
        specs["bad"]["model"] |= {"pattern": ["local", "noisy"], "layers": 2}
        # A cache of its own: the two processes fill it.
        specs["distill"]["objective"]["k"] = 17
        patch.syspath_prepend(str(root))
        fine = copy.deepcopy(specs["bad"])
        fine["model"]["blocks"]["noisy"]["mixer"]["after"] = 1000
        cases = [{"folder": "quantised-ddp", "spec": on_two(specs["quantised"], "ddp")}]
        for strategy in STRATEGIES:
            cases += [{"folder": f"{name}-{strategy}", "spec": on_two(specs[name], strategy)} for name in ("hybrid", "attention")]
            cases.append({"folder": f"distill-{strategy}", "spec": on_two(specs["distill"], strategy)})
            cases.append({"folder": f"bad-{strategy}", "spec": on_two(specs["bad"], strategy)})
            noisy = on_two(fine, strategy)
            cases.append({"folder": f"noisy-{strategy}", "spec": noisy})
            cases += [
                {"folder": f"halted-{strategy}", "spec": noisy, "at": 5, "word": STOP},
                {"folder": f"halted-{strategy}", "spec": noisy},
            ]
            cases.append({"folder": f"pruned-{strategy}", "spec": noisy, "at": 2, "word": PRUNE})
            cases.append({"folder": f"abandoned-{strategy}", "spec": noisy, "at": 4, "word": ABANDON})
        for case in cases:  # planned here: what the mixer does in a rank is nothing that planning must see
            case["plan"] = plan(case.pop("spec")).dump()
        (root / "cases.json").write_text(json.dumps(cases))
        done = torchrun(root)
        assert done.returncode == 0, done.stderr[-3000:]
        distill = copy.deepcopy(specs["distill"])
        assert train(plan(distill), 0, root / "distill-17").status == "finished"
    return root, {rank: json.loads((root / f"ends-{rank}.json").read_text()) for rank in (0, 1)}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("case", "strategy"),
    [*((case, strategy) for case in ("hybrid", "attention", "distill") for strategy in STRATEGIES), ("quantised", "ddp")],
)
def test_two_processes_compute_what_one_computes(case, strategy, ran):
    """Weights and all metrics: accumulation, clipping, tied and untied embeddings, a teacher and its cache, rounded weights."""
    root, ends = ran
    assert ends[0][f"{case}-{strategy}"][0][0] == "finished", ends[0][f"{case}-{strategy}"]
    one, two = root / {"distill": "distill-17"}.get(case, case), root / f"{case}-{strategy}"
    weights, metrics = differences(one, two)
    # A weight between two codes is rounded the other way where a sum differs in its last bit, which depends on the CPU: one
    # such weight moves a gradient of norm 1.7 by 1e-4. A gradient that is summed wrongly is off by a factor.
    rounded = 10 if case == "quantised" else 1
    assert weights < rounded * WEIGHTS and metrics < LOSSES
    from pandas import read_parquet

    curves = [read_parquet(folder / "history.parquet") for folder in (one, two)]
    for column in ("train/loss", "grad_norm", "select/loss"):
        assert (curves[0][column] - curves[1][column]).abs().max() < rounded * 1e-4, column
    assert (curves[1]["grad_norm"] > 0.5).any()  # clipping took effect
    record = RunRecord.read(two)
    assert record.timing["processes"] == 2 and record.timing["memory/peak_bytes"] > 1e7 and record.threads == 1
    assert not [path.name for path in two.iterdir() if path.name.startswith(("ckpt-", ".ckpt-", "checkpoint"))]


@pytest.mark.slow
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_all_processes_end_at_the_same_step_and_a_stopped_run_resumes_bit_for_bit(strategy, ran):
    """Also the random numbers of each process, which are its own."""
    root, ends = ran
    assert [end[0] for end in ends[0][f"halted-{strategy}"]] == ["interrupted", "finished"]
    assert (root / f"halted-{strategy}/model.safetensors").read_bytes() == (
        root / f"noisy-{strategy}/model.safetensors"
    ).read_bytes()
    assert RunRecord.read(root / f"halted-{strategy}").metrics == RunRecord.read(root / f"noisy-{strategy}").metrics
    pruned = RunRecord.read(root / f"pruned-{strategy}")
    assert (pruned.status, pruned.steps) == ("pruned", 2) and not (root / f"pruned-{strategy}/model.safetensors").exists()
    assert RunRecord.read(root / f"abandoned-{strategy}").status == "running"  # nothing was written any more
    left = [path.name for path in (root / f"abandoned-{strategy}").iterdir()]
    if strategy == "fsdp2":  # what step 3 left, and nothing of step 4
        assert sharded.latest(root / "abandoned-fsdp2").name == "ckpt-3" and [name for name in left if "ckpt-" in name] == [
            "ckpt-3"
        ]
    else:
        assert "checkpoint.ckpt" in left


@pytest.mark.slow
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_number_that_is_not_finite_on_one_process_ends_all_with_one_record(strategy, ran):
    root, ends = ran
    for rank in (0, 1):
        status, failure, _ = ends[rank][f"bad-{strategy}"][0]
        assert status == "failed" and failure["what"] == "loss" and failure["where"] == "blocks.1.mixer", failure
    assert RunRecord.read(root / f"bad-{strategy}").failure.dump() == ends[0][f"bad-{strategy}"][0][1]


@pytest.mark.slow
def test_a_run_on_several_devices_is_a_checkpoint_like_any_other(ran):
    from arch import checkpoint
    from experiments.checkpoint import load_model

    root, _ = ran
    model = load_model(root / "hybrid-fsdp2")
    assert set(model.state_dict()) == set(load_file(root / "hybrid-fsdp2/model.safetensors"))
    assert checkpoint.open_checkpoint(root / "hybrid-fsdp2")[0] == model.spec


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true"])
def test_a_sharded_model_in_bf16_computes_what_one_process_computes_and_resumes_bit_for_bit(precision, small, tmp_path):
    """To the rounding of bfloat16, 2 ** -8 of a number: its metrics, and its weights, compared with how far training moved them."""
    from experiments.train import train

    spec = copy.deepcopy(small)
    spec["train"]["precision"] = precision
    first = copy.deepcopy(spec)
    first["train"]["steps"] = 0
    for folder, each in (("one", spec), ("start", first)):
        assert train(plan(each), 0, tmp_path / folder).status == "finished"
    shared = plan(on_two(spec, "fsdp2")).dump()
    cases = [{"folder": "two"}, {"folder": "halted", "at": 5, "word": STOP}, {"folder": "halted"}]
    (tmp_path / "cases.json").write_text(json.dumps([each | {"plan": shared} for each in cases]))
    done = torchrun(tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    ends = json.loads((tmp_path / "ends-0.json").read_text())
    assert [end[0] for end in (*ends["two"], *ends["halted"])] == ["finished", "interrupted", "finished"], ends
    _, metrics = differences(tmp_path / "one", tmp_path / "two")
    start, end, other = (load_file(tmp_path / run / "model.safetensors") for run in ("start", "one", "two"))
    total = lambda one, two: sum(float((one[name].double() - two[name].double()).abs().sum()) for name in one)  # noqa: E731
    assert metrics < 0.01 and total(end, other) < 0.1 * total(end, start)
    kinds = [
        {name: str(value.dtype) for name, value in load_file(tmp_path / run / "model.safetensors").items()}
        for run in ("one", "two")
    ]
    assert kinds[0] == kinds[1]
    halted, whole = (tmp_path / run / "model.safetensors" for run in ("halted", "two"))
    assert halted.read_bytes() == whole.read_bytes()


@pytest.mark.slow
def test_a_pool_starts_the_processes_itself_and_goes_on_after_one_dies(small, tmp_path):
    """A process that is killed ends its run's processes at once; the run goes on from its sharded checkpoint, with the curve of
    one process to rounding, and is told a word.
    """
    from pandas import read_parquet

    from experiments.train import train
    from sweeps.job import Job
    from sweeps.pool import Pool

    assert train(plan(small), 0, tmp_path / "one").status == "finished"
    job = Job("a", 0, plan(on_two(small, "fsdp2")), tmp_path / "a")
    left, events, killed = [job], [], []

    def report(event):
        events.append((event, time.monotonic()))
        if event.kind == "progress" and event.progress["step"] >= 4:
            if not killed:
                os.kill(a_rank(pool.workers[0].process.pid), signal.SIGKILL)
                killed.append(time.monotonic())
            elif event.progress["step"] < 8:
                pool.tell(job, PRUNE)

    with Pool(1) as pool:
        pool.run(lambda: left.pop() if left else None, report)
    ((again, at),) = [each for each in events if each[0].kind == "again"]
    assert "of 2 died of SIGKILL" in again.message and at > killed[0]
    outcome = events[-1][0].outcome
    # A run this short may have ended before it hears the word; a slow start hears it at its first step.
    assert outcome.status in ("pruned", "finished") and RunRecord.read(job.folder).status == outcome.status
    curve, other = (read_parquet(folder / "history.parquet") for folder in (job.folder, tmp_path / "one"))
    assert curve["step"].tolist() == list(range(1, len(curve) + 1)) and len(curve) >= 4
    for column in ("train/loss", "grad_norm", "select/loss"):
        assert (curve[column] - other[column][: len(curve)]).abs().max() < 1e-4, column


def a_rank(worker):
    """The process id of the last rank that a worker started."""
    ranks_of = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = path.read_text().rpartition(")")[2].split()[1]
            if parent == str(worker) and b"spawn_main" in (path.parent / "cmdline").read_bytes():
                ranks_of.append(int(path.parent.name))
        except OSError:
            continue
    return max(ranks_of)


def test_devices_nodes_and_sharding_decide_the_identity(small):
    def dumped(**train):
        spec = copy.deepcopy(small)
        spec["train"] |= train
        return plan(spec).identity

    one = dumped()
    assert one == dumped(strategy="ddp") == dumped(strategy="fsdp2") == dumped(nodes=1)
    two = dumped(devices=2)
    assert two == dumped(devices=2, strategy="ddp")
    assert len({one, two, dumped(devices=2, strategy="fsdp2"), dumped(nodes=2), dumped(devices=2, nodes=2)}) == 5


@pytest.mark.parametrize(
    "train, reason",
    [
        ({"strategy": "fsdp"}, "train.strategy: 'fsdp' is not one of them; did you mean 'fsdp2'"),
        ({"devices": 3}, "train.accumulate * train.devices = 3 must divide data.rows = 4"),
        ({"devices": 2, "nodes": 4}, "train.accumulate * train.devices * train.nodes = 8 must divide data.rows = 4"),
        ({"nodes": 0}, "train.nodes: "),
    ],
)
def test_what_cannot_be_shared_is_refused(train, reason, small):
    spec = copy.deepcopy(small)
    spec["train"] |= train
    with pytest.raises(SpecError) as refused:
        resolve(spec)
    assert reason in str(refused.value)


def test_nodes_need_somebody_who_starts_them_and_as_many_processes_as_the_spec_says(small, monkeypatch):
    spec = resolve(on_two(small, "ddp", nodes=2)).train
    with pytest.raises(SpecError, match=r"2 nodes, but nothing started this process as one of 4; start this command .*torchrun"):
        ranks.check_started(spec)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    monkeypatch.setenv("WORLD_SIZE", "3")
    monkeypatch.setenv("RANK", "2")
    with pytest.raises(SpecError, match="2 devices on 2 nodes need 4 processes, but 3 were started by torchrun"):
        ranks.check_started(spec)
    monkeypatch.setenv("WORLD_SIZE", "4")
    ranks.check_started(spec)
    assert ranks.number(spec) == 2


def test_a_checkpoint_of_another_number_of_processes_is_refused_and_kept(small, tmp_path):
    from experiments.train import train

    (tmp_path / "ckpt-3").mkdir()
    (tmp_path / sharded.POINTER).write_text(json.dumps({"folder": "ckpt-3", "processes": 4}))
    with pytest.raises(DataError, match="its checkpoint is of a run on 4 processes, this one has 1"):
        train(plan(small), 0, tmp_path)
    assert sharded.latest(tmp_path) == tmp_path / "ckpt-3" and RunRecord.read(tmp_path) is None
    sharded.discard(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_pointer_that_was_moved_names_the_checkpoint_that_counts(tmp_path):
    for step in (3, 6):
        scratch = tmp_path / f".ckpt-{step}.1"
        scratch.mkdir()
        (scratch / "part").write_text(str(step))
        if step == 6:  # as a process leaves it that is killed before it moves the pointer
            assert sharded.latest(tmp_path).name == "ckpt-3"
        sharded._point(tmp_path, scratch, f"ckpt-{step}", 2, {})
    assert sharded.latest(tmp_path) == tmp_path / "ckpt-6" and (tmp_path / "ckpt-6/part").read_text() == "6"
    assert sorted(path.name for path in tmp_path.iterdir()) == [sharded.POINTER, "ckpt-3", "ckpt-6"]
