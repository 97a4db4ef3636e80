"""Evaluators of long texts against slow and independent computations: by_position, extrapolate, memorization."""

import itertools
import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from arch import registry
from arch.contracts import Given
from arch.document import node, overridden
from arch.errors import DataError, SpecError
from arch.layout import TokenLayout
from arch.model import Model, new_model
from arch.model_spec import ModelSpec
from experiments import measuring, same_weights
from experiments.data.batch import Batch, Rows
from experiments.data.dataset import prepare
from experiments.evaluators.memorization import edit_distances
from experiments.long_texts import buckets
from experiments.plan import plan, resolve
from experiments.record import EVALUATIONS
from experiments.train import measure, train

NAMES = ("by_position", "extrapolate", "needle", "memorization")
SHORT_NEEDLE = {"type": "needle", "lengths": [64], "depths": [0.0, 1.0], "rows": 3, "template": "{key}: {value}."}


@pytest.fixture
def prepared(tiny):
    """(model, dataset) of the tiny experiment, untrained: an RG-LRU, a window of 4 and a global layer, in bytes."""
    spec = resolve(tiny)
    return new_model(spec.model, 0).eval(), prepare(spec.data, spec.model.vocab_size)


def given(rows=4, context=32, split="report"):
    return Given(None, None, split, context, rows, "cpu", 0)


@torch.no_grad()
def found(model, dataset, about=None, **options):
    """The Findings of an evaluator."""
    return registry.build("evaluator", options)(model, dataset, about or given())


@torch.no_grad()
def slow_nats(model, tokens, targets):
    """-log p of each target of one document, from its logits; NaN where there is none."""
    log_p = model(tokens[None])[0].double().log_softmax(-1)
    chosen = log_p.gather(1, targets.clamp(min=0)[:, None])[:, 0]
    return torch.where(targets >= 0, -chosen, torch.nan)


def documents(dataset, rows, tokens, split="report"):
    """[(tokens, targets)] of the documents that an evaluator of long texts reads."""
    parts = [batch["text"] for batch in dataset.long_documents(split, rows, tokens, 5)]
    return [pair for rows in parts for pair in zip(rows.tokens_BT, rows.targets_BT, strict=True)]


@pytest.mark.parametrize("tokens, per_doubling", [*itertools.product([1, 2, 8, 100, 256, 1000], [1, 2, 5])])
def test_buckets_hold_every_position_once_and_double_in_width(tokens, per_doubling):
    found = buckets(tokens, per_doubling)
    assert [n for bucket in found for n in range(bucket.first, bucket.last + 1)] == list(range(1, tokens + 1))
    assert found[:-1] == buckets(4 * tokens, per_doubling)[: len(found) - 1], "a longer context has the same buckets"
    ends = {bucket.last for bucket in found}
    assert {2**i for i in range(20) if 2**i <= tokens} <= ends
    assert len(found) <= per_doubling * (1 + np.log2(tokens)) + 1


def test_by_position_is_the_mean_of_each_position(prepared):
    model, dataset = prepared
    measured = found(model, dataset, type="by_position", rows=20, context=[16, 64])
    for context in (16, 64):
        nats_BT = torch.stack([slow_nats(model, *document) for document in documents(dataset, 20, context)])
        table = [row for row in measured.table if row["context"] == context]
        for row in table:
            part_BT = nats_BT[:, row["first"] - 1 : row["last"]]
            assert row["loss"] == pytest.approx(float(part_BT.nanmean()), rel=1e-5)
            assert row["targets"] == int((~part_BT.isnan()).sum()) and row["first"] <= row["seen"] <= row["last"]
        whole = sum(row["loss"] * row["targets"] for row in table) / sum(row["targets"] for row in table)
        assert whole == pytest.approx(float(nats_BT.nanmean()), rel=1e-5), "all buckets together are the mean loss"
        quarter = context // 4
        assert measured.values[f"position_loss_early@{context}"] == pytest.approx(float(nats_BT[:, :quarter].nanmean()), rel=1e-5)
        assert measured.values[f"position_loss_late@{context}"] == pytest.approx(float(nats_BT[:, -quarter:].nanmean()), rel=1e-5)


