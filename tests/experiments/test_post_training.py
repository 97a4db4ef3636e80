"""Objectives that learn from answers: whose answers they are, what has a gradient, rewards, and the distance from the start."""

import json
import math
import re

import numpy as np
import pytest
import torch
from pandas import read_parquet
from two_processes import differences, on_two, torchrun

from arch import checkpoint, document, registry, tensors
from arch.contracts import Given
from arch.errors import SpecError
from arch.generate import drawn, generate
from arch.kernels.jsd import reference
from arch.model import new_model
from arch.model_spec import ModelSpec
from experiments import policy, sampled, scored
from experiments.data.batch import Batch
from experiments.data.dataset import prepare
from experiments.data.exchange import Exchange
from experiments.data.exchanges import answers_only
from experiments.data.sources.pages import PageRows, Pages
from experiments.evaluators.answers import AnswersEvaluator
from experiments.objectives.best_of_n import LEAST, log_quantile
from experiments.objectives.reward_weighted import weights
from experiments.objectives.sft import SFT
from experiments.plan import plan, resolve
from experiments.record import RunRecord
from experiments.rewards.copied import edits
from experiments.train import train

CONTEXT = 48


def asking(tiny, objective, **more):
    data = {
        "source": {"type": "arithmetic", "digits": 1, "template": "plain"},
        "tokenizer": {"type": "byte"},
        "context": CONTEXT,
        "rows": 4,
    }
    return {**tiny, "data": data, "objective": objective, "evaluate": {"select": {}, "report": {}}, **more}


@pytest.fixture
def run(tiny, tmp_path):
    """(the experiment as plain data, its dataset, a policy, the folder of a start with other weights)"""
    spec = resolve(asking(tiny, {"type": "sft"}))
    dataset = prepare(spec.data, spec.model.vocab_size)
    folder = tmp_path / "start"
    folder.mkdir()
    start = new_model(spec.model, 7)
    with torch.no_grad():
        start.embedding.mul_(6)
    checkpoint.write(spec.model, tensors.of_mapping(dict(start.named_parameters())), folder)
    dataset.tokenizer.save(str(folder / checkpoint.TOKENIZER))
    policy_model = new_model(spec.model, 8)
    with torch.no_grad():
        policy_model.embedding.mul_(6)
    return tiny, dataset, policy_model, str(folder)


def rows_of(run, rows=4, step=0):
    return run[1].batch("train", step, 0, rows, CONTEXT)


def made(run, kind, **options):
    _, dataset, _, folder = run
    option = "start" if kind in ("best_of_n", "reward_weighted") else "teacher"
    config = registry.config("objective", {"type": kind, option: folder, **options})
    return registry.component("objective", kind)(config, dataset, {option: folder})


def test_a_draw_is_of_its_distribution_and_never_of_what_has_no_probability():
    p = torch.tensor([[0.0, 0.5, 0.0, 0.3, 0.2, 0.0]])
    uniform = torch.arange(1000, dtype=torch.float64) / 1000
    tokens = drawn(p.expand(1000, -1), uniform)[:, 0]
    assert torch.bincount(tokens, minlength=6).tolist() == pytest.approx([0, 500, 0, 300, 200, 0], abs=1)
    assert int(drawn(p, torch.tensor([1 - 2**-53], dtype=torch.float64))) == 4


def test_answers_depend_on_the_number_of_their_row_and_not_on_those_beside_it(run):
    _, dataset, model, _ = run
    rows = answers_only(rows_of(run, 6)["text"])
    whole = sampled.answers(model, rows, dataset, 1.0)
    parts = [sampled.answers(model, rows.part(slice(first, first + 2)), dataset, 1.0) for first in (0, 2, 4)]
    assert torch.equal(whole.rows.tokens_BT, torch.cat([part.rows.tokens_BT for part in parts]))
    assert whole.texts == [text for part in parts for text in part.texts] and len(set(whole.texts)) > 3
    several = sampled.answers(model, rows, dataset, 1.0, several=2)
    assert torch.equal(several.rows.tokens_BT[::2], whole.rows.tokens_BT)
    later = sampled.answers(model, rows, dataset, 1.0, first=1)
    assert torch.equal(several.rows.tokens_BT[1::2], later.rows.tokens_BT) and later.texts != whole.texts


