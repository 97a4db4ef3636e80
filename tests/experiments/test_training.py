"""Training: exact sums, weight decay by kind of parameter, schedules, and what is not part of a run's identity."""

import copy
import gc
import math
import weakref
from itertools import pairwise
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from arch import document, registry
from arch.errors import SpecError
from arch.model import new_model
from arch.spec import digest
from experiments.data.corpus import prepare
from experiments.objectives.next_token import NextToken
from experiments.optimizers.adamw import AdamW
from experiments.plan import plan, resolve
from experiments.record import RECORDS, RunRecord
from experiments.spec import ExperimentSpec
from experiments.train import train


def test_accumulation_gives_the_same_curve_to_rounding(tiny, tmp_path):
    whole = train(plan(tiny), 0, tmp_path / "whole")
    tiny["train"]["accumulate"] = 4
    parts = train(plan(tiny), 0, tmp_path / "parts")
    assert parts.status == whole.status == "finished"
    for name, value in whole.metrics.items():
        assert parts.metrics[name] == pytest.approx(value, rel=2e-4), name


def test_what_is_kept_beside_a_micro_batch_goes_with_it(tiny, tmp_path, monkeypatch):
    """Masks and rotations are kept beside a layout; if all layouts of a step lived until its end, memory would grow with them."""
    seen, alive = [], []
    forward = NextToken.forward

    def watched(self, model, batch):
        if self.training:
            seen.append(weakref.ref(batch["text"].layout))
            gc.collect()
            alive.append(sum(each() is not None for each in seen))
        return forward(self, model, batch)

    monkeypatch.setattr(NextToken, "forward", watched)
    tiny["train"].update(accumulate=4, steps=2)
    tiny["evaluate"]["every"] = 2
    assert train(plan(tiny), 0, tmp_path / "run").status == "finished"
    assert len(alive) >= 8 and max(alive) <= 2


def test_loss_is_near_uniform_before_training_and_falls(tiny, tmp_path):
    tiny["optimizer"]["lr"] = 1e-12
    still = train(plan(tiny), 0, tmp_path / "still").metrics
    tiny["optimizer"]["lr"] = 1e-2
    moved = train(plan(tiny), 0, tmp_path / "moved").metrics
    assert moved["report/loss"] < still["report/loss"] < 2 * math.log(300)


def test_perplexity_and_bits_per_byte_follow_from_the_loss(tiny, tmp_path):
    metrics = train(plan(tiny), 0, tmp_path / "run").metrics
    assert metrics["report/perplexity"] == pytest.approx(math.exp(metrics["report/loss"]))
    # byte tokens: every target but <eos> stands for one byte
    assert metrics["report/bits_per_byte"] >= metrics["report/loss"] / math.log(2)


def test_decay_reaches_matrices_and_embeddings_only(tiny):
    model = new_model(resolve(tiny).model, 0)
    decayed, plain = AdamW(AdamW.Config(lr=1.0, weight_decay=0.3)).build(model.named_parameters()).param_groups
    names = {id(weight): name for name, weight in model.named_parameters()}
    assert decayed["weight_decay"] == 0.3 and plain["weight_decay"] == 0.0
    for weight in decayed["params"]:
        assert weight.kind in ("embedding", "matrix") and not weight.recurrent
    kept = {names[id(weight)] for weight in plain["params"]}
    recurrent = {name for name in names.values() if ("gate." in name and "recurrence" in name) or name.endswith(".decay")}
    assert recurrent and recurrent <= kept
    assert all(name in kept for name in names.values() if "norm" in name or name.endswith("bias"))
    assert len(decayed["params"]) + len(plain["params"]) == len(names)


@pytest.mark.parametrize("kind", ["cosine", "wsd"])
def test_schedule_rises_to_the_peak_and_ends_at_its_final_fraction(kind):
    schedule = registry.build("schedule", {"type": kind, "warmup": 0.1, "final": 0.2})
    rates = [schedule(step, 100, 1e-2) for step in range(100)]
    assert max(rates) == pytest.approx(1e-2) and rates[-1] == pytest.approx(2e-3)
    assert all(a < b for a, b in pairwise(rates[:10])) and rates[0] == pytest.approx(1e-3)
    assert all(a >= b for a, b in pairwise(rates[10:]))
    if kind == "wsd":
        assert rates[10:79] == [1e-2] * 69