def test_the_same_numbers_come_in_batches_of_any_size(prepared):
    model, dataset = prepared
    for options in (
        {"type": "by_position", "rows": 7, "context": [48]},
        {"type": "extrapolate", "rows": 7, "lengths": [16, 64]},
        {**SHORT_NEEDLE, "rows": 5},
        {"type": "memorization", "rows": 5, "prefix": 6, "continuation": 3},
    ):
        one, many = (found(model, dataset, given(rows), **options) for rows in (1, 9))
        assert one.values == pytest.approx(many.values, rel=1e-5)
        assert [row.keys() for row in one.table] == [row.keys() for row in many.table]


@pytest.mark.parametrize(
    "options, longest",
    [
        ({"type": "by_position", "rows": 30, "context": [16, 100]}, 100),
        ({"type": "extrapolate", "rows": 30, "lengths": [16, 100]}, 100),
        ({**SHORT_NEEDLE, "rows": 30}, 64),
        ({"type": "memorization", "rows": 30, "prefix": 6, "continuation": 2}, 9),
    ],
)
def test_no_pass_reads_more_tokens_than_a_step_or_one_row(options, longest, prepared, monkeypatch):
    """So memory does not grow with the rows."""
    model, dataset = prepared
    read, trunk = [], Model.trunk
    monkeypatch.setattr(Model, "trunk", lambda self, tokens, *rest: read.append(tokens.numel()) or trunk(self, tokens, *rest))
    found(model, dataset, given(rows=2, context=32), **options)
    assert len(read) > 5 and max(read) <= max(64, longest)


def test_extrapolate_scores_the_same_tokens_after_more_and_more_context(prepared):
    model, dataset = prepared
    measured = found(model, dataset, type="extrapolate", rows=9, lengths=[16, 24, 80], tail=6)
    texts = documents(dataset, 9, 80)
    assert len(texts) == 9
    for length in (16, 24, 80):
        nats = []
        for tokens, targets in texts:
            read = torch.cat([tokens[:1], tokens[80 - length + 1 :]])
            nats.append(slow_nats(model, read, targets[80 - length :])[-6:])
        expected = float(torch.stack(nats).nanmean())
        assert measured.values[f"extrapolated_loss@{length}"] == pytest.approx(expected, rel=1e-5)
        summary = next(row for row in measured.table if row["length"] == length and "loss" in row)
        assert summary["loss"] == measured.values[f"extrapolated_loss@{length}"] and summary["targets"] == 9 * 6
    plain = torch.stack([slow_nats(model, *document) for document in texts])
    for row in (row for row in measured.table if row["length"] == 80 and "loss_by_position" in row):
        assert row["loss_by_position"] == pytest.approx(float(plain[:, row["first"] - 1 : row["last"]].nanmean()), rel=1e-5)


def changed_spec(model, **changes):
    """The spec of a model with dotted keys, whose dots are two underscores, overridden."""
    root = overridden(node(model.spec.dump()), node({key.replace("__", "."): value for key, value in changes.items()}))
    return registry.resolve(ModelSpec.parse(root), root)


@pytest.mark.parametrize(
    "changes",
    [
        {"blocks.local.mixer.window": 2},
        {"blocks": {"local": {"mixer": {"window": 2}}}, "blocks.global.mixer.rope.scale": 8.0},
        {"pattern": ["rec", "global", "local"]},
        {"logit_softcap": 0.5},
    ],
)
def test_with_set_the_same_weights_are_measured_under_the_changed_spec(changes, prepared):
    model, dataset = prepared
    options = {"type": "extrapolate", "rows": 6, "lengths": [16, 64]}
    other = Model(same_weights.changed(model.spec, changes)).eval()
    other.load_state_dict(model.state_dict())
    bits = {name: weight.clone() for name, weight in model.state_dict().items()}
    measured = found(model, dataset, **options, set=changes)
    assert measured == found(other, dataset, **options) and measured != found(model, dataset, **options)
    assert all(torch.equal(weight, bits[name]) for name, weight in model.state_dict().items())
    window = changed_spec(model, blocks__local__mixer__window=2)
    if changes == {"blocks.local.mixer.window": 2}:
        assert other.spec == window


