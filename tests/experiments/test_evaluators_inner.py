"""Evaluators that look inside a model, and that which times its decoding: against slow computations of their own."""

import copy
import math
import weakref
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F

from arch import cost, registry
from arch.contracts import Given
from arch.errors import DataError, SpecError
from arch.express import resolved
from arch.kernels import rg_lru
from arch.layout import TokenLayout
from arch.model import new_model
from experiments import inside
from experiments.data.batch import Batch, Rows
from experiments.evaluators import attention, decay
from experiments.plan import plan, resolve

DIM, VOCABULARY, CONTEXT = 16, 50, 24


class Packed:
    """A dataset of drawn rows, each with documents of 7, 1 and 16 tokens."""

    vocabulary = VOCABULARY
    tokenizer = None

    def evaluation(self, split, rows, context, batch_rows):
        tokens_BT = torch.randint(VOCABULARY, (rows, context), generator=torch.Generator().manual_seed(0))
        doc_T = torch.tensor([0] * 7 + [1] + [2] * (context - 8))
        for first in range(0, rows, batch_rows):
            part_BT = tokens_BT[first : first + batch_rows]
            yield Batch.text(Rows(part_BT, TokenLayout.packed(doc_T.expand(len(part_BT), -1).contiguous())))


def model_of(*mixers, norm="sandwich", **fields):
    """A tiny model, a layer per mixer, with weights that are larger than initial ones."""
    ffn = {"type": "gated", "hidden": 20}
    blocks = {f"block{i}": {"mixer": mixer, "ffn": ffn, "norm": norm} for i, mixer in enumerate(mixers)}
    spec = {"dim": DIM, "vocab_size": VOCABULARY, "layers": len(mixers), "pattern": list(blocks), "blocks": blocks, **fields}
    model = new_model(resolved(spec), 0).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.3 * torch.randn(weight.shape, generator=generator))
    return model


def measured(name, model, rows=3, **options):
    """The Findings of an evaluator, read 2 rows at a time."""
    evaluator = registry.build("evaluator", {"type": name, **({} if name == "decode_speed" else {"rows": rows}), **options})
    with torch.no_grad():
        return evaluator(model, Packed(), Given(None, None, "report", CONTEXT, 2, torch.device("cpu"), 0))


def batches(rows=3):
    return [batch["text"] for batch in Packed().evaluation("report", rows, CONTEXT, rows)]


ATTENTION = [
    {
        "heads": 4,
        "kv_heads": 2,
        "head_dim": 6,
        "window": 5,
        "softcap": 2.0,
        "qk_norm": True,
        "rope": {"theta": 100.0, "scale": 2.0},
    },
    {"heads": 2, "kv_heads": 1, "head_dim": 8, "query_scale": 0.7, "rope": {"fraction": 0.5}, "bias": True},
    {"heads": 2, "rope": None},
    {"heads": 2, "causal": False, "window": {"before": 2, "after": 3}},
]


@pytest.mark.parametrize("scores", [attention.SCORES, 1])
@pytest.mark.parametrize("options", ATTENTION)
def test_attention_is_that_of_a_dense_softmax_in_double_precision(options, scores, monkeypatch):
    monkeypatch.setattr(attention, "SCORES", scores)
    model = model_of({"type": "attention", **options})
    findings = measured("attention", model, rows=3)
    (rows,) = batches()
    heads = [row for row in findings.table if row["head"] is not None]
    layer = next(row for row in findings.table if row["head"] is None)
    expected, output_BTD, real_BTD = dense(model.blocks[0].mixer, model, rows)
    torch.testing.assert_close(real_BTD.double(), output_BTD, rtol=1e-4, atol=1e-5)  # these are the layer's own weights
    for name in (*attention.MEANS, *attention.LARGEST):
        assert [row[f"head_{name}"] for row in heads] == pytest.approx(expected[name], rel=2e-5, abs=1e-6), name
        combined = max(expected[name]) if name in attention.LARGEST else sum(expected[name]) / len(expected[name])
        assert layer[name] == pytest.approx(combined, rel=2e-5, abs=1e-6)
        assert findings.values[f"attention_{name}"] == layer[name]
    assert layer["visible_keys"] == pytest.approx(expected["visible_keys"])
    assert layer["uniform"] == pytest.approx(expected["uniform"])