@pytest.mark.parametrize("kind", registry.names("schedule"))
def test_a_rate_depends_on_the_step_alone_and_stays_below_the_peak(kind):
    for config in registry.component("schedule", kind).Config.examples():
        for steps in (1, 2, 7, 50):
            forwards, backwards = (registry.component("schedule", kind)(config) for _ in range(2))
            rates = [forwards(step, steps, 3e-3) for step in range(steps)]
            assert [backwards(step, steps, 3e-3) for step in reversed(range(steps))] == rates[::-1]
            assert all(0 <= rate <= 3e-3 for rate in rates)


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 10, 101])
@pytest.mark.parametrize(("warmup", "decay"), [(0.0, 1.0), (0.5, 0.5), (0.7, 0.3), (1.0, 0.0), (0.05, 0.2), (0.1, 0.9)])
def test_the_rate_of_wsd_never_jumps(warmup, decay, steps):
    schedule = registry.build("schedule", {"type": "wsd", "warmup": warmup, "decay": decay, "final": 0.0})
    rates = [schedule(step, steps, 1.0) for step in range(steps)]
    falls = [before - after for before, after in pairwise(rates)]
    for change, part in ((max(falls, default=0.0), decay), (-min(falls, default=0.0), warmup)):
        # Phases are whole steps, so a phase may be one step shorter than its fraction says.
        assert change <= 1 / max(1, part * steps - 1) + 1e-12


def test_without_a_decay_the_rate_stays_at_the_peak():
    schedule = registry.build("schedule", {"type": "wsd", "warmup": 0.2, "decay": 0.0})
    assert [schedule(step, 10, 1.0) for step in range(10)] == [0.5, *[1.0] * 9]


@pytest.mark.parametrize("kind", registry.names("schedule"))
def test_every_fraction_of_a_schedule_is_refused_beyond_its_ends(kind):
    config = registry.component("schedule", kind).Config
    for key in config.model_fields:
        for value in (-0.01, 1.01):
            with pytest.raises(SpecError, match=f"{key}: should be"):
                config.parse({key: value})


@pytest.mark.parametrize("kind", registry.names("optimizer"))
def test_an_optimizer_lowers_a_loss_and_its_state_can_be_stored(kind):
    """A second optimizer that loads the state of the first goes on with the same bits."""
    for config in registry.component("optimizer", kind).Config.examples():
        mine, theirs = torch.nn.Linear(6, 3), torch.nn.Linear(6, 3)
        x, y = torch.randn(20, 6), torch.randn(20, 3)
        made = [registry.component("optimizer", kind)(config).build(each.named_parameters()) for each in (mine, theirs)]

        def steps(model, optimizer, count, x=x, y=y):
            for _ in range(count):
                optimizer.zero_grad()
                loss = F.mse_loss(model(x), y)
                loss.backward()
                optimizer.step()
            return float(loss.detach())

        first = steps(mine, made[0], 1)
        assert steps(mine, made[0], 20) < first
        theirs.load_state_dict(mine.state_dict())
        made[1].load_state_dict(copy.deepcopy(made[0].state_dict()))
        assert steps(mine, made[0], 3) == steps(theirs, made[1], 3)
        assert torch.equal(mine.weight, theirs.weight)


def test_components_without_a_type_are_what_they_were(tiny):
    """`optimizer: {lr: ...}` and `schedule: {warmup: ...}` without a type, and overrides of single options of them."""
    root = document.node(tiny | {"schedule": {"warmup": 0.1}})
    spec = resolve(document.overridden(root, document.node({"optimizer.eps": 1e-7, "schedule.final": 0.2})))
    assert spec.objective == {"type": "next_token"}
    assert spec.schedule == {"type": "cosine", "warmup": 0.1, "final": 0.2}
    assert spec.optimizer == {
        "type": "adamw", "lr": 3e-3, "betas": [0.9, 0.95], "eps": 1e-7, "weight_decay": 0.1, "clip": 1.0,
    }  # fmt: skip
    assert digest(spec) == digest(resolve(tiny | {"schedule": spec.schedule, "optimizer": spec.optimizer}))
    with pytest.raises(SpecError, match=r"optimizer\.lr: missing"):
        resolve({key: value for key, value in tiny.items() if key != "optimizer"})


def test_records_made_before_schedules_were_components_are_still_read():
    """They hold `schedule.decay` whatever the schedule was, and an optimizer without a type."""
    stored = sorted(path for name in RECORDS for path in (Path(__file__).parent.parent.parent / "results").rglob(name))
    assert stored
    for path in stored:
        written = RunRecord.read(path.parent).spec
        spec = ExperimentSpec.parse(written)
        assert spec.schedule == written["schedule"] and spec.optimizer == {"type": "adamw", **written["optimizer"]}
        assert (spec.tokens > 0) == (written["train"]["steps"] > 0)


