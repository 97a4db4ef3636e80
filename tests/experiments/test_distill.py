"""The objective `distill`: its modes, its teacher, cached targets, and what it refuses."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from arch import checkpoint, document, registry, tensors
from arch.contracts import Given, Reading, Referred
from arch.errors import SpecError
from arch.kernels import products
from arch.model import new_model
from arch.model_spec import ModelSpec
from experiments import evaluations
from experiments.data.batch import Batch, Rows
from experiments.data.dataset import prepare
from experiments.distillation.teacher import Keeping
from experiments.evaluators.teacher_cache import TeacherCache
from experiments.evaluators.teacher_distance import TeacherDistance
from experiments.objectives.distill import Distill, about
from experiments.plan import plan, resolve
from experiments.spec import DataSpec

V = 300


def model_data(tiny, **changes):
    return {**tiny["model"], **changes}


def saved(folder, data, tokenizer=None, seed=7):
    """The folder of a checkpoint with random weights, large enough that it is sure of some tokens."""
    spec = registry.resolve(ModelSpec.parse(data), data)
    model = new_model(spec, seed)
    with torch.no_grad():
        model.embedding.mul_(8)
    folder.mkdir()
    checkpoint.write(spec, tensors.of_mapping(dict(model.named_parameters())), folder)
    if tokenizer is not None:
        tokenizer.save(str(folder / checkpoint.TOKENIZER))
    return folder


@pytest.fixture
def run(tiny, tmp_path):
    """(the resolved experiment, its dataset, a student, a teacher's folder): the teacher is wider, with a softcap of its own."""
    tiny["model"]["logit_softcap"] = 20.0
    spec = resolve(tiny)
    dataset = prepare(spec.data, spec.model.vocab_size)
    folder = saved(
        tmp_path / "teacher", model_data(tiny, dim=24, layers=2, pattern=["local"], logit_softcap=30.0), dataset.tokenizer
    )
    return spec, dataset, new_model(spec.model, 0), folder


def made(run, **options):
    """The objective with these options."""
    _, dataset, _, folder = run
    return Distill(Distill.Config(teacher=str(folder), **options), dataset, {"teacher": folder})


def batch_of(run, rows=4, step=0):
    spec, dataset = run[:2]
    return dataset.batch("train", step, 0, rows, spec.data.context)


def measured(objective, model, batch, loss_only=False):
    """({metric: value}, the gradients of its loss)"""
    means = objective(model, objective.prepare(model, batch))
    gradients = torch.autograd.grad(means["loss"].sum / means["loss"].weight, list(model.parameters()))
    return {name: float(mean.sum.detach() / mean.weight) for name, mean in means.items()}, gradients


def same(a, b, tolerance=1e-4):
    assert a[0] == pytest.approx(b[0], rel=tolerance, abs=tolerance)
    for one, other in zip(a[1], b[1], strict=True):
        assert (one - other).norm() <= tolerance * other.norm() + 1e-7


@pytest.mark.parametrize("options", [{}, {"temperature": 2.0, "mix": 0.25}, {"tail": "bucket"}])
def test_the_largest_of_the_whole_vocabulary_are_the_whole_distribution(run, options):
    whole = {key: value for key, value in options.items() if key != "tail"}
    every = measured(made(run, mode="top_k", k=V, **options), run[2], batch_of(run))
    same(every, measured(made(run, **whole), run[2], batch_of(run)))


def test_a_bucket_is_nearer_to_the_whole_distribution_than_its_part(run):
    """KL of a partition is at most KL, and a finer one loses less."""
    kl = [measured(made(run, mode="top_k", k=k, tail="bucket"), run[2], batch_of(run))[0]["kl"] for k in (1, 8, 64)]
    assert 0 < kl[0] < kl[1] < kl[2] < measured(made(run), run[2], batch_of(run))[0]["kl"]


def test_the_mean_gradient_of_counts_is_that_of_the_whole_distribution_and_that_of_a_sample_is_not(run):
    """The same row under many numbers, and so with many draws; the mean error falls with their number, the bias does not."""
    tokens = batch_of(run, 1)["text"]
    many = Batch.text(tokens)

    def numbered(n):
        repeated = [tokens.part(slice(0, 1)) for _ in range(n)]
        join = lambda name: torch.cat([getattr(each, name) for each in repeated])  # noqa: E731
        layout = type(tokens.layout)(torch.cat([tokens.layout.doc_BT] * n), torch.cat([tokens.layout.pos_BT] * n))
        return Batch.text(Rows(join("tokens_BT"), layout, join("targets_BT"), torch.arange(n)))

    _, exact = measured(made(run), run[2], many)
    errors = {}
    for mode in ("counts", "sampled"):
        _, mean = measured(made(run, mode=mode, k=4), run[2], numbered(100))
        errors[mode] = float((mean[0] - exact[0]).norm() / exact[0].norm())
    assert errors["counts"] < 0.05 < 0.1 < errors["sampled"], errors


@pytest.mark.parametrize("mode", ["full", "sampled"])
def test_positions_and_rows_without_a_target_change_nothing(run, mode):
    objective, whole = made(run, mode=mode, k=16) if mode != "full" else made(run), batch_of(run)
    half = batch_of(run, 2)
    masked = batch_of(run)
    masked["text"].targets_BT[2:] = -1
    same(measured(objective, run[2], masked), measured(objective, run[2], half), 1e-5)
    none = batch_of(run)
    none["text"].targets_BT[:] = -1
    means = objective(run[2], objective.prepare(run[2], none))
    assert all(float(mean.sum.detach()) == 0 for mean in means.values()) and means["loss"].weight == 0
    assert whole.weight > half.weight


@pytest.mark.parametrize("mode", ["full", "top_k"])
def test_micro_batches_add_up(run, mode):
    objective = made(run, mode=mode, **({} if mode == "full" else {"k": 16}))
    batch = objective.prepare(run[2], batch_of(run))
    whole = objective(run[2], batch)
    parts = [objective(run[2], part) for part in batch.split(2)]
    for name, mean in whole.items():
        assert sum(float(part[name].sum.detach()) for part in parts) == pytest.approx(float(mean.sum.detach()), rel=1e-4)
        assert sum(part[name].weight for part in parts) == mean.weight


def test_a_document_of_a_packed_row_is_taught_as_if_it_stood_alone(run):
    batch = batch_of(run)
    rows = batch["text"]
    row, end = next(
        (b, int((rows.layout.doc_BT[b] == 0).sum())) for b in range(4) if 2 < int((rows.layout.doc_BT[b] == 0).sum()) < 30
    )
    cut = lambda tensor: tensor[row : row + 1, :end]  # noqa: E731
    layout = type(rows.layout)(cut(rows.layout.doc_BT), cut(rows.layout.pos_BT))
    alone = Rows(cut(rows.tokens_BT), layout, cut(rows.targets_BT), rows.key_B[row : row + 1])
    for options in ({}, {"mode": "sampled", "k": 8}):
        objective = made(run, **options)
        name = "teacher_tail" if options else "teacher_hidden"
        together = objective.prepare(run[2], batch_of(run))["text"].extra[name][row, :end]
        assert torch.allclose(objective.prepare(run[2], Batch.text(alone))["text"].extra[name][0], together, atol=1e-5)


def test_the_student_that_is_its_teacher_is_at_no_distance(run):
    teacher = checkpoint.load(run[3])
    values, _ = measured(made(run), teacher, batch_of(run))
    assert 0 <= values["kl"] < 1e-6 and values["agreement"] == 1


def test_the_hard_loss_and_the_own_cross_entropy_are_those_of_next_token(run):
    hard = registry.build("objective", {"type": "next_token"}, run[1])(run[2], batch_of(run))["loss"]
    expected = float(hard.sum.detach() / hard.weight)
    for options in ({"mix": 1.0}, {"mix": 1.0, "temperature": 3.0}, {"mode": "counts", "k": 8, "mix": 1.0, "temperature": 0.5}):
        values, _ = measured(made(run, **options), run[2], batch_of(run))
        assert values["loss"] == values["cross_entropy"] == pytest.approx(expected, rel=1e-5)


def test_the_teacher_is_neither_trained_nor_saved(run):
    objective = made(run)
    before = {name: tensor.clone() for name, tensor in checkpoint.load(run[3]).state_dict().items()}
    means = objective(run[2], objective.prepare(run[2], batch_of(run)))
    means["loss"].sum.backward()
    teacher = objective.teacher.model
    assert not teacher.training and all(weight.grad is None and not weight.requires_grad for weight in teacher.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in teacher.state_dict().items())
    assert not list(objective.parameters()) and not objective.state_dict() and not list(objective.children())


def test_a_teacher_in_bfloat16_is_near_the_one_in_float32_and_teaches_in_float32(run):
    exact, coarse = (measured(made(run, precision=precision), run[2], batch_of(run))[0] for precision in ("float32", "bfloat16"))
    assert coarse["loss"] != exact["loss"] and coarse["loss"] == pytest.approx(exact["loss"], rel=0.05)


def begun(run, told=None, **options):
    """The objective with its cache filled for 3 steps of 4 rows."""
    spec, dataset = run[:2]
    objective = made(run, cache=True, **options)
    told = [] if told is None else told
    objective.begin(Reading(dataset, 0, 3, 4, spec.data.context, torch.device("cpu"), lambda *each: told.append(each)))
    return objective


@pytest.mark.parametrize("mode, options", [("top_k", {"tail": "bucket"}), ("sampled", {}), ("counts", {"temperature": 2.0})])
def test_cached_targets_are_the_fresh_ones_bit_for_bit(run, mode, options, tmp_path, monkeypatch):
    monkeypatch.setenv("ARCHBENCH_CACHE", str(tmp_path / "cache"))
    cached, fresh = begun(run, mode=mode, k=16, **options), made(run, mode=mode, k=16, **options)
    for step in range(3):
        ours, theirs = (each.prepare(run[2], batch_of(run, step=step)) for each in (cached, fresh))
        for name, tensor in ours["text"].extra.items():
            assert torch.equal(tensor, theirs["text"].extra[name]), name
        one = fresh.prepare(run[2], batch_of(run, step=step).split(4)[2])["text"].extra  # nor does the batch matter
        assert all(torch.equal(tensor[0], ours["text"].extra[name][2]) for name, tensor in one.items())
        (a, ga), (b, gb) = (measured(each, run[2], batch_of(run, step=step)) for each in (cached, fresh))
        assert a == b and all(torch.equal(x, y) for x, y in zip(ga, gb, strict=True))
    assert "teacher" not in vars(begun(run, mode=mode, k=16, **options))  # what is there needs no teacher


@pytest.mark.parametrize("around", [products.casting, products.rounded])
def test_runs_that_compute_in_bfloat16_have_targets_of_their_own(run, around, tmp_path, monkeypatch):
    """A teacher computes in what its run computes in, so what a float32 run has kept are other targets."""
    monkeypatch.setenv("ARCHBENCH_CACHE", str(tmp_path / "cache"))
    exact = begun(run, mode="counts", k=16)
    with around():
        cached, fresh = begun(run, mode="counts", k=16), made(run, mode="counts", k=16)
        ours, theirs = (each.prepare(run[2], batch_of(run))["text"].extra for each in (cached, fresh))
    assert cached.cache.folder != exact.cache.folder
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())


