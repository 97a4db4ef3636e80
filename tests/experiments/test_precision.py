"""Precision: what a run computes in bfloat16, what it keeps in float32, what `auto` becomes, and identity.

Shapes: B rows, T tokens, D model width.
"""

import copy
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from arch.errors import SpecError
from arch.kernels import products
from arch.layout import TokenLayout
from arch.model import new_model
from experiments import auto, measuring, remarks
from experiments.data.dataset import prepare
from experiments.orders import STOP
from experiments.plan import plan, resolve, resolved
from experiments.record import RunRecord
from experiments.references import objective
from experiments.train import measure, new_trainer, train


@pytest.fixture
def cpu(monkeypatch):
    """cpu(unit) makes this machine one with that unit for bfloat16, as far as it is asked."""
    return lambda unit: monkeypatch.setattr(products._state, "unit", unit)


def set_train(spec, **changes):
    spec = copy.deepcopy(spec)
    spec["train"] |= changes
    return spec


def weights(folder):
    return load_file(Path(folder) / "model.safetensors")


def test_products_are_part_of_identity_and_exact_ones_change_none(tiny):
    plain = plan(tiny)
    assert plan(set_train(tiny, products="exact")).identity == plain.identity
    rounded = plan(set_train(tiny, products="bf16"))
    assert rounded.identity != plain.identity
    assert len({plan(set_train(tiny, precision=each)).identity for each in ("32-true", "bf16-mixed", "bf16-true")}) == 3


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"precision": "bf16-mixed"}, "products: bf16 is for precision 32-true; bf16-mixed decides its products itself"),
        ({"precision": "auto"}, "products: bf16 is for precision 32-true; auto decides its products itself"),
        ({"compile": "on"}, "products: bf16 is for eager blocks, say compile: off"),
        ({"accelerator": "gpu"}, "products: bf16 is for a CPU; on gpu say precision: bf16-mixed"),
    ],
)
def test_rounded_products_where_they_mean_nothing_are_refused_in_one_line(changes, said, tiny):
    with pytest.raises(SpecError) as caught:
        resolve(set_train(tiny, products="bf16", **changes))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("changes", [{"products": "bf16"}, {"precision": "bf16-mixed"}], ids=["products", "mixed"])
def test_a_run_is_close_to_float32_resumes_bit_for_bit_and_is_measured_as_it_trained(changes, tiny, tmp_path):
    exact = train(plan(tiny), 0, tmp_path / "exact")
    planned = plan(set_train(tiny, **changes))
    whole = train(planned, 0, tmp_path / "whole")
    assert whole.status == "finished", whole.failure
    assert whole.metrics["report/loss"] == pytest.approx(exact.metrics["report/loss"], rel=5e-3)
    assert whole.metrics["report/loss"] != exact.metrics["report/loss"]
    assert not products._state.rounded
    assert not products.is_casting()
    steps = []
    halted = train(planned, 0, tmp_path / "halted", stop=lambda: steps.append(0) or (STOP if len(steps) == 5 else None))
    assert halted.status == "interrupted"
    kept = torch.load(tmp_path / "halted/checkpoint.ckpt", weights_only=True)
    moments = [each for state in kept["optimizer_states"][0]["state"].values() for each in state.values()]
    assert {each.dtype for each in (*kept["state_dict"].values(), *moments)} == {torch.float32}
    assert len(kept["state_dict"]) == len(weights(tmp_path / "whole"))
    resumed = train(planned, 0, tmp_path / "halted")
    assert resumed.status == "finished"
    for name, weight in weights(tmp_path / "whole").items():
        assert weight.dtype == torch.float32
        assert torch.equal(weight, weights(tmp_path / "halted")[name]), name
    for file in (tmp_path / "whole/evaluations").glob("report.loss*"):
        file.unlink()
    again = {name: value for each in measure(planned, 0, tmp_path / "whole") for name, value in each.values.items()}
    assert again["report/loss"] == whole.metrics["report/loss"]