def test_greedy_answers_are_what_generate_writes(run):
    """Prompts of different lengths together, cut at the first token that ends an answer."""
    _, dataset, model, _ = run
    rows = rows_of(run, 5)["text"]
    wrote = sampled.answers(model, answers_only(rows), dataset, 0.0, tokens=7)
    for b in range(5):
        start = int(rows.extra["start"][b])
        ids = generate(model, rows.tokens_BT[b : b + 1, :start], 7, temperature=0)[0].tolist()
        stop = next((i + 1 for i, number in enumerate(ids) if number in dataset.chat.stops), 7)
        targets = wrote.rows.targets_BT[b]
        assert targets[targets >= 0].tolist() == ids[:stop] and bool(wrote.ended_B[b]) == (ids[stop - 1] in dataset.chat.stops)
        assert torch.equal(wrote.rows.tokens_BT[b, :start], rows.tokens_BT[b, :start])
        assert int(wrote.rows.layout.seen_BT[b].sum()) == start + stop - 1


def test_sft_scores_answers_alone_and_takes_them_from_a_teacher_if_there_is_one(run):
    model = run[2]
    plain, taught = registry.component("objective", "sft"), made(run, "sft")
    objective = plain(plain.Config(), run[1])
    batch = objective.prepare(model, rows_of(run))
    rows = batch["text"]
    loss = objective(model, batch)["loss"]
    log_p = model(rows.tokens_BT, rows.layout).log_softmax(-1)
    expected = -log_p.gather(2, rows.targets_BT.clamp(min=0)[..., None])[..., 0][rows.targets_BT >= 0].sum()
    torch.testing.assert_close(loss.sum, expected, rtol=1e-5, atol=1e-4)
    assert loss.weight == sum(len(run[1].chat.answer(each.answer)) for each in run[1].exchanges(rows))
    theirs = taught.prepare(model, rows_of(run))["text"]
    expected = sampled.answers(taught.teacher.model, answers_only(rows_of(run)["text"]), run[1], 1.0)
    assert torch.equal(theirs.tokens_BT, expected.rows.tokens_BT) and not torch.equal(theirs.tokens_BT, rows.tokens_BT)


def test_sft_reads_images_and_a_teacher_does_not(run):
    _, dataset, _, folder = run
    pages = PageRows(Pages.Config())
    spec = resolve(document.load("tiny_pages", "experiments", ["data.source.tokens=4", "model.vision.tokens=4"]))
    model, batch = new_model(spec.model, 0), pages.numbered("train", [0, 1], pages.needed)
    rows = batch["text"]
    rows.extra["start"] = (rows.targets_BT >= 0).long().argmax(1) + 1
    with torch.no_grad():
        loss = made(run, "sft", teacher=None)
        loss.folder = None
        mine = loss(model, loss.prepare(model, batch))["loss"]
        right = registry.build("objective", {"type": "next_token"}, pages)(model, batch)["loss"]
        rows.extra["images"] = -rows.extra["images"]
        other = loss(model, loss.prepare(model, batch))["loss"]
    assert torch.allclose(mine.sum, right.sum) and mine.weight == right.weight and not torch.allclose(mine.sum, other.sum)
    config = registry.config("objective", {"type": "sft", "teacher": folder})
    with pytest.raises(SpecError, match="a teacher writes answers to texts alone"):
        SFT.check(config, spec, dataset, {"teacher": None})


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
def test_on_policy_is_the_divergence_over_the_students_own_answers(beta, run):
    _, dataset, model, _ = run
    objective = made(run, "on_policy", beta=beta)
    batch = objective.prepare(model, rows_of(run))
    rows = batch["text"]
    assert torch.equal(rows.tokens_BT, sampled.answers(model, answers_only(rows_of(run)["text"]), dataset, 1.0).rows.tokens_BT)
    chosen = rows.targets_BT >= 0
    student, teacher = (each(rows.tokens_BT, rows.layout)[chosen] for each in (model, objective.teacher.model))
    expected = reference(student, teacher.detach(), beta).sum()
    mean = objective(model, batch)["loss"]
    gradients = [torch.autograd.grad(loss, list(model.parameters())) for loss in (expected, mean.sum)]
    torch.testing.assert_close(mean.sum, expected, rtol=1e-4, atol=1e-4)
    for one, other in zip(*gradients, strict=True):
        assert (one - other).norm() <= 1e-4 * one.norm() + 1e-6
    assert mean.weight == int(chosen.sum()) and not any("teacher" in name for name, _ in objective.named_parameters())