def test_a_cache_is_only_for_training(run, tmp_path, monkeypatch):
    """The rows of another split have the same numbers."""
    monkeypatch.setenv("ARCHBENCH_CACHE", str(tmp_path / "cache"))
    told = []
    objective = begun(run, told, mode="top_k", k=16)
    assert told[-1] == (12, 12, "rows of the teacher")
    report = next(iter(run[1].evaluation("report", 2, run[0].data.context, 2)))
    wanted = made(run, mode="top_k", k=16).prepare(run[2], report)["text"].extra["teacher_words"]
    assert torch.equal(objective.eval().prepare(run[2], report)["text"].extra["teacher_words"], wanted)


def test_the_distance_is_measured_on_the_whole_distribution(run):
    spec, dataset, model, folder = run
    objective = made(run, mode="sampled", k=2, temperature=3.0)
    given = Given(objective, objective, "report", spec.data.context, 4, "cpu", 0, folder)
    found = TeacherDistance(TeacherDistance.Config(rows=8))(model, dataset, given).values
    same_model = TeacherDistance(TeacherDistance.Config(rows=8))(checkpoint.load(folder), dataset, given).values
    assert found["teacher_kl"] > 0.01 and same_model == {"teacher_kl": pytest.approx(0, abs=1e-6), "teacher_agreement": 1.0}


