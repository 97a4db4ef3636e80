"""The objective `contrastive`: its terms, GradCache over micro-batches and processes, its teacher, and what it refuses."""

import copy
import json
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from two_processes import differences, on_two, torchrun

from arch import checkpoint, document, registry, tensors
from arch.contracts import Referred
from arch.errors import SpecError
from arch.kernels import products
from arch.kernels.contrastive import nce
from arch.model import new_model
from arch.model_spec import ModelSpec
from experiments import grad_cache
from experiments.distillation.vector_teacher import frozen
from experiments.means import Means, prepared
from experiments.objectives import contrastive
from experiments.objectives.contrastive import Contrastive
from experiments.plan import plan, resolve, worth
from experiments.record import RunRecord

ATTENTION = {"type": "attention", "heads": 2, "causal": False, "window": {"before": 2, "after": 2}}
MODEL = {
    "dim": 16,
    "vocab_size": 24,
    "layers": 2,
    "pattern": ["local", "global"],
    "pool": {"type": "mean"},
    "project": [24, 16],
    "blocks": {
        "local": {"mixer": ATTENTION, "ffn": {"type": "gated", "hidden": 24}},
        "global": {"like": "local", "mixer": {"window": None}},
    },
}
ROWS = 12
# {name: options}; a teacher of another width stands in some.
OPTIONS = {
    "nce and spread-out": {},
    "Matryoshka": {"dims": [16, 8, 3], "temperature": 0.2},
    "distillation": {"weights": {"nce": 0.7, "spread_out": 0.3, "matching": 2.0}, "projection": "frozen", "distance": "cosine"},
    "the teacher alone": {"weights": {"nce": 0.0, "spread_out": 0.0, "matching": 1.0}, "teacher_dim": 16},
}


@pytest.fixture(autouse=True)
def own_pairs(plugins):
    """The module of the pairs, on the path."""
    import own_pairs

    return own_pairs


@pytest.fixture
def spec():
    """A complete experiment as plain data."""
    return {
        "model": copy.deepcopy(MODEL),
        "data": {"source": {"type": "own_pairs:Spelt", "negatives": True}, "context": 8, "rows": 8},
        "objective": {"type": "contrastive"},
        "optimizer": {"lr": 3e-3},
        "train": {"steps": 4},
        "evaluate": {"every": 4, "select_rows": 8, "report_rows": 8},
    }


@pytest.fixture
def teacher(tmp_path):
    """The folder of a teacher with vectors of 20 numbers."""
    return saved(tmp_path / "teacher", project=[20])


def saved(folder, **changes):
    data = {**copy.deepcopy(MODEL), **changes}
    model_spec = registry.resolve(ModelSpec.parse(data), data)
    folder.mkdir()
    checkpoint.write(model_spec, tensors.of_mapping(dict(new_model(model_spec, 7).named_parameters())), folder)
    return folder


def student(dtype=torch.float32, **changes):
    data = {**copy.deepcopy(MODEL), **changes}
    return new_model(registry.resolve(ModelSpec.parse(data), data), 0).to(dtype)


def made(teacher=None, **options):
    """The objective with these options, in training."""
    runs = {} if teacher is None else {"teacher": teacher}
    config = Contrastive.Config.parse({"weights": {}, **options} | ({"teacher": str(teacher)} if runs else {}))
    return Contrastive(config, None, *([runs] if runs else []))


def batch_of(own_pairs, rows=ROWS, negatives=True, first=0, **options):
    source = own_pairs.Spelt(own_pairs.Spelt.Config(negatives=negatives, **options))
    return source.dataset(None).of("train", range(first, first + rows))


def measured(objective, model, batch, parts=1):
    """({metric: its mean}, the gradient of the loss for each parameter), as a step of training with so many micro-batches."""
    means, weights = Means(objective), list(model.parameters())
    with torch.no_grad():
        batch = prepared(objective, model, batch, parts)
    gradients = [torch.zeros_like(weight) for weight in weights]
    for part in batch.split(parts):
        found = objective(model, part)
        means.include(found)
        for total, gradient in zip(gradients, torch.autograd.grad(found["loss"].sum / batch.rows, weights), strict=True):
            total.add_(gradient)
    assert all(mean.weight == batch.rows for mean in means.totals.values())
    return means.values(), gradients