def test_a_share_of_rows_keeps_its_references(run):
    objective, rows = made(run, "on_policy", student=0.5), rows_of(run, 64)
    after = objective.prepare(run[2], rows)["text"]
    own = objective._own(rows["text"])
    assert 16 < int(own.sum()) < 48
    kept = answers_only(rows["text"])
    assert torch.equal(after.targets_BT[~own], kept.targets_BT[~own])
    alone = objective.prepare(run[2], rows_of(run, 64).split(16)[3])["text"]
    assert torch.equal(alone.targets_BT, after.targets_BT[12:16])
    ended = objective(run[2], Batch.text(after))["ended"]  # of the student's answers alone
    assert (float(ended.weight), float(ended.sum)) == (
        int(own.sum()),
        int(after.extra["ended"].sum()),
    ) and ended.sum <= ended.weight
    assert not after.extra["ended"][~own].any()


@pytest.mark.parametrize(
    "kind, options",
    [
        ("sft", {}),
        ("on_policy", {}),
        ("best_of_n", {"reward": {"type": "copied"}, "n": 3}),
        ("reward_weighted", {"reward": {"type": "copied"}, "answers": 3}),
    ],
)
def test_micro_batches_change_nothing(kind, options, run):
    objective, model = made(run, kind, **options), run[2]
    batch = objective.prepare(model, rows_of(run))
    whole, parts = objective(model, batch), [objective(model, part) for part in batch.split(2)]
    assert whole["loss"].weight == batch.weight and whole.keys() <= objective.metrics.keys()
    for name, mean in whole.items():
        assert sum(float(part[name].sum.detach()) for part in parts) == pytest.approx(
            float(mean.sum.detach()), rel=1e-4, abs=1e-4
        ), name
        assert sum(part[name].weight for part in parts) == mean.weight


def test_a_quantile_is_the_share_that_is_no_better():
    among = torch.tensor([[0.0, 1.0], [0.0, 0.0]])
    found = log_quantile(torch.tensor([[-1.0, 0.0, 1.0], [0.0, 2.0, -1.0]]), among).exp()
    torch.testing.assert_close(found, torch.tensor([[LEAST / 2, 0.5, 1.0], [1.0, 1.0, LEAST / 2]]))
    assert math.log(LEAST / 2) == pytest.approx(-math.log(16))


def test_best_of_n_takes_the_best_of_the_anchors_answers(run):
    _, dataset, model, _ = run
    objective = made(run, "best_of_n", reward={"type": "copied"}, n=4, jeffreys=0.0)
    batch = objective.prepare(model, rows_of(run))
    theirs = sampled.answers(objective.anchor.model, rows_of(run)["text"], dataset, 1.0, several=4)
    rewards = policy.rewards(objective.reward, dataset, theirs).view(4, 4)
    assert torch.equal(batch["best"].extra["reward"], rewards.amax(1))
    for b in range(4):
        assert torch.equal(batch["best"].tokens_BT[b], theirs.rows.tokens_BT[4 * b + int(rewards[b].argmax())])
    assert not torch.equal(batch["own0"].tokens_BT, theirs.rows.tokens_BT[::4])
    loss = objective(model, batch)["loss"].sum
    assert float(loss.detach()) == pytest.approx(-float(sampled.log_probabilities(model, batch["best"]).sum().detach()), rel=1e-4)


def test_the_backward_part_is_a_policy_gradient_less_the_other_answers(run):
    """Worth is (n - 1) log quantile - log(policy / anchor), less the mean of the prompt's others; so it adds up to 0."""
    model = run[2]
    objective = made(run, "best_of_n", reward={"type": "copied"}, n=4, own=3, jeffreys=1.0)
    batch = objective.prepare(model, rows_of(run))
    worth = torch.stack([batch[f"own{k}"].extra["worth"] for k in range(3)], 1)
    torch.testing.assert_close(worth.sum(1), torch.zeros(4), atol=1e-3, rtol=0)
    loss = objective(model, batch)["loss"].sum
    each = [-(batch[f"own{k}"].extra["worth"] * sampled.log_probabilities(model, batch[f"own{k}"])).sum() / 3 for k in range(3)]
    assert float(loss.detach()) == pytest.approx(float(sum(each).detach()), rel=1e-3, abs=1e-2)