def test_identity_is_content_not_place(tiny, corpus_file, tmp_path):
    first = plan(tiny).identity
    tiny["train"]["checkpoint_every"] = 1
    assert plan(tiny).identity == first
    tiny["data"]["rows"] = 8
    assert plan(tiny).identity != first
    tiny["data"]["rows"] = 4
    tiny["train"]["threads"] = 2
    assert plan(tiny).identity != first
    tiny["train"]["threads"] = 1
    moved = tmp_path / "elsewhere.jsonl"
    moved.write_bytes(corpus_file.read_bytes())
    tiny["data"]["source"]["files"] = [str(moved)]
    assert plan(tiny).identity == first, "the same texts at another path are the same data"
    moved.write_text(moved.read_text() + '{"text": "one more document"}\n')
    assert plan(tiny).identity != first


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true"])
def test_bf16_and_untied_and_softcap_train(precision, tiny, tmp_path):
    tiny["train"]["precision"] = precision
    tiny["model"] |= {"tie_embeddings": False, "logit_softcap": 30.0, "embed_scale": "sqrt_dim"}
    record = train(plan(tiny), 0, tmp_path / "run")
    assert record.status == "finished" and math.isfinite(record.metrics["report/loss"])


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "bf16-true"])
def test_the_loss_without_logits_is_that_of_the_logits(precision, tiny):
    """Value and gradients agree, whether rows are processed together or one by one."""
    tiny["model"]["logit_softcap"] = 3.0
    spec = resolve(tiny)
    corpus, model = prepare(spec.data, spec.model.vocab_size), new_model(spec.model, 0)
    model = model.bfloat16() if precision == "bf16-true" else model
    objective = NextToken(NextToken.Config(), corpus)
    batch = corpus.batch("train", 0, 0, spec.data.rows, spec.data.context)

    def of_logits(batch):
        rows = batch["text"]
        logits = model(rows.tokens_BT, rows.layout).flatten(0, 1).float()
        return F.cross_entropy(logits, rows.targets_BT.flatten(), ignore_index=-1, reduction="sum")

    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16-mixed"):
        one_by_one = sum(objective(model, row)["loss"].sum for row in batch.split(4))
        losses = [of_logits(batch), objective(model, batch)["loss"].sum, one_by_one]
    close = 1e-5 if precision == "32-true" else 2e-2
    wanted, *others = [torch.autograd.grad(loss, list(model.parameters())) for loss in losses]
    least = 1e-3 * max(want.float().norm() for want in wanted)  # a gradient may vanish
    for loss, gradients in zip(losses[1:], others, strict=True):
        assert float(loss.detach()) == pytest.approx(float(losses[0].detach()), rel=close)
        for got, want in zip(gradients, wanted, strict=True):
            assert (got - want).float().norm() <= 4 * close * want.float().norm().clamp(min=least)


@pytest.mark.slow
def test_train_starts_the_processes_of_a_run_on_two_devices(tiny, tmp_path):
    """What they compute is in test_devices.py. Where nothing is trained, one process measures."""
    told = []
    tiny["train"] |= {"devices": 2, "steps": 2}
    record = train(plan(tiny), 0, tmp_path / "run", progress=told.append)
    assert record.status == "finished", record.failure
    assert record == RunRecord.read(tmp_path / "run") and told[-1]["step"] == 2
    tiny["train"]["steps"] = 0
    assert "processes" not in train(plan(tiny), 0, tmp_path / "untrained").timing


def test_evaluation_is_in_evaluation_mode_and_leaves_no_trace():
    from torch import nn

    from experiments.evaluate import evaluating

    model, frozen = nn.Sequential(nn.Dropout(0.5)), nn.Dropout(0.5).eval()
    with evaluating(model, frozen):
        assert not model.training and not model[0].training and not torch.is_grad_enabled()
    assert model[0].training and not frozen.training and torch.is_grad_enabled()


def test_identity_covers_what_a_plug_in_imports_from_beside_itself(tmp_path, monkeypatch):
    from arch.plugins import plugin_sources

    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/__init__.py").write_text("")
    (tmp_path / "mine/mixer.py").write_text("import torch\nfrom . import helper\nfrom beside import value\n")
    (tmp_path / "mine/helper.py").write_text("a = 1\n")
    (tmp_path / "beside.py").write_text("value = 1\n")
    spec = {"blocks": {"x": {"mixer": {"type": "mine.mixer:Mine"}}}}
    before = plugin_sources(spec)
    assert set(before) == {"mine", "mine.mixer", "mine.helper", "beside"}
    (tmp_path / "beside.py").write_text("value = 2\n")
    after = plugin_sources(spec)
    assert {name for name in before if before[name] != after[name]} == {"beside"}
