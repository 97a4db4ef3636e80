"""Our models agree with `transformers`, with recorded outputs of the reference Griffin code and with published sizes.

Each comparison fails when one detail is turned off; otherwise it would prove nothing.
"""

import pytest
import torch
import torch.nn.functional as F

from arch.kernels import native
from arch.kernels import rg_lru as kernel
from arch.kernels.linear_scan import linear_scan
from arch.mixers import attention
from arch.mixers.rg_lru import RGLRU
from arch.norm import RMSNorm
from experiments.parity import counts, inits, memory, peers, reference, table
from experiments.parity.compare import Row, next_token_loss, relative


def assert_agree(rows):
    assert rows
    for row in rows:
        assert row.agrees, f"{row.case}, {row.what}: error {row.error:.1e}, at most {row.bound:.0e}"


@pytest.mark.parametrize("name", peers.CASES)
def test_equals_the_class_of_transformers(name):
    assert_agree(peers.compare(peers.CASES[name]))


@pytest.mark.parametrize("name", reference.NAMES)
def test_equals_the_reference_code(name):
    assert_agree(reference.compare(name))


@pytest.mark.parametrize("name", ["griffin", "recurrentgemma"])
def test_equals_the_reference_code_without_compiled_kernels(name):
    with native.disabled():
        assert_agree(reference.compare(name))