def test_a_policy_that_is_its_start_is_at_no_distance_and_another_is(run):
    objective = made(run, "reward_weighted", reward={"type": "copied"})
    start = objective.anchor.start.model
    for model, far in ((start, False), (run[2], True)):
        batch = objective.prepare(model, rows_of(run))
        kl = torch.cat([rows.extra["kl"] for rows in batch.values()])
        assert (kl > 1e-3).all() if far else float(kl.abs().max()) < 1e-4
    bounded = made(run, "reward_weighted", reward={"type": "copied"}, kl_most=float(kl.median()))
    batch = bounded.prepare(run[2], rows_of(run))
    means = bounded(run[2], batch)
    assert 0 < float(means["bounded"].sum) < means["bounded"].weight
    assert all((rows.extra["worth"][rows.extra["bounded"]] == 0).all() for rows in batch.values())


def test_weights_are_a_softmax_of_rewards_and_equal_rewards_move_nothing():
    rewards = torch.tensor([[0.0, 1.0], [1.0, 1.0]])
    torch.testing.assert_close(weights(rewards, 0.5, False)[0], torch.tensor([0.0, 2.0]).softmax(0))
    centred = weights(rewards, 0.5, True)
    torch.testing.assert_close(centred.sum(1), torch.zeros(2))
    assert (centred[1] == 0).all() and centred[0, 1] > 0 > centred[0, 0]


@pytest.mark.parametrize("kind", ["best_of_n", "reward_weighted"])
def test_an_anchor_follows_the_policy_and_outlives_an_interruption(kind, run):
    model = run[2]
    objective = made(run, kind, reward={"type": "copied"}, rate=0.25)
    before = [weight.clone() for weight in objective.anchor.model.parameters()]
    objective.prepare(model, rows_of(run))
    for mine, was, its in zip(objective.anchor.model.parameters(), before, model.parameters(), strict=True):
        torch.testing.assert_close(mine, 0.75 * was + 0.25 * its)
    again = made(run, kind, reward={"type": "copied"}, rate=0.25)
    again.restore(objective.kept())
    pairs = zip(again.anchor.model.parameters(), objective.anchor.model.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)
    assert all(torch.equal(was, now) for was, now in zip(before, again.anchor.start.model.parameters(), strict=True))


def test_a_resumed_run_with_a_moving_anchor_is_an_uninterrupted_one(run, tmp_path):
    tiny, _, _, folder = run
    objective = {"type": "best_of_n", "start": folder, "reward": {"type": "copied"}, "n": 2, "rate": 0.5, "answer_tokens": 4}
    spec = asking(tiny, objective, init_from=folder)
    spec["train"] = {"steps": 4, "checkpoint_every": 1}
    stops = iter([False, False, True])
    assert train(plan(spec), 0, tmp_path / "run", stop=lambda: next(stops)).status == "interrupted"
    resumed, whole = train(plan(spec), 0, tmp_path / "run"), train(plan(spec), 0, tmp_path / "whole")
    assert resumed.status == whole.status == "finished", whole.failure
    assert resumed.metrics == whole.metrics and {"train/reward", "train/kl", "train/best_reward"} <= set(whole.metrics)
    weights_of = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("run", "whole")]
    assert weights_of[0] == weights_of[1]


@pytest.mark.parametrize(
    "kind, answer, expected",
    [
        ("exact", " 12\n", 1),
        ("exact", "13", 0),
        ("number", "012", 1),
        ("number", "14", 0),
        ("number", "x", 0),
        ("copied", "12", 1),
        ("copied", "1", 0.5),
        ("copied", "", 0),
    ],
)
def test_rewards_of_an_answer(kind, answer, expected):
    reward = registry.build("reward", {"type": kind})
    assert float(scored.rewards(reward, [Exchange("7+5=", "12")], [answer])) == expected