def same(a, b, tolerance):
    assert a[0] == pytest.approx(b[0], rel=tolerance, abs=tolerance)
    for one, other in zip(a[1], b[1], strict=True):
        assert (one - other).norm() <= tolerance * other.norm().clamp(min=1e-3), (one - other).norm() / other.norm()


def test_the_loss_is_that_of_its_formulas(own_pairs, teacher):
    """Written once more from vectors, of distinct texts: cross-entropy over positives and the own negative, width by width."""
    model, batch = student(torch.float64), batch_of(own_pairs)
    texts = batch["query"].extra["text"]
    assert len(texts.unique()) == ROWS
    options = {"dims": [16, 5], "temperature": 0.3, "hardness": 2.0, "weights": {"nce": 0.5, "spread_out": 3.0, "matching": 0.1}}
    values, _ = measured(made(teacher, teacher_dim=16, **options), model, batch)
    found = {kind: x_BE.detach() for kind, x_BE in grad_cache.vectors(model, batch).items()}
    known = {kind: checkpoint.load(teacher).vectors(rows.tokens_BT, rows.layout)[:, :16] for kind, rows in batch.items()}
    contrast = spread = 0.0
    for dim in (16, 5):
        q, p, n = (F.normalize(found[kind][:, :dim], dim=1) for kind in ("query", "positive", "negative"))
        own = (q * n).sum(1, keepdim=True)
        contrast += F.cross_entropy(torch.cat([q @ p.T / 0.3, own / 0.3 + 2.0 * own], 1), torch.arange(ROWS))
        spread += sum(((x @ x.T).square().sum() - ROWS) / (ROWS * (ROWS - 1)) for x in (q, p))
    apart = sum((2 - 2 * F.cosine_similarity(found[kind], known[kind].detach().double())).mean() for kind in found)
    assert values["nce"] == pytest.approx(float(contrast), rel=1e-9)
    assert values["spread_out"] == pytest.approx(float(spread), rel=1e-9)
    assert values["matching"] == pytest.approx(float(apart), rel=1e-6)
    assert values["loss"] == pytest.approx(float(0.5 * contrast + 3.0 * spread + 0.1 * apart), rel=1e-6)
    q, p = (F.normalize(found[kind], dim=1) for kind in ("query", "positive"))
    assert values["accuracy"] == float(((q @ p.T).argmax(1) == torch.arange(ROWS)).double().mean())


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-5), (torch.float64, 1e-10)], ids=str)
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("negatives", [True, False])
def test_micro_batches_give_the_value_and_the_gradient_of_the_whole(dtype, tolerance, options, negatives, own_pairs, teacher):
    model, objective = student(dtype), made(teacher if "matching" in options.get("weights", {}) else None, **options)
    whole = measured(objective, model, batch_of(own_pairs, negatives=negatives))
    assert len(whole[0]) == 2 + len([weight for weight in objective.config.weights.dump().values() if weight])
    for parts in (2, ROWS):
        same(measured(objective, model, batch_of(own_pairs, negatives=negatives), parts), whole, tolerance)


def test_rows_with_the_same_query_are_no_negatives_of_each_other_across_micro_batches(own_pairs):
    """Row i and row i + 6 ask the same; their positives differ. In two micro-batches they never meet."""
    model, objective = student(torch.float64), made(weights={"spread_out": 0.0})

    def doubled():
        batch = batch_of(own_pairs, negatives=False)
        rows, half = batch["query"], torch.arange(ROWS) % 6
        batch["query"] = replace(
            rows,
            tokens_BT=rows.tokens_BT[half],
            layout=type(rows.layout)(rows.layout.doc_BT[half], rows.layout.pos_BT[half]),
            extra={"text": rows.extra["text"][half]},
        )
        return batch

    found = grad_cache.vectors(model, doubled())
    same_BB = torch.eye(6, dtype=torch.bool).repeat(2, 2)
    assert len(doubled()["positive"].extra["text"].unique()) == ROWS
    expected = float(nce(found["query"], found["positive"], None, same_BB, 0.05).mean().detach())
    whole = measured(objective, model, doubled())
    assert whole[0]["nce"] == pytest.approx(expected, rel=1e-10)
    assert expected < float(nce(found["query"], found["positive"], None, torch.eye(ROWS, dtype=torch.bool), 0.05).mean().detach())
    for parts in (2, 4):
        same(measured(objective, model, doubled(), parts), whole, 1e-10)