def test_the_drawn_weights_reach_every_cap(monkeypatch):
    """Some but not all of Gemma 2's attention scores exceed 50, and some but not all of its logits exceed 30."""
    model = peers.ours(peers.peer(peers.CASES["gemma2"]))
    scores, whole = [], attention.attend

    def spy(q_BTHC, k_BSKC, v_BSKC, low_BT, high_BT, scale, *args, **kwargs):
        k_BSHC = k_BSKC.repeat_interleave(q_BTHC.shape[2] // k_BSKC.shape[2], 2)
        scores.append(torch.einsum("bthc,bshc->bhts", q_BTHC * scale, k_BSHC).abs().flatten())
        return whole(q_BTHC, k_BSKC, v_BSKC, low_BT, high_BT, scale, *args, **kwargs)

    monkeypatch.setattr(attention, "attend", spy)
    with torch.no_grad():
        hidden_BTD, _ = model.trunk(torch.arange(1, 70).view(3, 23))
        logits_BTV = F.linear(hidden_BTD, model.embedding)
    assert 0.01 < (torch.cat(scores) > 50).float().mean() < 0.5
    assert 0.1 < (logits_BTV.abs() > 30).float().mean() < 0.8


def reconfigured(**options):
    """A function that changes options of a model's attention mixers, where `only` (a predicate of the config) holds."""
    only = options.pop("only", lambda config: True)

    def alter(model):
        for block in model.blocks:
            mixer = block.mixer.component
            if isinstance(mixer, attention.Attention) and only(mixer.config):
                mixer.config = mixer.config.model_copy(update=options)

    return alter


def respec(**options):
    def alter(model):
        model.spec = model.spec.model_copy(update=options)

    return alter


def negated_decay(model):
    for name, weight in model.named_parameters():
        if name.endswith("decay"):
            weight.data.neg_()


def windowed(config):
    return config.window is not None


ROPE = attention.Rope
PEER_FACTS = {
    "attention softcap": ("gemma2", reconfigured(softcap=None)),
    "final softcap": ("gemma2", respec(logit_softcap=None)),
    "27B's query scale": ("gemma2-27b", reconfigured(query_scale=None)),
    "27B's query scale, Gemma 3": ("gemma3-27b", reconfigured(query_scale=None)),
    "embedding scale": ("gemma3", respec(embed_scale="none")),
    "local RoPE base": ("gemma3", reconfigured(only=windowed, rope=ROPE(theta=1e6))),
    "global RoPE base": ("gemma3", reconfigured(only=lambda config: not windowed(config), rope=ROPE(theta=1e4))),
    "RoPE scaling on global layers": ("gemma3-27b", reconfigured(rope=ROPE(theta=1e6), only=lambda c: not windowed(c))),
    "no RoPE scaling on local layers": ("gemma3-27b", reconfigured(rope=ROPE(theta=1e4, scale=8.0), only=windowed)),
    "QK-norm": ("gemma3", reconfigured(qk_norm=False)),
    "window": ("gemma3", reconfigured(only=windowed, window=6)),
    "window of RecurrentGemma": ("recurrentgemma", reconfigured(window=6)),
    "half of each head is turned": ("recurrentgemma", reconfigured(rope=ROPE())),
    "sign of the decay": ("recurrentgemma", negated_decay),
    "embedding scale in bfloat16": ("recurrentgemma", respec(embed_scale="sqrt_dim")),
    "sees ahead": ("embeddinggemma", reconfigured(causal=True, window=5)),
    "half of the window on each side": (
        "embeddinggemma",
        reconfigured(only=windowed, window=attention.BothSides(before=8, after=8)),
    ),
}


@pytest.mark.parametrize("fact", PEER_FACTS)
def test_without_this_fact_transformers_differs(fact):
    name, alter = PEER_FACTS[fact]
    assert not all(row.agrees for row in peers.compare(peers.CASES[name], alter))


@pytest.mark.parametrize("name", peers.CASES)
def test_without_the_1_of_the_norm_transformers_differs(name, monkeypatch):
    bare = lambda self, x: F.rms_norm(x, (x.shape[-1],), self.weight, self.eps)  # noqa: E731
    monkeypatch.setattr(RMSNorm, "forward", bare)
    assert not all(row.agrees for row in peers.compare(peers.CASES[name]))


def recurrence(reset_gain=True, cap=True):
    """RGLRU's recurrence, written out again so that a detail can be left out."""

    def run(self, u_BTR, layout, h0_BR):
        r_BTR, i_BTR = self.recurrence_gate(u_BTR).sigmoid(), self.input_gate(u_BTR).sigmoid()
        log_a_BTR = -8 * F.softplus(-self.decay) * r_BTR
        reset_BT1 = layout.reset_BT[..., None]
        square_BTR = -torch.expm1(2 * log_a_BTR)
        gain_BTR = kernel.CappedSqrt.apply(square_BTR) if cap else square_BTR.sqrt()
        if reset_gain:
            gain_BTR = torch.where(reset_BT1, 1.0, gain_BTR)
        h_BTR = linear_scan(torch.where(reset_BT1, 0.0, log_a_BTR.exp()), gain_BTR * i_BTR * u_BTR, h0_BR)
        return h_BTR, h_BTR[:, -1]

    return run


def test_the_recurrence_written_out_again_agrees(monkeypatch):
    monkeypatch.setattr(RGLRU, "_recurrence", recurrence())
    for name in ("griffin", "hawk_slow"):
        assert_agree(reference.compare(name))


def test_without_the_second_half_of_a_reset_the_reference_differs(monkeypatch):
    monkeypatch.setattr(RGLRU, "_recurrence", recurrence(reset_gain=False))
    assert not any(row.agrees for row in reference.compare("griffin") if row.what in ("logits", "gradients"))


def test_without_the_cap_on_the_square_roots_derivative_the_reference_differs(monkeypatch):
    """Only gradients differ: without the cap they are not even finite. Logits still agree."""
    monkeypatch.setattr(RGLRU, "_recurrence", recurrence(cap=False))
    agrees = {row.what: row.agrees for row in reference.compare("hawk_slow") if row.bound == reference.SLOW_BOUND}
    assert agrees == {"logits": True, "loss": True, "gradients": False, "decoding": True}


def test_with_w_keys_instead_of_w_plus_1_the_reference_differs():
    meta, _ = reference.read("griffin")
    fewer = reference.spec_of({**meta, "attention_window_size": int(meta["attention_window_size"]) - 1})
    assert not any(row.agrees for row in reference.compare("griffin", spec=fewer) if row.what != "loss")


@pytest.mark.parametrize("alter", [negated_decay, respec(embed_scale="sqrt_dim")], ids=["sign", "rounding"])
def test_without_this_fact_the_reference_differs(alter):
    rows = reference.compare("recurrentgemma", alter)
    assert not any(row.agrees for row in rows if row.what in ("logits", "decoding"))


def test_slow_decays_are_nearer_to_float64_than_the_reference(monkeypatch):
    """Our float32 logits and gradients of hawk_slow are within 1e-5 of float64; the reference's are 5e-4 away."""
    meta, tensors = reference.read("hawk_slow")
    tokens_BT = tensors["tokens"]
    model = reference.model_of(meta, tensors)
    logits_BTV = model(tokens_BT, reference.layout_of(tensors))
    next_token_loss(logits_BTV, tokens_BT).backward()
    exact = reference.model_of(meta, tensors).double()
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    monkeypatch.setattr(kernel, "rg_lru", lambda *inputs: kernel.reference(*inputs[:-1], inputs[-1].double()))
    want_BTV = exact(tokens_BT, reference.layout_of(tensors))
    next_token_loss(want_BTV, tokens_BT).backward()
    assert relative(logits_BTV.double(), want_BTV) < 1e-5
    for ours, theirs in zip(model.parameters(), exact.parameters(), strict=True):
        assert relative(ours.grad.double(), theirs.grad) < 1e-5
    assert 4e-4 < relative(tensors["logits"].double(), want_BTV) < 6e-4


@pytest.mark.parametrize("name", counts.expected())
def test_sizes_to_the_last_digit(name):
    expected = counts.expected()[name]
    assert counts.measured(name, expected) == expected


@pytest.mark.parametrize("size", counts.GRID)
def test_the_grid_written_out_gives_griffins_printed_sizes(size):
    count = counts.derived("griffin", size).non_embedding
    assert (f"{count / 1e6:.0f}M" if count < 1e9 else f"{count / 1e9:.3g}B") == counts.GRID[size][-1]


@pytest.mark.parametrize("stacked, gate_std, branch_std", [("torch", 256**-0.5, 1024**-0.5), ("jax", 4096**-0.5, 2048**-0.5)])
def test_stacked_matrices_begin_as_the_named_code_draws_them(stacked, gate_std, branch_std):
    block = inits.model(stacked=stacked).blocks[0]
    for gate in (block.mixer.component.recurrence_gate, block.mixer.component.input_gate):
        assert float(gate.weight.detach().std()) == pytest.approx(gate_std, rel=0.02)
    for branch in (block.ffn.component.gate, block.ffn.component.up):
        assert float(branch.weight.detach().std()) == pytest.approx(branch_std, rel=0.02)


def test_the_document_tells_agreement_from_difference():
    rows = [Row("a", "good", "logits", 1e-6, 1e-5), Row("a", "bad", "logits", float("nan"), 1e-5)]
    sizes = {"x": (counts.Size(1, 2, "s"), counts.Size(1, 2, "s")), "y": (counts.Size(1, 2, "s"), counts.Size(3, 2, "s"))}
    lines = table.document(rows, sizes).splitlines()
    assert "agrees" in next(line for line in lines if "good" in line)
    assert "differs" in next(line for line in lines if "bad" in line)
    assert "equal" in next(line for line in lines if "`x`" in line)
    assert "differs" in next(line for line in lines if "`y`" in line)


def test_memory_of_weights_is_that_of_table_3_as_far_as_it_says_what_it_counts():
    """1B has no vision tower and nothing else to guess, except in blocks, where some of its weights must have more bits."""
    cells = {(cell.model, cell.column): cell for cell in memory.weights()}
    for column in ("bf16", "int4 per channel", "SFP8"):
        assert round(cells["1b", column].text, 1) == cells["1b", column].published
    assert all(cell.deviation(cell.nominal) == 0 for cell in cells.values() if cell.nominal is not None)
    assert not all(abs(cell.deviation(cell.text)) < 0.02 for cell in cells.values() if cell.column == "bf16")  # 27b has 27.01e9
    for cell in cells.values():
        if memory.VISION[cell.model] and cell.nominal is None:  # between no tower at all and one that is not quantised
            assert cell.text < cell.published <= cell.with_vision + 0.05, cell
            assert abs(cell.deviation(cell.with_vision)) < 0.08, cell


def test_the_cache_of_table_3_is_not_one_stream_in_any_format():
    for cache in memory.caches():
        assert 11.8 < cache.bytes_per_number < 12.5
        assert cache.published > 5 * cache.bfloat16 > 5 * cache.eight_bits