def test_a_number_too_far_away_for_a_float_is_wrong():
    far = registry.build("reward", {"type": "number", "near": 0.5})
    assert far("1+1=", "1" * 400, "2") == 0.0 and far("1+1=", "3", "2") == 0.5


@pytest.mark.parametrize(
    "value, said", [(1e39, "1e+39"), (10**400, "1000"), (float("-inf"), "-inf"), (True, "True"), (None, "None")]
)
def test_a_reward_is_a_finite_float32(value, said):
    with pytest.raises(
        scored.RewardError, match=rf"gives {re.escape(said)}.* instead of a finite number for the answer 'c' to 'a'"
    ):
        scored.rewards(lambda *_: value, [Exchange("a", "b")], ["c"])
    assert scored.rewards(lambda *_: np.float32(0.5), [Exchange("a", "b")], ["c"]).tolist() == [0.5]


@pytest.mark.parametrize(
    "body, expected", [("    return 1", 1), ("return 1", 0), ("", 0), ("    return (", 0), ("    x = '\\d'\0", 0)]
)
def test_valid_python_is_what_parses_below_its_prompt(body, expected):
    reward = registry.build("reward", {"type": "valid_python"})
    assert reward("def f():", body, "    pass") == expected


def test_edits_are_the_distance_of_levenshtein():
    assert [edits(*pair) for pair in (("", "abc"), ("kitten", "sitting"), ("abc", "abc"))] == [3, 3, 0]


OWN = """from arch.registry import reward
from arch.spec import Spec


@reward
class Own:
    class Config(Spec):
        how: str

    def __init__(self, config):
        self.config = config

    def __call__(self, prompt, answer, reference):
        return {"raises": lambda: 1 / 0, "nan": lambda: float("nan"), "text": lambda: "good"}[self.config.how]()
"""