def test_an_override_that_changes_nothing_changes_no_bit(prepared):
    model, dataset = prepared
    options = {"type": "extrapolate", "rows": 3, "lengths": [16, 64]}
    assert found(model, dataset, **options) == found(model, dataset, **options, set={"blocks.local.mixer.window": 4})


def test_a_model_under_another_spec_holds_the_same_tensors(prepared):
    model, _ = prepared
    other = same_weights.model_of(model, same_weights.changed(model.spec, {"blocks.local.mixer.window": 2}))
    theirs = dict(other.named_parameters())
    assert all(theirs.pop(name) is weight for name, weight in model.named_parameters()) and not theirs
    assert not other.training and model.spec.blocks["local"].mixer["window"] == 4


@pytest.mark.parametrize(
    "changes, text",
    [
        ({"blocks.local.mixer.windo": 2}, "set.blocks.local.mixer.windo: unknown key; did you mean 'window'?"),
        ({"blocks.local.mixer": {"windo": 2}}, "set.blocks.local.mixer.windo: unknown key; did you mean 'window'?"),
        ({"blocks.locl.mixer.window": 2}, "set.blocks.locl.mixer.window: "),
        ({"dims": 8}, "set.dims: unknown key; did you mean 'dim'?"),
        ({"blocks.local.mixer.window": 0}, "set.blocks.local.mixer.window: "),
        (
            {"blocks.local.mixer.window": 2, "blocks.local.mixer.heads": 4},
            "set.blocks.local.mixer.heads: the weights do not fit: blocks.1.mixer.component.q.weight is (16, 16), and this needs",
        ),
        ({"layers": 4}, "set.layers: the weights do not fit: there is no blocks.3."),
        ({"layers": 2}, "set.layers: the weights do not fit: blocks.2."),
        ({"blocks.local.mixer.qk_norm": True}, "set.blocks.local.mixer.qk_norm: the weights do not fit: there is no "),
        (
            {"blocks.global.mixer.causal": False},
            "set.blocks.global.mixer.causal: the model is causal, and with this it sees later tokens",
        ),
    ],
)
def test_what_cannot_be_set_is_refused_at_its_key_when_the_run_is_planned(changes, text, tiny):
    tiny["evaluate"] = {"report": {"far": {"type": "extrapolate", "lengths": [16], "set": changes}}}
    with pytest.raises(SpecError) as error:
        plan(tiny)
    assert str(error.value).startswith(f"evaluate.report.far.{text}")


@pytest.mark.parametrize(
    "options, text",
    [
        (
            {"type": "by_position", "context": [16, 9000]},
            "context: no document of the report split has 9,000 tokens; the",
        ),
        ({"type": "by_position", "context": [16, 16]}, "context: expected different numbers, at least one, got [16, 16]"),
        ({"type": "by_position", "context": []}, "context: expected different numbers, at least one, got []"),
        ({"type": "needle", "lengths": []}, "lengths: expected different numbers, at least one, got []"),
        ({"type": "by_position", "context": 4}, "context: "),
        ({"type": "extrapolate", "lengths": [16, 9000]}, "lengths: no document of the report split has 9,000 tokens"),
        ({"type": "extrapolate", "lengths": [16], "tail": 16}, "tail: 16 scored tokens do not fit into 16 tokens beside the first"),
        ({"type": "extrapolate", "label": "a b"}, "label: "),
        (
            {"type": "needle", "lengths": [64]},
            "lengths: 64 tokens cannot hold a needle and its question, which take 76, and some text; expected at least 85",
        ),
        ({"type": "needle", "lengths": [9000]}, "lengths: no document of the report split has 9,000 tokens"),
        ({"type": "needle", "depths": [0.5, 0.5]}, "depths: expected different depths, got [0.5, 0.5]"),
        ({"type": "needle", "template": "{value} of {key}"}, "template: expected a text with one {key} and, after it, one {value}"),
        ({"type": "needle", "template": "{key} {key} {value}"}, "template: expected a text with one {key}"),
        ({"type": "memorization", "prefix": 5000}, "prefix: no document of the train split has 5,051 tokens; the longest has"),
    ],
)
def test_what_a_split_cannot_give_is_refused_at_its_key_when_the_run_is_planned(options, text, tiny):
    tiny["evaluate"] = {"report": {"far": options}}
    with pytest.raises(SpecError) as error:
        plan(tiny)
    assert str(error.value).startswith(f"evaluate.report.far.{text}") and "\n" not in str(error.value)