def test_a_run_writes_the_cache_that_its_students_read(run, tmp_path, monkeypatch):
    monkeypatch.setenv("ARCHBENCH_CACHE", str(tmp_path / "cache"))
    spec, dataset, model, folder = run
    evaluator = TeacherCache(TeacherCache.Config(mode="top_k", k=16, rows=12))
    given = Given(None, None, "report", spec.data.context, 4, "cpu", 0, folder)
    found = evaluator(model, dataset, given)
    assert set(found.values) == set(evaluator.metrics) and found.values["cached_tokens"] > 12 * 20
    assert 0 < found.values["cache_tail_mass"] < 1 and 0 < found.values["teacher_entropy"] < np.log(V)
    assert evaluator.lasting(found.table)
    objective = begun(run, mode="top_k", k=16)  # the same 12 rows: seed 0, 3 steps of 4
    assert "teacher" not in vars(objective)
    (objective.cache.folder / "index.json").unlink()
    assert not evaluator.lasting(found.table)


def test_what_the_cache_costs_is_what_it_takes(run, tmp_path, monkeypatch):
    monkeypatch.setenv("ARCHBENCH_CACHE", str(tmp_path / "cache"))
    spec, dataset, _, folder = run
    tokens = 3 * 4 * spec.data.context
    trained = spec.model_copy(update={"train": spec.train.model_copy(update={"steps": 3})})
    config = Distill.Config(teacher=str(folder), mode="top_k", k=16, cache=True)
    runs = {"teacher": referred(folder, dataset)}
    cost, online = (Distill.costs(each, trained, dataset, runs) for each in (config, config.model_copy(update={"cache": False})))
    assert cost["flops"] == online["flops"] == tokens * cost["teacher_flops_per_token"] and cost["seconds"] > 0
    assert "disk_bytes" not in online
    assert 0.8 * cost["disk_bytes"] < begun(run, mode="top_k", k=16).cache.bytes < 1.1 * cost["disk_bytes"] + 1000
    long = spec.model_copy(update={"train": spec.train.model_copy(update={"steps": 10**6})})
    assert Distill.costs(config, long, dataset, runs)["flops"] == dataset.rows("train", 32) * 32 * cost["teacher_flops_per_token"]