def test_a_record_says_how_bfloat16_was_multiplied_and_a_plan_that_it_is_slower(tiny, tmp_path, cpu, monkeypatch):
    cpu("")
    monkeypatch.setattr(products._state, "rounds", False)
    slow = "this CPU has no units for it; products are computed by rounding, slower than in float32"
    for changes in ({"products": "bf16"}, {"precision": "bf16-mixed"}, {"precision": "bf16-true"}):
        said = remarks.of_experiment(resolve(set_train(tiny, **changes)))
        assert [each for each in said if each.endswith(slow)], said
    planned = plan(set_train(tiny, products="bf16", steps=0))
    assert f"train.products: bf16: {slow}" in planned.notes
    record = train(planned, 0, tmp_path / "run")
    assert record.versions["bfloat16 products"] == "by rounding and float32: this CPU has no units for it"
    assert "bfloat16 products" not in train(plan(set_train(tiny, steps=0)), 0, tmp_path / "exact").versions
    cpu("AMX")
    monkeypatch.setattr(products._state, "rounds", True)
    assert not [each for each in remarks.of_experiment(resolve(set_train(tiny, precision="bf16-mixed"))) if "slower" in each]
    assert products.path() == "by AMX"


@pytest.fixture
def stepped(tiny):
    """stepped(accumulate) does the passes of a `bf16-mixed` step: (model, its casts, the types that blocks gave)."""

    def passes(accumulate):
        spec = resolve(set_train(tiny, precision="bf16-mixed", accumulate=accumulate))
        dataset, model = prepare(spec.data, spec.model.vocab_size), new_model(spec.model, 0)
        batch, types = dataset.batch("train", 0, 0, spec.data.rows, spec.data.context), []
        for block in model.blocks:
            block.register_forward_hook(lambda block, given, returned: types.append(returned[0].dtype))
        with new_trainer(spec.train, [], ".").precision_plugin.forward_context():
            for part in batch.split(accumulate):
                (objective(spec, dataset, {})(model, part)["loss"].sum / batch.weight).backward()
            casts = dict(products._state.casts)
        return model, casts, types

    return passes


def test_weights_are_cast_once_a_step_and_their_gradients_are_summed_in_float32(stepped):
    one, _, types = stepped(1)
    four, casts, _ = stepped(4)
    assert set(types) == {torch.bfloat16}
    matrices = [weight for weight in four.parameters() if weight.kind != "vector"]
    used = {id(weight) for weight, _, _ in casts.values()}
    assert used <= {id(weight) for weight in matrices}
    assert {id(weight) for weight in matrices} - used <= {id(four.embedding)}  # where units round it themselves
    for (name, whole), part in zip(one.named_parameters(), four.parameters(), strict=True):
        assert whole.grad.dtype == part.grad.dtype == torch.float32
        assert (whole.grad - part.grad).norm() <= 0.03 * whole.grad.norm() + 1e-5, name


def test_gradients_are_those_of_float32_to_the_rounding_of_bfloat16(stepped, tiny):
    mixed, _, _ = stepped(1)
    spec = resolve(tiny)
    dataset, model = prepare(spec.data, spec.model.vocab_size), new_model(spec.model, 0)
    batch = dataset.batch("train", 0, 0, spec.data.rows, spec.data.context)
    (objective(spec, dataset, {})(model, batch)["loss"].sum / batch.weight).backward()
    most = max(float(weight.grad.norm() / weight.numel() ** 0.5) for weight in model.parameters())
    for (name, exact), weight in zip(model.named_parameters(), mixed.parameters(), strict=True):
        error = (weight.grad - exact.grad).norm() / (exact.grad.norm() + 1e-3 * most * weight.numel() ** 0.5)
        assert error < 0.15, f"{name}: {error:.1e}"  # a hundredth at width 256; 16 channels average less


def test_an_overflow_is_found_and_named(tiny, tmp_path):
    spec = set_train(tiny, precision="bf16-mixed")
    spec["optimizer"] |= {"lr": 1e38, "clip": None}
    record = train(plan(spec), 0, tmp_path / "run")
    assert record.status == "failed"
    assert record.failure.error == "NonFinite"
    assert record.failure.where


class Scaled(nn.Module):
    """A mixer that knows nothing of bfloat16: torch's own linear map, and a vector that it is multiplied by."""

    kind, causal, state_size = "mixer", True, "constant"

    def __init__(self, dim):
        super().__init__()
        self.map, self.scale = nn.Linear(dim, dim), nn.Parameter(torch.full((dim,), 0.5))

    def forward(self, x_BTD, layout, state=None):
        return self.scale * self.map(x_BTD), state


class OwnFFN(nn.Linear):
    """A feed-forward network that knows nothing of bfloat16."""

    kind = "ffn"

    def __init__(self, dim):
        super().__init__(dim, dim)