@pytest.mark.parametrize("name", NAMES)
def test_a_model_that_sees_ahead_and_a_dataset_without_text_are_refused(name, plugins, tiny):
    tiny["objective"] = {"type": "own_objective:WithAccuracy"}
    tiny["evaluate"] = {"report": {"it": {"type": name}}}
    tiny["data"] = {"source": {"type": "own_dataset:Copying"}, "context": 16, "rows": 4}
    words = "it reads whole documents, and this dataset has none" if name in NAMES[:2] else f"{name} needs `text`: "
    with pytest.raises(SpecError, match=f"evaluate.report.it: {words}"):
        plan(tiny)
    tiny["model"]["blocks"]["global"]["mixer"]["causal"] = False
    tiny["data"] |= {"tokenizer": {"type": "byte"}}
    needed = "decodes" if name == "memorization" else "causal"
    with pytest.raises(SpecError, match=f"evaluate.report.it: {name} needs `{needed}`: .*; but the mixer of block global"):
        resolve(tiny)


def test_two_settings_stand_side_by_side_with_a_label(tiny):
    far = {"type": "extrapolate", "lengths": [16, 32], "rows": 2}
    rope = {**far, "set": {"blocks.global.mixer.rope.scale": 8.0}}
    tiny["evaluate"] = {"report": {"far": far, "rope": rope}}
    with pytest.raises(SpecError, match=r"evaluate\.report\.rope: extrapolated_loss@16: measured by 'far' already"):
        plan(tiny)
    rope["label"] = "rope8"
    assert len(plan(tiny).evaluations) == 3


def all_of_them(rows=3):
    """The section of an experiment with every evaluator of long texts."""
    return {
        "by_position": {"type": "by_position", "rows": rows},
        "extrapolate": {"type": "extrapolate", "rows": rows, "set": {"blocks.local.mixer.window": 2}},
        "needle": {**SHORT_NEEDLE, "rows": rows},
        "memorization": {"type": "memorization", "rows": rows, "prefix": 6, "continuation": 5},
    }


def test_a_run_measures_all_of_them_on_both_splits_and_again_the_same(tiny, tmp_path):
    tiny["evaluate"] = {"every": 12, "select": all_of_them(2), "report": all_of_them()}
    planned = plan(tiny)
    record = train(planned, 0, tmp_path / "run")
    assert record.status == "finished", record.failure
    assert record.identity == plan({**tiny, "evaluate": {"every": 12}}).identity
    for evaluation in planned.evaluations:
        stored = evaluation.record(tmp_path / "run")
        declared = registry.build("evaluator", evaluation.evaluator)
        assert {f"{evaluation.split}/{name}" for name in declared.metrics} == set(stored.values) <= set(record.metrics)
        assert stored.charts == list(declared.charts) and stored.charts
        for chart in stored.charts:  # every chart has rows that it can draw
            columns = {chart.x, chart.y, *filter(None, [chart.value, chart.to, chart.by])}
            assert any(columns <= row.keys() for row in stored.table)
        assert json.loads(json.dumps(stored.table, allow_nan=False)) == stored.table
        (tmp_path / "run" / EVALUATIONS / evaluation.file).unlink()
    before = record.metrics
    again = {name: value for each in measure(planned, 0, tmp_path / "run") for name, value in each.values.items()}
    assert again == {name: before[name] for name in again} and len(again) > 15