def referred(folder, dataset):
    model, _ = checkpoint.open_checkpoint(folder)
    return Referred("teacher", model, None, dataset.tokenizer, str(folder))


def refused(tiny, text):
    with pytest.raises(SpecError) as error:
        plan(document.node(tiny))
    assert str(error.value) == text


@pytest.mark.parametrize(
    "options, key, reason",
    [
        ({"mode": "top_k", "k": 301}, "k", "301 is more than the vocabulary of 300; mode full uses all of it"),
        ({"k": 8}, "k", "mode full uses the whole vocabulary and has no k"),
        ({"cache": True}, "cache", "mode full keeps nothing but all of the vocabulary; expected mode sampled, counts or top_k"),
        ({"mode": "counts", "k": 8, "tail": "bucket"}, "tail", "only mode top_k has a tail, not counts"),
        ({"mode": "top", "k": 8}, "mode", "expected 'full', 'sampled', 'counts' or 'top_k', got 'top'"),
    ],
)
def test_options_that_do_not_fit_are_refused_at_their_key(run, tiny, options, key, reason):
    tiny["objective"] = {"type": "distill", "teacher": str(run[3]), **options}
    with pytest.raises(SpecError) as error:
        plan(document.node(tiny))
    assert str(error.value).startswith(f"objective.{key}: ") and (key == "mode" or error.value.reason == reason)