def test_a_component_of_a_users_own_computes_within_autocast(tiny):
    model = new_model(resolve(tiny).model, 0)
    sublayer = model.blocks[0].mixer
    sublayer.component, sublayer.shipped = Scaled(16), False
    x_BTD = torch.randn(2, 5, 16).bfloat16().requires_grad_()
    with products.casting():
        y_BTD, _ = sublayer(x_BTD, TokenLayout.whole(2, 5))
        assert y_BTD.dtype == torch.bfloat16
        y_BTD.sum().backward()
    assert sublayer.component.map.weight.grad.dtype == sublayer.component.scale.grad.dtype == torch.float32
    exact, _ = sublayer(x_BTD.detach().float(), TokenLayout.whole(2, 5))
    assert torch.allclose(y_BTD.float(), exact, atol=0.05)


@pytest.mark.parametrize("own", [False, True])
def test_from_a_state_a_model_decodes_in_float32(own, tiny):
    model, tokens_BT = new_model(resolve(tiny).model, 0).eval(), torch.randint(300, (2, 6))
    if own:
        model.blocks[0].ffn.component, model.blocks[0].ffn.shipped = OwnFFN(16), False
    with torch.no_grad():
        outside = model.decode(tokens_BT, model.init_state(2, 8))[0]
    with products.casting(), torch.no_grad():
        inside, state = model.decode(tokens_BT, model.init_state(2, 8))
        further, _ = model.decode(tokens_BT[:, :1], state)
        logits_BTV = model(tokens_BT)
    assert torch.equal(inside, outside)
    assert further.dtype == logits_BTV.dtype == torch.float32
    assert (logits_BTV - outside).norm() < 0.03 * outside.norm()


@pytest.mark.parametrize(
    ("unit", "dim", "became", "why"),
    [
        ("", 256, "32-true", "no units for bfloat16"),
        ("AMX", 256, "bf16-mixed", "AMX, with which bfloat16 gains from a width of 128 on"),
        ("AMX", 128, "bf16-mixed", "AMX"),
        ("AMX", 64, "32-true", "gains from a width of 128 on, and model.dim is 64"),
        ("AVX512-BF16", 4096, "32-true", "AVX512-BF16: a step took 1.5 times as long"),
        ("ARM BF16", 4096, "32-true", "not been timed with it"),
    ],
)
def test_auto_becomes_bfloat16_only_where_that_was_measured_to_gain(unit, dim, became, why, tiny, cpu):
    cpu(unit)
    tiny["model"]["dim"] = dim
    complete = resolved(set_train(tiny, precision="auto"))
    assert complete.spec == resolve(set_train(tiny, precision=became))
    assert complete.spec.train.precision == became
    (note,) = complete.notes
    assert note.startswith(f"train.precision: auto became {became}: ")
    assert why in note


def test_auto_is_decided_when_a_run_is_planned_and_is_in_its_identity_as_what_it_became(tiny, cpu):
    cpu("")
    planned = plan(set_train(tiny, precision="auto"))
    assert planned.identity == plan(tiny).identity
    assert any("auto became 32-true" in note for note in planned.notes)
    cpu("AMX")
    tiny["model"]["dim"] = 128
    assert plan(set_train(tiny, precision="auto")).identity == plan(set_train(tiny, precision="bf16-mixed")).identity
    assert auto.precision("gpu", [4096])[0] == "32-true"


def test_the_doctor_says_what_auto_would_become(cpu):
    from experiments.doctor import findings

    cpu("")
    assert "no units" in dict(findings())["bfloat16"]
    assert "`train.precision: auto` becomes 32-true" in dict(findings())["bfloat16"]
    cpu("AMX")
    assert dict(findings())["bfloat16"].endswith("becomes bf16-mixed from model.dim 128 on, 32-true below")


def test_the_errors_of_gradients_are_small_change_nothing_and_do_not_depend_on_the_runs_own_precision(tiny, tmp_path):
    section = measuring.named(["gradients"], ["gradients.rows=4"], "report")
    found = []
    for changes in ({}, {"precision": "bf16-mixed"}, {"products": "bf16"}):
        folder = tmp_path / str(len(found))
        assert train(plan(set_train(tiny, steps=0, **changes)), 0, folder).status == "finished"
        (measured,) = measure(measuring.of_run(folder, RunRecord.read(folder), section), 0, folder)
        found.append(measured)
    plain = found[0]
    assert 0 < plain.values["report/gradient_error_products"] < plain.values["report/gradient_error_mixed"] < 0.1
    assert abs(plain.values["report/loss_change_mixed"]) < 0.02
    assert {row["block"] for row in plain.table} == {"", "rec", "local", "global"}
    assert all(0 <= row["mixed"] <= row["mixed largest"] < 0.3 for row in plain.table)
    assert [each.values for each in found] == [plain.values] * 3