def test_a_finished_run_is_measured_by_name(tiny, tmp_path):
    record = train(plan(tiny), 0, tmp_path / "run")
    changes = ["by_position.rows=2", "extrapolate.set.blocks.local.mixer.window=2", "extrapolate.rows=2"]
    section = measuring.named(["by_position", "extrapolate"], changes, "report")
    asked = measuring.of_run(tmp_path / "run", record, section)
    measured = list(measure(asked, 0, tmp_path / "run"))
    assert [each.name for each in measured] == ["by_position", "extrapolate"] and all(each.values for each in measured)
    section = measuring.named(["extrapolate"], ["extrapolate.set.blocks.local.mixer.windo=2"], "report")
    with pytest.raises(SpecError, match=r"extrapolate\.set\.blocks\.local\.mixer\.windo: unknown key"):
        measuring.of_run(tmp_path / "run", record, section)


def plain_distance(a, b):
    """Levenshtein's distance by its recursion."""
    if not a or not b:
        return len(a) + len(b)
    return min(plain_distance(a[1:], b) + 1, plain_distance(a, b[1:]) + 1, plain_distance(a[1:], b[1:]) + (a[0] != b[0]))


def test_edit_distances_are_those_of_the_recursion():
    random = np.random.default_rng(0)
    for shapes in ((6, 6), (3, 6), (5, 2), (1, 1)):
        a, b = (random.integers(3, size=(20, tokens)) for tokens in shapes)
        expected = [plain_distance(*map(list, pair)) for pair in zip(a.tolist(), b.tolist(), strict=True)]
        assert edit_distances(a, b).tolist() == expected
    shifted = np.arange(50)
    assert edit_distances(shifted[None, 1:], shifted[None, :-1]).tolist() == [2], "one token dropped and one added"


class Texts:
    """A dataset of given documents, {split: (documents, tokens)}."""

    def __init__(self, **tokens):
        self.tokens, self.context = tokens, 32

    def long_documents(self, split, rows, context, batch_rows):
        held = self.tokens[split]
        if held.shape[1] < context:
            raise DataError(f"no document of the {split} split has {context} tokens")
        for part in held[:rows, :context].split(batch_rows):
            yield Batch.text(Rows(part, TokenLayout.whole(*part.shape), part))


def test_a_model_that_learned_its_documents_by_heart_is_found_and_an_untrained_one_is_not(tiny):
    tiny["model"] |= {"layers": 1, "pattern": ["global"]}
    spec = resolve(tiny).model
    model, random = new_model(spec, 0), torch.Generator().manual_seed(0)
    tokens = torch.randint(3, 250, (10, 17), generator=random)
    tokens[:, 0] = 1
    texts = Texts(train=tokens[:5], report=tokens[5:])
    options = {"type": "memorization", "prefix": 6, "continuation": 10}
    assert set(found(model.eval(), texts, **options).values.values()) == {0.0}
    optimizer = torch.optim.Adam(model.train().parameters(), lr=1e-2)
    for _ in range(150):
        logits = model(tokens[:5, :-1])
        loss = F.cross_entropy(logits.flatten(0, 1), tokens[:5, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    measured = found(model.eval(), texts, **options)
    assert measured.values == {
        "memorized_exact": 1.0,
        "memorized_approximate": 1.0,
        "memorized_exact_held_out": 0.0,
        "memorized_approximate_held_out": 0.0,
    }
    bars = [row for row in measured.table if "share" in row]
    assert [row["share"] for row in bars if row["text"] == "train"] == [1.0] + [0.0] * 9
    texts.tokens["train"] = tokens[:5].clone()
    texts.tokens["train"][0, 10] = 255  # the model continues one document otherwise, by one token of ten
    texts.tokens["train"][1, 9:12] = 255  # and another by three
    changed = found(model, texts, **options)
    assert changed.values["memorized_exact"] == pytest.approx(0.6)
    assert changed.values["memorized_approximate"] == pytest.approx(0.8), "within 10 %: the end of the first bar"
    shares = [row["share"] for row in changed.table if row.get("text") == "train" and "share" in row]
    assert shares == pytest.approx([0.8, 0, 0.2] + [0] * 7)
    strict = found(model, texts, **options, within=0.0).values
    assert strict["memorized_approximate"] == strict["memorized_exact"] == pytest.approx(0.6)