def test_a_teacher_of_other_tokens_is_refused_by_name(run, tiny, tmp_path):
    other = {**tiny, "data": {**tiny["data"], "tokenizer": {"type": "bpe", "vocab_size": 290}}}
    tokenizer = prepare(resolve(other).data, V).tokenizer
    both = saved(tmp_path / "other", model_data(tiny), tokenizer)
    tiny["objective"] = {"type": "distill", "teacher": str(both)}
    both_named = "the teacher's tokenizer is one with 290 tokens, this run's is byte with 259"
    refused(tiny, f"objective.teacher: {both_named}; their ids mean other tokens")
    (both / checkpoint.TOKENIZER).unlink()
    wide = saved(tmp_path / "wide", model_data(tiny, vocab_size=301))
    tiny["objective"]["teacher"] = str(wide)
    refused(tiny, "objective.teacher: the teacher's model has a vocabulary of 301 tokens, this run's model 300; expected the same")


def test_a_cache_that_does_not_belong_is_refused_when_the_run_is_planned(run, tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("ARCHBENCH_CACHE", str(tmp_path / "cache"))
    tiny["objective"] = {"type": "distill", "teacher": str(run[3]), "mode": "top_k", "k": 16, "cache": True}
    plan(document.node(tiny))
    folder = begun(run, mode="top_k", k=16).cache.folder
    plan(document.node(tiny))
    shard = next(folder.glob("*.safetensors"))
    size = len(shard.read_bytes())
    shard.write_bytes(shard.read_bytes()[:100])
    start = f"objective.cache: {shard}: the teacher's cache is damaged (100 of its {size:,} bytes are there)"
    refused(tiny, f"{start}; delete its folder and start again")
    other = begun(run, mode="top_k", k=15).cache.folder
    for path in folder.iterdir():
        path.unlink()
    for path in other.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    refused_text = f"objective.cache: {folder}: a cache of other targets: keeping is "
    with pytest.raises(SpecError) as error:
        plan(document.node(tiny))
    assert str(error.value).startswith(refused_text)


def test_rows_without_numbers_have_no_cache(plugins, run, tiny, tmp_path):
    teacher = saved(tmp_path / "generated", model_data(tiny))
    tiny["data"] = {"source": {"type": "own_dataset:Copying"}, "context": 16, "rows": 4}
    tiny["objective"] = {"type": "distill", "teacher": str(teacher), "mode": "top_k", "k": 4, "cache": True}
    refused(tiny, "objective.cache: the source own_dataset:Copying has no rows by number, which a cache needs; expected false")
    tiny["objective"]["cache"] = False
    plan(document.node(tiny))


def test_only_a_run_with_a_teacher_has_a_distance(tiny):
    tiny["evaluate"] = {"report": {"far": {"type": "teacher_distance"}}}
    with pytest.raises(
        SpecError, match=r"evaluate.report.far: teacher_distance needs `teacher`: its objective learns from a teacher"
    ):
        resolve(document.node(tiny))


def test_a_cache_that_is_gone_is_written_again(run, tiny, tmp_path, monkeypatch):
    from experiments.train import measure, train

    monkeypatch.setenv("ARCHBENCH_CACHE", str(tmp_path / "cache"))
    tiny["train"]["steps"] = 0
    tiny["evaluate"] = {"report": {"kept": {"type": "teacher_cache", "mode": "counts", "k": 4, "rows": 3}}}
    planned = plan(document.node(tiny))
    assert train(planned, 0, tmp_path / "run").status == "finished"
    assert list(measure(planned, 0, tmp_path / "run")) == []
    [index] = (Path(tmp_path) / "cache" / "teacher").glob("*/index.json")
    index.unlink()
    [again] = measure(planned, 0, tmp_path / "run")
    assert again.name == "kept" and index.is_file()
    assert evaluations.files(planned.spec)


def test_keeping_targets_of_a_task_needs_the_number_of_rows(tiny):
    """Its rows have no end: a list of their numbers would not fit into memory."""
    task = prepare(DataSpec.parse({"source": {"type": "mqar", "vocabulary": 32, "pairs": 2}, "context": 16, "rows": 4}), 32)
    with pytest.raises(SpecError, match="rows: the rows of this dataset have no end; expected how many"):
        TeacherCache(TeacherCache.Config(k=4)).check(task, "report")
    TeacherCache(TeacherCache.Config(k=4, rows=8)).check(task, "report")
    spec = resolve(tiny)
    TeacherCache(TeacherCache.Config(k=4)).check(prepare(spec.data, V), "report")


def test_the_source_of_a_plug_in_is_part_of_the_teacher(tiny, plugins, tmp_path):
    """Of the key of its targets, and of the identity of its student."""
    data = model_data(tiny)
    block = next(iter(data["blocks"]))
    data["blocks"] |= {block: {**data["blocks"][block], "ffn": {"type": "own_ffn:SquaredReLU", "hidden": 8}}}
    teacher = saved(tmp_path / "teacher", data)
    tiny["objective"] = {"type": "distill", "teacher": str(teacher)}
    keeping = Keeping(mode="top_k", k=4, temperature=1.0, precision="float32")
    keys, identities = set(), set()
    for comment in ("", "# another version\n"):
        source = plugins / "own_ffn.py"
        source.write_text(source.read_text() + comment)
        keys.add(about(teacher, "data", 32, keeping).folder)
        identities.add(plan(tiny).identity)
    assert len(keys) == len(identities) == 2


@pytest.mark.parametrize("cached", [False, True])
def test_targets_are_the_same_in_a_run_whose_default_type_is_bfloat16(run, cached, tmp_path, monkeypatch):
    monkeypatch.setenv("ARCHBENCH_CACHE", str(tmp_path / "cache"))
    make = begun if cached else made
    want = make(run, mode="top_k", k=16).prepare(run[2], batch_of(run))["text"].extra
    torch.set_default_dtype(torch.bfloat16)
    try:
        got = make(run, mode="top_k", k=16).prepare(run[2], batch_of(run))["text"].extra
    finally:
        torch.set_default_dtype(torch.float32)
    assert all(got[name].dtype == want[name].dtype and torch.equal(got[name], want[name]) for name in want)


def test_a_teacher_of_text_teaches_no_task_of_as_many_tokens(run, tiny):
    """And no task's teacher text: nothing says that their ids mean the same."""
    spec, dataset, _, folder = run
    task = spec.data.model_copy(update={"source": {"type": "mqar"}, "tokenizer": None})
    of_text = Referred("teacher", spec.model, spec.data, dataset.tokenizer, str(folder))
    of_task = Referred("teacher", spec.model, task, None, str(folder))
    config = Distill.Config(teacher=str(folder))
    without = SimpleNamespace(tokenizer=None, fingerprint="")
    for data, its_dataset, teacher in ((task, without, of_text), (spec.data, dataset, of_task)):
        with pytest.raises(SpecError, match=r"the teacher's data is \w+ with(out)? a tokenizer, this run's \w+ with"):
            Distill.check(config, spec.model_copy(update={"data": data}), its_dataset, {"teacher": teacher})
    Distill.check(config, spec.model_copy(update={"data": task}), without, {"teacher": of_task})