def dense(sublayer, model, rows):
    """({column: values per head}, the layer's output from these weights, its real output), query by query, in float64."""
    mixer, config, layout = sublayer.component, sublayer.component.config, rows.layout
    with torch.no_grad():
        x_BTD = sublayer.before(model.embed(rows.tokens_BT))
        real_BTD = mixer(x_BTD, layout)[0]
    wide = lambda linear: F.linear(x_BTD.double(), linear.weight.double(), None if linear.bias is None else linear.bias.double())  # noqa: E731
    q, k, v = (wide(linear).unflatten(-1, (-1, mixer.channels)).detach() for linear in (mixer.q, mixer.k, mixer.v))
    if config.qk_norm:
        q, k = (normed(x, norm) for x, norm in ((q, mixer.q_norm), (k, mixer.k_norm)))
    if config.rope:
        q, k = (turned(x, layout.pos_BT, config.rope) for x in (q, k))
    scale = config.query_scale or mixer.channels**-0.5
    names = (*attention.MEANS, *attention.LARGEST)
    sums = {name: [[] for _ in range(config.heads)] for name in names}
    visible, uniform = [], []
    y_BTHC = torch.zeros_like(q)
    for b in range(len(q)):
        for t in range(q.shape[1]):
            keys = [s for s in range(q.shape[1]) if sees(config, layout, b, t, s)]
            begin = t - int(layout.pos_BT[b, t])
            visible.append(len(keys))
            if begin in keys and begin != t:
                uniform.append(1 / len(keys))
            for h in range(config.heads):
                kept = h // (config.heads // config.kv_heads)
                z = torch.stack([scale * q[b, t, h] @ k[b, s, kept] for s in keys])
                capped = z if config.softcap is None else config.softcap * torch.tanh(z / config.softcap)
                p = capped.exp() / capped.exp().sum()
                y_BTHC[b, t, h] = sum(weight * v[b, s, kept] for weight, s in zip(p, keys, strict=True))
                entropy = -float((p * p.log()).sum())
                sums["entropy"][h].append(entropy)
                sums["largest_logit"][h].append(float(z.max()))
                sums["largest_logit_capped"][h].append(float(capped.max()))
                sums["distance"][h].append(sum(float(weight) * abs(t - s) for weight, s in zip(p, keys, strict=True)))
                if len(keys) > 1:
                    sums["entropy_share"][h].append(entropy / math.log(len(keys)))
                if begin in keys and begin != t:
                    sums["first_token"][h].append(float(p[keys.index(begin)]))
    values = {name: [max(head) if name in attention.LARGEST else sum(head) / len(head) for head in sums[name]] for name in names}
    values |= {"visible_keys": sum(visible) / len(visible), "uniform": sum(uniform) / len(uniform)}
    bias = None if mixer.o.bias is None else mixer.o.bias.double()
    return values, F.linear(y_BTHC.flatten(2), mixer.o.weight.double(), bias).detach(), real_BTD


def sees(config, layout, b, t, s):
    window = config.window
    if layout.doc_BT[b, t] != layout.doc_BT[b, s]:
        return False
    if config.causal:
        return s <= t and (window is None or t - s < window)
    return window is None or (t - window.before <= s <= t + window.after)


def normed(x, norm):
    return (x / (x.square().mean(-1, keepdim=True) + norm.eps).sqrt() * (1 + norm.weight.double())).detach()