def dropping(model, p=0.4):
    """The model with dropout behind its final norm."""
    model.norm.register_forward_hook(lambda module, args, output: F.dropout(output, p, module.training))
    return model


def test_a_model_that_draws_random_numbers_draws_the_same_in_both_passes(own_pairs):
    """The gradient is that of one graph over all micro-batches, each with the random numbers of its own seed."""
    model, objective = dropping(student(torch.float64)), made(dims=[16, 4])
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    with torch.no_grad():
        batch = prepared(objective, model, batch_of(own_pairs), 3)
    torch.random.set_rng_state(before)
    found = measured(objective, model, batch_of(own_pairs), 3)
    after = torch.rand(1)

    parts = batch.split(3)
    seeds = {int(part["query"].extra[grad_cache.SEED][0]) for part in parts}
    assert len(seeds) == 3
    every = [objective.cache.again(model, part) for part in parts]
    together = {kind: torch.cat([each[kind] for each in every]) for kind in batch}
    parts = list(objective._between(together, contrastive._same(batch)))
    loss = sum(objective._weighted({name: term_B}).sum() for name, term_B in parts) / ROWS
    same(
        ({"loss": float(loss.detach())}, torch.autograd.grad(loss, list(model.parameters()))),
        ({"loss": found[0]["loss"]}, found[1]),
        1e-10,
    )
    # Only the seeds were drawn from the run's own random numbers.
    torch.random.set_rng_state(before)
    torch.randint(grad_cache.SEEDS, (3,))
    assert torch.equal(torch.rand(1), after)
    other = measured(objective, model, batch_of(own_pairs), 3)
    assert other[0]["loss"] != found[0]["loss"], "the next step draws others"


@pytest.mark.parametrize("parts", [2, 3, ROWS])
def test_the_graph_of_one_micro_batch_is_kept_and_given_out_once(parts, own_pairs):
    """The model passes over all but one micro-batch twice; a step that is done again, to find what is not finite, over all."""
    model, objective = student(torch.float64), made()
    passes = []
    model.norm.register_forward_hook(lambda *args: passes.append(torch.is_grad_enabled()))
    with torch.no_grad():
        batch = prepared(objective, model, batch_of(own_pairs), parts)
    kinds = len(batch)
    assert passes == [True] * kinds + [False] * kinds * (parts - 1)
    gradients = []
    for _ in range(2):
        passes.clear()
        model.zero_grad()
        for part in batch.split(parts):
            objective(model, part)["loss"].sum.backward()
        gradients.append(([], [weight.grad.clone() for weight in model.parameters()]))
        assert passes == [True] * kinds * (parts if len(gradients) == 2 else parts - 1)
    same(*[({}, each) for _, each in gradients], 1e-12)


@pytest.mark.parametrize("parts", [2, ROWS])
def test_micro_batches_in_bfloat16_learn_as_the_whole_does(parts, own_pairs):
    """Products in bfloat16 keep copies of weights, made with a graph or without; every pass with a graph must reach the weights."""
    model, objective = student(), made()
    with products.casting():
        whole, cached = (measured(objective, model, batch_of(own_pairs), n) for n in (1, parts))
    same(cached, whole, 0.05)


def test_a_split_is_evaluated_batch_by_batch_without_a_first_pass(own_pairs, monkeypatch):
    """Each batch has its own negatives; a row alone counts for nothing; how many texts pass at once changes nothing."""
    model, objective = student(torch.float64).eval(), made().eval()
    batches = [batch_of(own_pairs, rows, first=first) for first, rows in ((0, 6), (6, 4), (10, 1))]
    means = Means(objective)
    with torch.no_grad():
        for batch in batches:
            means.add(model, batch)
    assert not any(grad_cache.is_filled(batch) for batch in batches)
    each = [measured(objective, model, batch)[0] for batch in batches[:2]]
    assert {mean.weight for mean in means.totals.values()} == {10}
    for name, value in means.values().items():
        assert value == pytest.approx((6 * each[0][name] + 4 * each[1][name]) / 10, rel=1e-10)
    monkeypatch.setattr(contrastive, "TOKENS", 7)
    again = Means(objective)
    with torch.no_grad():
        for batch in batches:
            again.add(model, batch)
    assert again.values() == pytest.approx(means.values(), rel=1e-10)