@pytest.mark.parametrize(
    "how, text",
    [
        ("raises", "raised ZeroDivisionError (division by zero) for the answer"),
        ("nan", "gives nan instead of a finite number"),
        ("text", "gives 'good' instead of a finite number"),
    ],
)
def test_a_reward_that_fails_ends_the_run_which_says_so(how, text, run, tmp_path, monkeypatch):
    tiny, _, _, folder = run
    (tmp_path / "own_reward.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    own = {"type": "own_reward:Own", "how": how}
    planned = plan(asking(tiny, {"type": "reward_weighted", "start": folder, "reward": own, "answer_tokens": 2}, init_from=folder))
    assert "own_reward" in planned.plugins
    record = train(planned, 0, tmp_path / "run")
    assert record.status == "failed" and text in record.failure.message and "own_reward:Own" in record.failure.message
    assert record.failure.error == "RewardError" and not record.failure.machine


@pytest.mark.parametrize(
    "objective, path, text",
    [
        ({"type": "best_of_n", "reward": {"type": "exat"}}, ("objective", "reward", "type"), "did you mean 'exact'?"),
        ({"type": "best_of_n", "reward": {"type": "number", "nere": 1}}, ("objective", "reward", "nere"), "unknown key"),
        ({"type": "best_of_n"}, ("objective", "reward"), "missing"),
        ({"type": "on_policy", "student": 0.0}, ("objective", "student"), "expected a share above 0"),
        ({"type": "on_policy", "beta": 1.5}, ("objective", "beta"), "less than or equal to 1"),
    ],
)
def test_options_that_cannot_be_are_refused_at_their_key(objective, path, text, run):
    tiny, _, _, folder = run
    named = {"start": folder} if objective["type"] == "best_of_n" else {"teacher": folder}
    with pytest.raises(SpecError) as caught:
        plan(asking(tiny, {**objective, **named}))
    assert (caught.value.path, text in str(caught.value)) == (path, True), str(caught.value)


def test_a_start_of_another_architecture_cannot_follow_and_data_must_have_answers(run):
    tiny, _, _, folder = run
    wide = {**tiny, "model": {**tiny["model"], "dim": 24}}
    options = {"type": "best_of_n", "start": folder, "reward": {"type": "exact"}, "rate": 0.1}
    with pytest.raises(SpecError, match=r"objective.start: .* has another architecture"):
        plan(asking(wide, options))
    with pytest.raises(SpecError, match="objective: sft needs `answers`: its data are prompts with answers"):
        plan({**tiny, "objective": {"type": "sft"}})
    sharded = asking(tiny, {**options, "rate": 0.0}, train={"steps": 1, "devices": 2, "strategy": "fsdp2"})
    with pytest.raises(SpecError, match=r"train\.strategy: fsdp2 keeps a part of the weights"):
        plan(sharded)


@pytest.mark.slow
def test_two_processes_learn_what_one_learns(run, tmp_path, monkeypatch):
    """From answers that each process draws for its own rows, with an anchor that moves, also in micro-batches."""
    tiny, _, _, folder = run
    monkeypatch.setenv("ARCHBENCH_CACHE", str(tmp_path / "cache"))
    reward = {"reward": {"type": "number", "near": 0.5}, "start": folder}
    objectives = {
        "on_policy": {"teacher": folder, "student": 0.5},
        "best_of_n": {**reward, "n": 3, "own": 2, "rate": 0.1, "kl_most": 3.0},
        "reward_weighted": {**reward},
    }
    cases, ones = [], {}
    for kind, options in objectives.items():
        spec = asking(tiny, {"type": kind, **options}, train={"steps": 3, "threads": 1}, optimizer={"lr": 1e-3, "clip": 0.5})
        ones[kind] = tmp_path / kind
        assert train(plan(spec), 0, ones[kind]).status == "finished"
        for name, more in {"whole": {}, "parts": {"accumulate": 2}}.items():
            cases.append({"folder": f"{kind}-{name}", "plan": plan(on_two(spec, "ddp", **more)).dump()})
    (tmp_path / "cases.json").write_text(json.dumps(cases))
    done = torchrun(tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    for case in cases:
        one, two = ones[case["folder"].rpartition("-")[0]], tmp_path / case["folder"]
        assert RunRecord.read(two).status == "finished", RunRecord.read(two).failure
        assert max(differences(one, two)) < 1e-5, case["folder"]
        curves = [read_parquet(each / "history.parquet") for each in (one, two)]
        for column in curves[0].filter(regex="^train/|grad_norm"):
            assert (curves[0][column] - curves[1][column]).abs().max() < 1e-4, (case["folder"], column)
        assert curves[1]["grad_norm"].min() > 0


def test_the_evaluator_says_how_many_answers_are_right(run, monkeypatch):
    _, dataset, model, _ = run
    given = Given(None, None, "report", CONTEXT, 4, "cpu", 0)
    evaluator = AnswersEvaluator(AnswersEvaluator.Config(rows=10, reward={"type": "number", "near": 0.5}))
    plain = evaluator(model, dataset, given)
    assert plain.values.keys() == evaluator.metrics.keys() and 0 <= plain.values["answer_exact"] <= 1

    def perfect(model, rows, data, *_, **__):
        wrote = sampled.Answers(rows, [each.answer for each in data.exchanges(rows)], torch.ones(len(rows), dtype=torch.bool))
        return wrote._replace(rows=answers_only(rows))

    monkeypatch.setattr(sampled, "answers", perfect)
    found = evaluator(model, dataset, given)
    assert found.values["answer_exact"] == found.values["answer_reward"] == found.values["answer_ended"] == 1
    assert found.text.count("\n") == 7 and "(reward 1)" in found.text


def test_another_template_has_metrics_of_its_own(run):
    _, dataset, model, _ = run
    evaluator = AnswersEvaluator(AnswersEvaluator.Config(rows=2, template="gemma3"))
    asked = evaluator._dataset(dataset)
    prompt = asked.batch("train", 0, 0, 1, CONTEXT)["text"].tokens_BT[0].tolist()
    assert dataset.tokenizer.token_to_id("<start_of_turn>") in prompt
    assert set(evaluator(model, dataset, Given(None, None, "report", CONTEXT, 4, "cpu", 0)).values) == {
        f"answer_{kind}_in_gemma3" for kind in ("exact", "reward", "length", "ended")
    }


def test_a_model_spec_as_it_was_read(run):
    """The start's spec equals the policy's, so that an anchor may follow it."""
    assert isinstance(checkpoint.open_checkpoint(run[3])[0], ModelSpec)
