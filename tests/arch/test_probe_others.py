"""What is wrong with a cross or a quantiser is found, each fault by its own words."""

import pytest
import torch
from tiny_specs import context, resolved

from arch import document, probe, probe_model, registry
from arch.crosses.attention import CrossAttention
from arch.encoded import Encoded
from arch.errors import SpecError
from arch.layout import TokenLayout
from arch.quantisers.q8_0 import Q80
from tests.arch.test_encoder_decoder import ENCODER, SELF

CROSS = {"type": "attention", **CrossAttention.Config(heads=2, head_dim=8).dump()}


def failures(it):
    return [finding.failure for finding in probe.findings(it, thorough=False) if finding.wrong]


class Other(Q80):
    """Computes with other values than it packs, in one place."""

    def rounded(self, weight):
        values = super().rounded(weight)
        values[7, 5] *= 1.01
        return values


class Short(Q80):
    def bytes(self, rows, width):
        return super().bytes(rows, width) - 2 * rows


class Loud(Q80):
    """The scale of a row is that of the whole matrix."""

    def rounded(self, weight):
        return (weight.float() / weight.float().abs().max()).round()

    def unpack(self, packed, width):
        return packed["values"]

    def pack(self, weight):
        return {"values": self.rounded(weight)}

    def bytes(self, rows, width):
        return 4 * rows * width


class InPlace(Q80):
    def clipped(self, weight):
        weight.mul_(1.5)


class Half(Q80):
    def rounded(self, weight):
        return super().rounded(weight).half()


class Drawing(Loud):
    calls = 0

    def rounded(self, weight):
        self.calls += 1
        return weight.float() + 1e-3 * self.calls


class NotFinite(Loud):
    def rounded(self, weight):
        return weight.float() / weight.float().abs().amax(1, keepdim=True)


class Coarse(Loud):
    def rounded(self, weight):
        return weight.to(torch.bfloat16 if weight.dtype != torch.float32 else torch.float16).float().clamp(-1e4, 1e4)


class Words(Q80):
    def clipped(self, weight):
        return weight


QUANTISERS = {
    Other: "computes with another value than it packs, at row 7 and column 5 of (24, 32)",
    Short: "says that 24 x 32 weights take 768 bytes, but packs 816",
    Loud: "must keep rows apart",
    InPlace: "writes into the weights",
    Half: "gives float16 from `rounded`; expected float32",
    Drawing: "it keeps something, or draws",
    NotFinite: "not finite for a row of zeros",
    Coarse: "rounds weights of float16 otherwise than the same values in float32",
    Words: "something else from `clipped`",
}


@pytest.mark.parametrize("cheat", QUANTISERS, ids=lambda cheat: cheat.__name__)
def test_a_quantiser_that_does_otherwise_is_found(cheat):
    it = probe.Subject("quantiser", "cheat", cheat(Q80.Config()), 32, ())
    found = failures(it)
    assert any(QUANTISERS[cheat] in failure for failure in found), found


def test_a_quantiser_that_takes_no_width_is_found(monkeypatch):
    monkeypatch.setattr(Q80, "multiple", 0)
    with pytest.raises(probe.Broken, match="has `multiple` = 0, expected a whole number of at least 1"):
        probe.subject("quantiser", {"type": "q8_0"}, context())


class Any(CrossAttention):
    """Sees the sources of all documents."""

    def forward(self, x_BTD, layout, encoded):
        whole = TokenLayout.whole(*encoded.hidden_BSD.shape[:2], x_BTD.device)
        return super().forward(x_BTD, TokenLayout.whole(*x_BTD.shape[:2], x_BTD.device), Encoded(encoded.hidden_BSD, whole))


class Blind(CrossAttention):
    def forward(self, x_BTD, layout, encoded):
        return super().forward(x_BTD, layout, Encoded(0 * encoded.hidden_BSD + 1, encoded.layout))


class FirstOnly(CrossAttention):
    def forward(self, x_BTD, layout, encoded):
        return super().forward(
            x_BTD,
            layout,
            Encoded(encoded.hidden_BSD[:, :1], TokenLayout(*(x[:, :1] for x in (encoded.layout.doc_BT, encoded.layout.pos_BT)))),
        )


class Mean(CrossAttention):
    def forward(self, x_BTD, layout, encoded):
        return super().forward(x_BTD + x_BTD.mean(1, keepdim=True), layout, encoded)


class Again(CrossAttention):
    def keys_values(self, encoded):
        return self._keys_values(encoded.hidden_BSD)


class Free(CrossAttention):
    def reading_flops(self, tokens, source):
        return 0


CROSSES = {
    Any: "must see the source of its own document only, but the source of another document changes the output at 0",
    Blind: "does not read token 0 of the source",
    FirstOnly: "does not read token 1 of the source",
    Mean: "must work on each token of the target alone, but other tokens change the output at 0",
    Again: "computes what it keeps of a source again",
    Free: "says 0 FLOPs for a source of 4 tokens and 0 for one of 8",
}


@pytest.mark.parametrize("cheat", CROSSES, ids=lambda cheat: cheat.__name__)
def test_a_cross_that_does_otherwise_is_found(cheat, monkeypatch):
    built = registry.build
    monkeypatch.setattr(
        registry,
        "build",
        lambda kind, it, *rest: cheat(cheat.Config(heads=2, head_dim=8), *rest) if kind == "cross" else built(kind, it, *rest),
    )
    found = failures(probe.subject("cross", CROSS, context()))
    assert any(CROSSES[cheat] in failure for failure in found), found


@pytest.mark.usefixtures("plugins")
def test_planning_refuses_a_cross_and_a_quantiser_of_ones_own_at_their_places(monkeypatch, tmp_path):
    (tmp_path / "own_others.py").write_text(
        "from arch.crosses.attention import CrossAttention\nfrom arch.registry import cross, quantiser\n"
        "from arch.quantisers.q8_0 import Q80\n"
        "@cross\nclass Wide(CrossAttention):\n    def reading_flops(self, tokens, source):\n        return 0\n"
        "@quantiser\nclass Light(Q80):\n    def bytes(self, rows, width):\n        return 1\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    ffn = {"type": "gated", "hidden": 24}
    block = {"mixer": SELF, "cross": {"type": "own_others:Wide", "heads": 2, "head_dim": 8}, "ffn": ffn}
    data = {"dim": 16, "vocab_size": 37, "layers": 2, "pattern": ["d"], "blocks": {"d": block}, "encoder": ENCODER}
    with pytest.raises(SpecError, match=r"^blocks\.d\.cross: own_others:Wide says 0 FLOPs"):
        probe_model.check_components(resolved(data), document.node(data))
    data = {**data, "blocks": {"d": {"mixer": SELF, "ffn": ffn}}, "quantise": {"matrix": {"type": "own_others:Light"}}, "dim": 32}
    del data["encoder"]
    with pytest.raises(
        SpecError, match=r"^quantise\.matrix: own_others:Light says that 24 x 32 weights take 1 bytes, but packs 816"
    ):
        probe_model.check_components(resolved(data), document.node(data))