@pytest.mark.parametrize("term", ["nce", "spread_out", "matching"])
def test_a_term_of_weight_0_is_not_computed(term, own_pairs, teacher, monkeypatch):
    def unwanted(*given):
        raise AssertionError("computed")

    weights = {"nce": 1.0, "spread_out": 1.0, "matching": 1.0} | {term: 0.0}
    objective = made(None if term == "matching" else teacher, weights=weights, teacher_dim=16)
    monkeypatch.setattr(contrastive, term, unwanted)
    for parts in (1, 3):
        values, _ = measured(objective, student(), batch_of(own_pairs), parts)
        assert values.keys() == {"loss", "accuracy", *weights} - {term}


def test_the_student_that_is_its_teacher_is_at_no_distance(own_pairs, teacher):
    objective = made(teacher, weights={"matching": 1.0})
    for parts in (1, 4):
        values, _ = measured(objective, checkpoint.load(teacher), batch_of(own_pairs), parts)
        assert values["matching"] == pytest.approx(0, abs=1e-9)


def test_the_teacher_is_neither_trained_nor_saved_and_is_cut_to_its_width(own_pairs, teacher):
    objective = made(teacher, weights={"matching": 1.0}, teacher_dim=16)
    before = {name: tensor.clone() for name, tensor in checkpoint.load(teacher).state_dict().items()}
    batch = batch_of(own_pairs)
    measured(objective, student(), batch)
    assert all(rows.extra["teacher"].shape == (ROWS, 16) for rows in batch.values())
    model = objective.teacher.model
    assert not model.training and all(weight.grad is None and not weight.requires_grad for weight in model.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not list(objective.parameters()) and not objective.state_dict() and not list(objective.children())
    coarse = made(teacher, weights={"matching": 1.0}, teacher_dim=16, precision="bfloat16")
    values = [measured(each, student(), batch_of(own_pairs))[0]["matching"] for each in (objective, coarse)]
    assert values[0] != values[1] and values[1] == pytest.approx(values[0], rel=0.02)


def test_the_frozen_map_keeps_lengths_on_average_and_is_always_the_same():
    x = F.normalize(torch.randn(500, 64, generator=torch.Generator().manual_seed(3)), dim=1)
    for to in (32, 256):
        lengths = (x @ frozen(64, to)).square().sum(1)
        assert float(lengths.mean()) == pytest.approx(1, abs=0.05)
    first = frozen(64, 32).clone()
    torch.manual_seed(1)
    frozen.cache_clear()
    assert torch.equal(frozen(64, 32), first)


def test_what_it_costs_is_what_it_reads_beside_the_first_text(spec, teacher, own_pairs):
    resolved = resolve(spec)
    dataset = own_pairs.Spelt(own_pairs.Spelt.Config(negatives=True)).dataset(None)
    cost = lambda runs, given=dataset, **train: Contrastive.costs(  # noqa: E731
        made(teacher if runs else None).config,
        resolved.model_copy(update={"train": resolved.train.model_copy(update=train)}),
        given,
        runs,
    )
    tokens, flops = resolved.tokens, contrastive._flops_per_token(resolved.model, 8)
    assert cost({}) == {"flops": 2 * tokens * flops["train"]} and cost({}, None) == {"flops": tokens * flops["train"]}
    cached = cost({}, accumulate=2)["flops"]
    assert cached - cost({})["flops"] == 3 / 2 * tokens * flops["prefill"], "one of two micro-batches is embedded once more"
    assert cost({}, devices=2)["flops"] == cost({})["flops"] == cost({}, accumulate=4)["flops"] - 9 / 4 * tokens * flops["prefill"]
    assert cost({}, devices=2, strategy="fsdp2")["flops"] - cost({})["flops"] == 3 * tokens * flops["prefill"]
    taught = cost({"teacher": Referred("t", checkpoint.open_checkpoint(teacher)[0], None, None, str(teacher))})
    assert taught["flops"] - cost({})["flops"] == 3 * tokens * taught["teacher_flops_per_token"] and taught["seconds"] > 0


def refused(spec, text):
    with pytest.raises(SpecError) as error:
        plan(document.node(spec))
    assert str(error.value) == text


@pytest.mark.parametrize(
    "options, text",
    [
        ({"dims": [32, 16]}, "dims.0: 32 is more than the 16 numbers that the model's vectors have"),
        (
            {"dims": [8, 4]},
            "dims: the model's vectors have 16 numbers, of which the last 8 would learn from no negative; "
            "expected 16 among the widths",
        ),
        ({"dims": [16, 8, 8]}, "dims: expected each width once, got 16, 8, 8"),
        ({"weights": {"nce": 0, "spread_out": 0}}, "weights: all weights are 0, so there is no loss; expected one above 0"),
        ({"weights": {"matching": 1}}, "weights.matching: there is no teacher to match; expected `teacher`, or a weight of 0"),
        ({"projection": "frozen"}, "projection: there is no teacher; expected `teacher`, or none of its options"),
    ],
)
def test_options_that_do_not_fit_are_refused_at_their_key(options, text, spec):
    spec["objective"] |= options
    refused(spec, f"objective.{text}")


def test_a_step_of_one_row_has_no_negatives(spec):
    spec["data"]["rows"] = 1
    refused(spec, "data.rows: the other rows of a step are its negatives, but there is 1 row; expected at least 2")
    spec["data"]["rows"] = 2
    spec["train"]["accumulate"] = 2
    plan(spec)


def test_a_row_that_is_measured_alone_has_no_negatives(spec):
    alone = "a row that is measured alone has no negatives; expected at least 2 rows in a batch"
    spec["evaluate"]["select_rows"] = 1
    refused(spec, f"evaluate.select.loss.rows: {alone}")
    spec["evaluate"] = {"select": {}, "report": {"far": {"type": "objective", "rows": 9, "context": 40}}}
    refused(spec, f"evaluate.report.far.context: {alone}")


@pytest.mark.parametrize(
    "changes, options, text",
    [
        ({"pool": None, "project": []}, {}, "{folder} has no `pool`, so it gives no vector of a text"),
        (
            {"vocab_size": 25},
            {},
            "the teacher's model has a vocabulary of 25 tokens, this run's model 24; expected the same",
        ),
        (
            {"project": [20]},
            {},
            "its vectors have 20 numbers, the model's 16; expected `model.project` that ends in 20, or `teacher_dim: 16` for a "
            "teacher that was trained with this width, or `projection: frozen`",
        ),
        (
            {"project": [8]},
            {},
            "its vectors have 8 numbers, the model's 16; expected `model.project` that ends in 8, or `projection: frozen`",
        ),
        ({}, {"weights": {}}, "nothing is learnt from it while weights.matching is 0; expected a weight above 0"),
    ],
)
def test_a_teacher_that_does_not_fit_is_refused(changes, options, text, spec, tmp_path):
    folder = saved(tmp_path / "other", **changes)
    spec["objective"] |= {"teacher": str(folder), "weights": {"matching": 1.0}, **options}
    refused(spec, f"objective.teacher: {text.format(folder=folder)}")


def test_a_cut_beyond_the_teachers_width_is_refused(spec, teacher):
    spec["objective"] |= {"teacher": str(teacher), "weights": {"matching": 1.0}, "teacher_dim": 21}
    refused(spec, "objective.teacher_dim: 21 is more than the 20 numbers of the teacher's vectors")
    spec["objective"]["teacher_dim"] = 16
    with_teacher = plan(spec)
    assert with_teacher.cost["objective"]["flops"] > 0 and set(with_teacher.runs) == {"teacher"}
    spec["objective"]["teacher"] = str(saved(teacher.parent / "narrow", project=[16]))
    assert plan(spec).identity != with_teacher.identity


@pytest.mark.parametrize(
    "change, text",
    [
        (
            {"objective": {"type": "next_token"}},
            r"objective: next_token needs `causal`: no token depends on a later one; but the mixer of .* sees later tokens",
        ),
        (
            {"data": {"source": {"type": "mqar"}, "context": 16, "rows": 4}},
            r"objective: contrastive needs `pairs`: its data are pairs of texts",
        ),
    ],
)
def test_planning_refuses_other_data_and_other_models(change, text, spec):
    with pytest.raises(SpecError, match=text):
        resolve(spec | change)


def test_blocks_are_not_compiled_for_texts_of_many_lengths(spec):
    spec["train"]["compile"] = "on"
    with pytest.raises(SpecError, match=r"train.compile: on is for rows of one length; the texts of pairs have many"):
        resolve(spec)
    spec["train"]["compile"] = "auto"
    resolved = resolve(spec)
    assert resolved.train.compile == "off" and worth(resolved)[1].startswith("texts have many lengths")


def test_an_encoder_is_needed_and_pairs_are_no_rows_of_tokens(spec):
    del spec["model"]["pool"], spec["model"]["project"]
    with pytest.raises(SpecError, match=r"objective: contrastive needs `encodes`: it gives one vector per text \(it has a pool\)"):
        resolve(spec)
    spec["objective"] = {"type": "next_token"}
    spec["model"]["blocks"]["local"]["mixer"] = {"type": "attention", "heads": 2}
    with pytest.raises(SpecError, match="objective: next_token needs `rows`: its data are rows of tokens"):
        resolve(spec)


def test_it_learns_which_letters_belong_together(spec, tmp_path):
    """Also those of words that it has not seen: the nearest of 64 spellings is mostly the right one."""
    from experiments.train import train

    spec["data"] |= {"rows": 64, "source": {"type": "own_pairs:Spelt"}}
    spec["train"], spec["optimizer"] = {"steps": 40}, {"lr": 2e-2}
    spec["evaluate"] = {"every": 100, "select": {}, "report": {"loss": {"type": "objective", "rows": 64}}}
    record = train(plan(spec), 0, tmp_path / "run")
    assert record.status == "finished", record.failure
    spec["train"]["steps"] = 0
    untrained = train(plan(spec), 0, tmp_path / "untrained")
    assert record.metrics["train/accuracy"] > 0.9
    assert untrained.metrics["report/accuracy"] < 0.2 < 0.5 < record.metrics["report/accuracy"]


@pytest.mark.slow
def test_two_processes_compute_what_one_computes(spec, tmp_path, teacher, monkeypatch):
    """Both strategies, with micro-batches, hard negatives, Matryoshka and a teacher: the gradient of the global batch.

    The folder has the pairs' module, which the processes import.
    """
    from pandas import read_parquet

    from experiments.train import train

    monkeypatch.setenv("ARCHBENCH_CACHE", str(tmp_path / "cache"))
    spec["optimizer"]["clip"] = 0.5
    weights = {"nce": 1.0, "spread_out": 1.0, "matching": 1.0}
    spec["objective"] |= {"teacher": str(teacher), "projection": "frozen", "weights": weights, "dims": [16, 4]}
    assert train(plan(spec), 0, tmp_path / "one").status == "finished"
    cases = {
        "ddp": on_two(spec, "ddp"),
        "ddp-parts": on_two(spec, "ddp", accumulate=2),
        "fsdp2": on_two(spec, "fsdp2"),
        "fsdp2-parts": on_two(spec, "fsdp2", accumulate=2),
    }
    plans = [{"folder": name, "plan": plan(each).dump()} for name, each in cases.items()]
    (tmp_path / "cases.json").write_text(json.dumps(plans))
    done = torchrun(tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    one = read_parquet(tmp_path / "one" / "history.parquet")
    for name in cases:
        record = RunRecord.read(tmp_path / name)
        assert record.status == "finished", record.failure
        weights, metrics = differences(tmp_path / "one", tmp_path / name)
        assert weights < 1e-5 and metrics < 1e-5, name
        curve = read_parquet(tmp_path / name / "history.parquet")
        for column in ("train/loss", "train/nce", "train/spread_out", "train/matching", "train/accuracy", "grad_norm"):
            assert (curve[column] - one[column]).abs().max() < 1e-5 * max(1.0, one[column].abs().max()), (name, column)
