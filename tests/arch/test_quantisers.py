"""Quantisers: packing is a round trip, the bytes are those of llama.cpp, sizes are exact, errors have their known order."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from arch import registry
from tests.arch.tiny_specs import examples, label

EXAMPLES = examples("quantiser")
each = pytest.mark.parametrize("component", EXAMPLES, ids=map(label, EXAMPLES))
RECORDED = load_file(Path(__file__).parent.parent / "fixtures" / "gguf_q4_0_q8_0.safetensors")


def built(component):
    component = {"type": component} if isinstance(component, str) else component
    return registry.build("quantiser", component)


def weights(rows=48, width=96, std=0.02):
    """Random rows, then rows of zeros, of one value, of ties, of very small and of very large values."""
    drawn = torch.randn(rows, width, generator=torch.Generator().manual_seed(3)) * std
    drawn[0], drawn[1], drawn[2], drawn[3], drawn[4] = 0.0, 1.0, -1.0, drawn[3] * 1e-9, drawn[4] * 1e6
    drawn[5] = torch.tensor([1.0, -1.0]).repeat(width // 2)
    return drawn


def unpacked(quantiser, weight):
    return quantiser.unpack(quantiser.pack(weight), weight.shape[1])


@each
def test_what_a_model_computes_with_is_what_is_packed(component):
    quantiser, weight = built(component), weights()
    before = weight.clone()
    assert torch.equal(quantiser.rounded(weight), unpacked(quantiser, weight))
    assert torch.equal(weight, before)  # nothing is written in place
    assert quantiser.rounded(weight).isfinite().all()


@each
def test_packed_bytes_are_exact(component):
    quantiser, weight = built(component), weights()
    assert sum(part.nbytes for part in quantiser.pack(weight).values()) == quantiser.bytes(*weight.shape)


@pytest.mark.parametrize(
    ("component", "bits"),
    [
        ("int4_channel", 4 + 32 / 96),
        ("q4_0", 4.5),
        ("q8_0", 8.5),
        ("int8_block", 9),
        ("sfp8", 8 + 32 / 96),
        ("fp8_e4m3", 8 + 32 / 96),
    ],
)
def test_bits_per_weight(component, bits):
    assert 8 * built(component).bytes(10, 96) == pytest.approx(10 * 96 * bits, rel=1e-12)


@each
def test_rows_do_not_depend_on_each_other(component):
    quantiser, weight = built(component), weights()
    assert torch.equal(quantiser.rounded(weight[7:9]), quantiser.rounded(weight)[7:9])


@each
def test_other_float_types_are_read_as_float32(component):
    quantiser, weight = built(component), weights().bfloat16()
    assert torch.equal(quantiser.rounded(weight), quantiser.rounded(weight.float()))


@pytest.mark.parametrize("component", registry.names("quantiser"))
def test_rounding_again_changes_at_most_the_last_bits(component):
    quantiser, weight = built(component), weights()
    once = quantiser.rounded(weight)
    assert torch.allclose(quantiser.rounded(once), once, rtol=1e-6, atol=0)


@each
def test_a_negative_matrix_has_the_negative_values(component):
    """Except for one end of a block or row, which the formats with 16 codes clip."""
    quantiser, weight = built(component), weights()
    forth, back = quantiser.rounded(weight), -quantiser.rounded(-weight)
    if component["type"] not in ("q4_0", "int4_channel"):
        assert torch.equal(forth, back)
    assert (forth - back).abs().max() <= weight.abs().max() / 4


@pytest.mark.parametrize("name", ["q4_0", "q8_0"])
def test_blocks_are_those_of_gguf(name):
    quantiser, weight = built(name), RECORDED["w"]
    assert torch.equal(quantiser.pack(weight)["blocks"], RECORDED[f"{name}_bytes"])
    assert torch.equal(quantiser.rounded(weight), RECORDED[f"{name}_deq"])
    assert torch.equal(quantiser.unpack({"blocks": RECORDED[f"{name}_bytes"]}, weight.shape[1]), RECORDED[f"{name}_deq"])


def test_q4_0_takes_the_first_of_two_extremes():
    weight = torch.zeros(2, 32)
    weight[0, :2], weight[1, :2] = torch.tensor([1.0, -1.0]), torch.tensor([-1.0, 1.0])
    assert built("q4_0").rounded(weight)[:, :2].tolist() == [[1.0, -0.875], [-1.0, 0.875]]


def test_relative_errors_have_their_known_order():
    """Of N(0, 0.02) weights, 512 x 1024; the values were measured with torchao, gguf and the formulas."""
    weight = torch.randn(512, 1024, generator=torch.Generator().manual_seed(0)) * 0.02
    known = [
        ("int4_channel", {}, 0.1427),
        ("int4_channel", {"extreme": 7.5}, 0.1334),
        ("q4_0", {}, 0.0859),
        ("sfp8", {}, 0.02642),
        ("fp8_e4m3", {}, 0.02639),
        ("int8_block", {"block": 1024}, 0.0079),
        ("q8_0", {}, 0.0054),
    ]
    errors = []
    for name, options, expected in known:
        rounded = built({"type": name, **options}).rounded(weight)
        errors.append(float((rounded - weight).norm() / weight.norm()))
        assert errors[-1] == pytest.approx(expected, rel=0.02), name
    assert errors == sorted(errors, reverse=True)


def test_sfp8_has_128_magnitudes_and_one_zero():
    codes = torch.arange(256).to(torch.uint8)
    values = built("sfp8").unpack({"codes": codes[None], "scale": torch.ones(1, 1)}, 256)[0]
    half = values[:128]
    assert half[0] == 0 and half[1] == 1.25 * 2**-23 and half[64] == 2**-7 and half[127] == 1.875
    assert (half.diff() > 0).all() and torch.equal(values[128:], -half)
    assert torch.equal(built("sfp8").rounded(values[None])[0], values)  # each is its own nearest


def test_sfp8_rounds_to_the_nearest_value():
    codes = torch.arange(128).to(torch.uint8)
    known = built("sfp8").unpack({"codes": codes[None], "scale": torch.ones(1, 1)}, 128)[0]
    x = torch.rand(1, 4000, generator=torch.Generator().manual_seed(1)).pow(12) * 1.875
    x[0, 0] = 1.875  # so the scale is 1
    nearest = (known[:, None] - x).abs().min(0).values
    assert torch.allclose((built("sfp8").rounded(x) - x).abs()[0], nearest, rtol=1e-6, atol=0)


@pytest.mark.parametrize("component", [{"type": "q4_0"}, {"type": "int4_channel", "extreme": 7.5}])
def test_clipped_are_those_further_than_half_a_step_from_their_value(component):
    weight = weights()
    plain, clipped = built(component), built(component | {"gradient": "clipped"})
    assert plain.clipped(weight) is None
    assert torch.equal(plain.rounded(weight), clipped.rounded(weight))
    mask = clipped.clipped(weight)
    assert mask.any() and not mask.all()
    assert not built({"type": "int4_channel", "gradient": "clipped"}).clipped(weight).any()  # by 7 / max|w| nothing is