def turned(x_BTHC, pos_BT, rope):
    """Rotary positions as multiplication by e^(i angle)."""
    width = int(x_BTHC.shape[-1] * rope.fraction)
    rate_c = torch.tensor([rope.theta ** (-2 * i / width) / rope.scale for i in range(width // 2)], dtype=torch.float64)
    turn = torch.polar(torch.ones(1, dtype=torch.float64), pos_BT[..., None, None] * rate_c)
    pairs = torch.complex(x_BTHC[..., : width // 2], x_BTHC[..., width // 2 : width]) * turn
    return torch.cat([pairs.real, pairs.imag, x_BTHC[..., width:]], -1)


def test_equal_scores_spread_attention_over_all_keys():
    model = model_of({"type": "attention", "heads": 2})
    torch.nn.init.zeros_(model.blocks[0].mixer.component.q.weight)
    findings = measured("attention", model, rows=4)
    lengths = [n for length in (7, 1, 16) for n in range(1, length + 1)]
    assert findings.values["attention_entropy"] == pytest.approx(sum(map(math.log, lengths)) / len(lengths), rel=1e-6)
    assert findings.values["attention_entropy_share"] == pytest.approx(1, rel=1e-6)
    later = [n for n in lengths if n > 1]
    assert findings.values["attention_first_token"] == pytest.approx(sum(1 / n for n in later) / len(later), rel=1e-6)
    assert findings.values["attention_distance"] == pytest.approx(sum((n - 1) / 2 for n in lengths) / len(lengths), rel=1e-6)
    assert findings.values["attention_largest_logit"] == 0


def test_a_window_of_one_key_has_no_entropy_and_sees_no_first_token():
    findings = measured("attention", model_of({"type": "attention", "heads": 2, "window": 1}))
    assert findings.values["attention_entropy"] == findings.values["attention_distance"] == 0
    assert not {"attention_entropy_share", "attention_first_token"} & set(findings.values)
    assert {row["entropy_share"] for row in findings.table} == {None}


def test_padding_is_left_out():
    model = model_of({"type": "attention", "heads": 2})
    tokens_BT = torch.randint(VOCABULARY, (2, 9), generator=torch.Generator().manual_seed(3))

    class Padded:
        def evaluation(self, split, rows, context, batch_rows):
            yield Batch.text(Rows(tokens_BT, TokenLayout.left_padded(torch.tensor([4, 9]), 9)))

    class Alone:
        def evaluation(self, split, rows, context, batch_rows):
            for row, length in ((0, 4), (1, 9)):
                yield Batch.text(Rows(tokens_BT[row : row + 1, -length:], TokenLayout.whole(1, length)))

    given = Given(None, None, "report", 9, 2, torch.device("cpu"), 0)
    for name in ("attention", "activations"):
        evaluator = registry.build("evaluator", {"type": name})
        with torch.no_grad():
            padded, alone = (evaluator(model, dataset(), given).values for dataset in (Padded, Alone))
        assert padded == pytest.approx(alone, rel=1e-5)


def test_layers_without_what_is_looked_at_are_left_out(plugins):
    recurrent, plugin = {"type": "rg_lru", "blocks": 2}, {"type": "own_cheats:Honest"}
    model = model_of(recurrent, {"type": "attention", "heads": 2}, plugin)
    assert {row["layer"] for row in measured("attention", model).table} == {1}
    assert {row["layer"] for row in measured("decay", model).table} == {0}
    assert {row["layer"] for row in measured("activations", model).table} == {None, 0, 1, 2}


@pytest.mark.parametrize(
    "name, keep, text",
    [
        (
            "attention",
            "rec",
            r"evaluate\.report\.look: attention needs `attends`: a layer's mixer shows what its attention weights",
        ),
        (
            "decay",
            "local",
            r"evaluate\.report\.look: decay needs `decays`: a layer's mixer has a state that decays, and shows how fast",
        ),
    ],
)
def test_a_model_that_has_nothing_to_look_at_is_refused(name, keep, text, tiny):
    tiny["model"]["pattern"] = [keep]
    tiny["evaluate"] = {"report": {"look": {"type": name}}}
    with pytest.raises(SpecError, match=text):
        resolve(tiny)


@pytest.mark.parametrize("name", ["attention", "decay", "activations"])
def test_a_context_without_a_row_is_refused_at_its_key(name, tiny):
    tiny["evaluate"] = {"report": {"look": {"type": name, "context": 10**6}}}
    with pytest.raises(SpecError, match=r"evaluate\.report\.look\.context: context 1,000,000 is longer than the report split"):
        plan(tiny)


def test_decays_are_those_of_the_recurrence():
    model = model_of({"type": "rg_lru", "blocks": 2, "width": 12})
    sublayer, (rows,) = model.blocks[0].mixer, batches()
    mixer, layout = sublayer.component, rows.layout
    with torch.no_grad():
        x_BTD = sublayer.before(model.embed(rows.tokens_BT))
        shown = mixer.decaying(x_BTD, layout)
        # Without inputs, a state of 1 decays to the product of all a_t.
        u_BTR = mixer.conv(mixer.x(x_BTD), layout, mixer.init_state(3, 1).tail_BJR)[0]
        zeros_BTR, never_BT = torch.zeros_like(u_BTR), torch.zeros_like(layout.reset_BT)
        gate_BTR, start_BR = mixer.recurrence_gate(u_BTR), torch.ones(3, 12)
        h_BTR = rg_lru.reference(gate_BTR, zeros_BTR, zeros_BTR, mixer.slope_R(), never_BT, start_BR)[0]
    torch.testing.assert_close(shown.log_a_BTR.cumsum(1).exp(), h_BTR, rtol=1e-4, atol=1e-7)
    inner_BT1 = (layout.pos_BT > 0)[..., None]
    constants = -1 / (shown.log_a_BTR * inner_BT1).sum((0, 1)).double() * inner_BT1.sum()
    findings = measured("decay", model)
    assert findings.values["decay_time_constant"] == pytest.approx(float(constants.quantile(0.5)), rel=1e-5)
    assert findings.values["decay_beyond_context"] == pytest.approx(float((constants > CONTEXT).double().mean()))


def test_a_constant_gate_gives_the_closed_form():
    model = model_of({"type": "rg_lru", "blocks": 2, "exponent": 3.0})
    mixer = model.blocks[0].mixer.component
    torch.nn.init.zeros_(mixer.recurrence_gate.weight)
    torch.nn.init.constant_(mixer.recurrence_gate.bias, -1.0)
    with torch.no_grad():
        mixer.decay.copy_(torch.linspace(-2, 9, DIM))
    fastest = [3 * math.log1p(math.exp(-value)) for value in torch.linspace(-2, 9, DIM, dtype=torch.float64).tolist()]
    gate = 1 / (1 + math.e)
    expected = {"open gate": sorted(1 / rate for rate in fastest), "measured": sorted(1 / rate / gate for rate in fastest)}
    findings = measured("decay", model)
    for kind, constants in expected.items():
        row = next(row for row in findings.table if row["kind"] == kind)
        assert row["median"] == pytest.approx((constants[7] + constants[8]) / 2, rel=1e-4)
        bars = [row for row in findings.table if row["panel"] == f"layer 0, {kind}"]
        ends = [0, *(bar["to"] for bar in bars[:-1]), math.inf]
        counted = [sum(low <= value < high for value in constants) for low, high in pairwise(ends)]
        assert [bar["channels"] for bar in bars] == counted and sum(counted) == DIM
        assert all(bar["to"] / bar["from"] == pytest.approx(10 ** (1 / decay.BARS)) for bar in bars)
        assert all(low["to"] == high["from"] for low, high in pairwise(bars))
    measured_row = next(row for row in findings.table if row["kind"] == "measured")
    assert measured_row["gate"] == pytest.approx(gate, rel=1e-5)


def test_a_state_that_never_decays_is_a_number():
    model = model_of({"type": "rg_lru", "blocks": 2})
    torch.nn.init.constant_(model.blocks[0].mixer.component.decay, 1e4)
    values = measured("decay", model).values
    assert values["decay_time_constant"] == pytest.approx(1 / decay.SLOWEST) and values["decay_beyond_context"] == 1


@pytest.mark.parametrize("norm", ["sandwich", "before"])
def test_activations_are_those_of_a_plain_forward(norm):
    model = model_of({"type": "attention", "heads": 2}, {"type": "rg_lru", "blocks": 2}, norm=norm, logit_softcap=3.0)
    findings = measured("activations", model)
    table = {(row["layer"], row["place"]): row for row in findings.table}
    (rows,) = batches()
    expected = {}
    with torch.no_grad():
        x = expected[None, "embedding"] = model.embed(rows.tokens_BT)
        for layer, block in enumerate(model.blocks):
            y, _ = block.mixer.component(block.mixer.before(x), rows.layout)
            expected[layer, "mixer"] = y
            x = x + block.mixer.after(y)
            ffn, z = block.ffn.component, block.ffn.before(x)
            hidden = expected[layer, "ffn hidden"] = F.gelu(ffn.gate(z), approximate="tanh") * ffn.up(z)
            expected[layer, "ffn"] = ffn.down(hidden)
            if norm == "sandwich":
                expected[layer, "mixer added"], expected[layer, "ffn added"] = (
                    block.mixer.after(y),
                    block.ffn.after(ffn.down(hidden)),
                )
            x = expected[layer, "stream"] = x + block.ffn.after(ffn.down(hidden))
        expected[None, "final norm"] = model.norm(x)
        expected[None, "logits"] = model.norm(x) @ model.head_weight.T
    for key, value in expected.items():
        assert table[key]["largest"] == pytest.approx(float(value.abs().max()), rel=1e-4), key
        assert table[key]["rms"] == pytest.approx(float(value.double().square().mean().sqrt()), rel=1e-4), key
    hidden_places = {(layer, f"{kind} {what}") for layer in (0, 1) for kind in ("mixer", "ffn") for what in ("hidden", "inside")}
    assert table.keys() == expected.keys() | hidden_places
    largest = max(row["largest"] for row in findings.table)
    assert findings.values["largest_activation"] == largest and findings.values["float16_headroom"] == 65504 / largest
    assert findings.values["stream_rms"] == table[1, "stream"]["rms"]


def test_the_largest_value_inside_names_its_module():
    model = model_of({"type": "attention", "heads": 2})
    ffn = model.blocks[0].ffn.component
    with torch.no_grad():
        ffn.down.weight *= 1e6  # what the component gives is not inside of it
        ffn.up.weight *= 1000
    inner = next(row for row in measured("activations", model).table if row["place"] == "ffn inside")
    assert inner["at"] == "up" and 1000 < inner["largest"] < 1e5


@pytest.mark.parametrize("factor, overflows", [(1.0, False), (3e4, True)])
def test_too_little_headroom_is_an_overflow_in_float16(factor, overflows):
    model = model_of({"type": "attention", "heads": 2}, norm="before")
    with torch.no_grad():
        model.blocks[0].ffn.component.down.weight *= factor
    assert (measured("activations", model).values["float16_headroom"] < 1) == overflows
    (rows,) = batches()
    with torch.no_grad():
        stream_BTD, _ = model.half().blocks[0](model.embed(rows.tokens_BT), rows.layout)
    assert stream_BTD.isfinite().all() != overflows


@pytest.mark.parametrize("name", ["attention", "activations", "decay"])
def test_nothing_of_earlier_rows_is_kept(name):
    model = model_of({"type": "attention", "heads": 2}, {"type": "rg_lru", "blocks": 2})
    given_by_batch = []
    for module in model.modules():
        module.register_forward_hook(lambda module, args, output: given_by_batch[-1].extend(map(weakref.ref, tensors(output))))

    class Watching(Packed):
        def evaluation(self, *args):
            for batch in super().evaluation(*args):
                assert not any(each() is not None for earlier in given_by_batch[:-1] for each in earlier)
                given_by_batch.append([])
                yield batch

    evaluator = registry.build("evaluator", {"type": name, "rows": 8})
    with torch.no_grad():
        evaluator(model, Watching(), Given(None, None, "report", CONTEXT, 2, torch.device("cpu"), 0))
    assert len(given_by_batch) == 4 and all(given_by_batch)


def tensors(output):
    return [each for each in (output if isinstance(output, tuple) else (output,)) if isinstance(each, torch.Tensor)]


def test_hooks_are_removed_also_after_a_failure():
    model = model_of({"type": "attention", "heads": 2})

    class Broken:
        def evaluation(self, *args):
            yield from Packed().evaluation(*args)
            raise DataError("no more", key=None)

    for name in ("attention", "activations"):
        evaluator = registry.build("evaluator", {"type": name})
        with pytest.raises(DataError, match="no more"), torch.no_grad():
            evaluator(model, Broken(), Given(None, None, "report", CONTEXT, 2, torch.device("cpu"), 0))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


DECODING = {"batches": [1, 3], "tokens": [2, 4], "prefills": [0, 9], "repeats": 2}


@pytest.mark.parametrize(
    "mixers",
    [
        [{"type": "attention", "heads": 2, "kv_heads": 1}],
        [{"type": "attention", "heads": 2, "window": 4}, {"type": "rg_lru", "blocks": 2}],
    ],
)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_bytes_of_a_state_are_those_that_are_foreseen(mixers, dtype):
    model = model_of(*mixers).to(cost.DTYPES[dtype])
    findings = measured("decode_speed", model, **DECODING)
    assert len(findings.table) == 8
    for row in findings.table:
        foreseen = cost.cache_bytes(model.spec, row["length"], dtype)["total"]
        assert row["length"] == row["prefill"] + row["tokens"]
        assert row["state_bytes"] == row["foreseen_bytes"] == foreseen
        assert foreseen <= row["held_bytes"] <= foreseen + 3 * DIM * 4  # no view keeps more than the taps, whatever the prompt
        assert row["allocated_bytes"] is None and row["state_over_foreseen"] == 1


def test_speed_is_told_of_the_longest_case():
    findings = measured("decode_speed", model_of({"type": "rg_lru", "blocks": 2}), **DECODING)
    values, table = findings.values, findings.table
    for row in table:
        assert row["seconds_per_token"] > 0
        assert row["tokens_per_second"] == pytest.approx(row["streams"] / row["seconds_per_token"])
    longest = [row for row in table if row["length"] == 13]
    assert values["decode_seconds_per_token"] == longest[0]["seconds_per_token"] and longest[0]["streams"] == 1
    assert values["decode_tokens_per_second"] == max(row["tokens_per_second"] for row in longest)
    assert values["decode_prefill_tokens_per_second"] == max(row["prefill_tokens_per_second"] for row in longest)
    empty = next(row for row in table if (row["streams"], row["length"]) == (3, 4))
    assert values["decode_slowdown"] == longest[1]["seconds_per_token"] / empty["seconds_per_token"]
    assert values["decode_state_bytes"] == longest[0]["state_bytes"]
    assert findings.text == "cpu, 1 thread, float32, medians of 2 rounds"


def test_an_empty_prompt_alone_has_no_prefill():
    values = measured("decode_speed", model_of({"type": "rg_lru", "blocks": 2}), tokens=[2], prefills=[0], repeats=1).values
    assert set(values) == {"decode_seconds_per_token", "decode_tokens_per_second", "decode_state_bytes"}


def test_streams_that_do_not_fit_are_left_out():
    model = model_of({"type": "attention", "heads": 2})
    weights = sum(weight.nbytes for weight in model.parameters())
    stream = cost.cache_bytes(model.spec, 13)["total"]
    fits = lambda memory: {row["streams"] for row in measured("decode_speed", model, **DECODING, memory=memory).table}  # noqa: E731
    assert fits(weights + 3 * stream) == {1, 3} and fits(weights + 3 * stream - 1) == {1}
    with pytest.raises(
        DataError, match=r"weights \(.*kB\) and a state of 13 tokens \(.*kB\) for each of 1 do not fit into memory = "
    ):
        fits(weights + stream - 1)


def test_in_bfloat16_they_see_the_same_up_to_rounding():
    model = model_of({"type": "attention", "heads": 2, "softcap": 5.0}, {"type": "rg_lru", "blocks": 2})
    for name in ("attention", "decay", "activations"):
        wide, narrow = measured(name, model).values, measured(name, copy.deepcopy(model).bfloat16()).values
        assert narrow == pytest.approx(wide, rel=0.1) and narrow != wide


def test_columns_of_charts_are_in_the_table():
    model = model_of({"type": "attention", "heads": 2}, {"type": "rg_lru", "blocks": 2})
    for name, options in (("attention", {}), ("decay", {}), ("activations", {}), ("decode_speed", DECODING)):
        table = measured(name, model, **options).table
        for chart in registry.component("evaluator", name).charts:
            columns = [column for column in (chart.x, chart.y, chart.value, chart.to, chart.by) if column]
            drawn = [row for row in table if all(row[column] is not None for column in columns)]
            assert drawn, (name, chart.title)
            assert {*chart.labels, *chart.log, *chart.bounds} <= set(columns)


def test_no_two_evaluators_have_a_metric_of_the_same_name():
    owners = {}
    for name in registry.names("evaluator"):
        declared = getattr(registry.component("evaluator", name), "metrics", None)
        for metric in declared if isinstance(declared, dict) else ():
            assert owners.setdefault(metric, name) == name


def test_they_measure_a_run_from_its_spec(tiny, tmp_path):
    from experiments.train import train

    names = {"attention": {}, "decay": {}, "activations": {}, "decode_speed": DECODING}
    tiny["evaluate"] = {"select": {}, "report": {name: {"type": name, **options} for name, options in names.items()}}
    tiny["train"]["steps"] = 0
    record = train(plan(tiny), 0, tmp_path / "run")
    assert record.status == "finished", record.failure
    assert {f"report/{metric}" for name in names for metric in registry.component("evaluator", name).metrics} == set(record.metrics)


def test_what_is_looked_at_is_what_runs_under_the_context_manager():
    model = model_of({"type": "attention", "heads": 2}, {"type": "rg_lru", "blocks": 2})
    seen = []
    with inside.removed(inside.watched(model, "attending", lambda layer, shown, layout: seen.append(layer))), torch.no_grad():
        model(torch.zeros(1, 3, dtype=torch.long))
    with torch.no_grad():
        model(torch.zeros(1, 3, dtype=torch.long))
    assert seen == [0]
