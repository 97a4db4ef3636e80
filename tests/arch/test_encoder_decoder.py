"""A model of two stacks: what a decoder reads of an encoder, in both forms of attention, and what it costs."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file
from tiny_specs import resolved

from arch import checkpoint, cost, document, hf, registry
from arch.document import ROOT
from arch.encoded import Encoded
from arch.errors import DataError, SpecError
from arch.generate import writing
from arch.kernels.attention.masked import masked, masked_reference
from arch.layout import TokenLayout
from arch.model import new_model
from arch.model_spec import ModelSpec
from arch.show import costs
from experiments.parity import encoder_decoder as parity

FFN = {"type": "gated", "hidden": 24}
SELF = {"type": "attention", "heads": 2, "kv_heads": 1, "head_dim": 8}
AHEAD = {"mixer": {**SELF, "causal": False, "window": {"before": 2, "after": 3}}, "ffn": FFN, "norm": "sandwich"}
WHOLE = {"mixer": {**SELF, "causal": False}, "ffn": FFN, "norm": "sandwich"}
CROSS = {"mixer": {**SELF, "window": 4}, "cross": {"type": "attention", "heads": 2, "softcap": 5.0}, "ffn": FFN, "norm": "sandwich"}
MERGED = {"mixer": {**SELF, "type": "merged_attention", "qk_norm": True, "window": 4}, "ffn": FFN, "norm": "sandwich"}
ENCODER = {"layers": 3, "pattern": ["near", "far"], "blocks": {"near": AHEAD, "far": WHOLE}}
FORMS = {
    "cross": {"blocks": {"d": CROSS}, "encoder": {**ENCODER, "dim": 12, "embedding": "own"}},
    "merged": {"blocks": {"d": MERGED}, "encoder": ENCODER},
}
FOLDERS = {"t5gemma": "t5gemma_tiny", "t5gemma2": "t5gemma2_tiny"}


def spec_of(form, **changes):
    return resolved({"dim": 16, "vocab_size": 37, "layers": 2, "pattern": ["d"], **FORMS[form], **changes})


@pytest.fixture(params=FORMS)
def model(request):
    made = new_model(spec_of(request.param), 0).double()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in made.parameters():
            weight.add_(0.3 * torch.randn(weight.shape, generator=generator, dtype=weight.dtype))
    return made.eval()


def ids(rows, tokens, seed=0):
    return torch.randint(1, 37, (rows, tokens), generator=torch.Generator().manual_seed(seed))


def same(a, b):
    torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("family", FOLDERS)
def test_it_agrees_with_what_was_recorded(family):
    rows = parity.compare(family)
    assert {row.what for row in rows} >= {"encoder states", "logits"}
    assert all(row.agrees for row in rows), rows


@pytest.mark.parametrize("alter", ["window", "position", "norm"])
def test_a_detail_that_is_wrong_is_seen(alter):
    def change(model):
        decoder = model.blocks[0].mixer.component
        if alter == "window":
            decoder.config = decoder.config.model_copy(update={"window": 5})
        elif alter == "position":
            decoder.config = decoder.config.model_copy(update={"rope": None})
        else:
            decoder.k_norm = torch.nn.Identity()

    assert not all(row.agrees for row in parity.compare("t5gemma2", change))


@pytest.mark.parametrize("family", FOLDERS)
def test_import_export_import_is_bitwise(family, tmp_path):
    first, out, second = tmp_path / "first", tmp_path / "out", tmp_path / "second"
    found = hf.import_(ROOT / "tests" / "fixtures" / FOLDERS[family], first)
    assert found.family == family
    assert all("vision" in name or "multi_modal" in name or "eoi" in name for name in found.ignored)
    assert hf.export(first, out).endswith("ForConditionalGeneration")
    assert hf.import_(out, second).ignored == []
    a, b = (load_file(folder / checkpoint.WEIGHTS) for folder in (first, second))
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert (first / checkpoint.SPEC).read_text() == (second / checkpoint.SPEC).read_text()


def test_a_model_that_no_class_expresses_is_refused(tmp_path):
    spec = spec_of("merged")
    folder = tmp_path / "ours"
    folder.mkdir()
    from arch.tensors import of_mapping

    checkpoint.write(spec, of_mapping(dict(new_model(spec, 0).named_parameters())), folder)
    with pytest.raises(DataError, match="t5gemma2: "):
        hf.export(folder, tmp_path / "theirs")
    assert not (tmp_path / "theirs").exists()


def test_the_encoder_sees_ahead_and_the_decoder_does_not(model):
    source, target = ids(1, 7), ids(1, 6)
    encoded = model.read(source)
    other = source.clone()
    other[0, -1] = (other[0, -1] + 1) % 37
    assert not torch.allclose(model.read(other).hidden_BSD[0, 0], encoded.hidden_BSD[0, 0])
    logits = model(target, encoded=encoded)
    assert not torch.allclose(model(target, encoded=model.read(other)), logits)
    for cut in range(1, 6):
        changed = target.clone()
        changed[0, cut:] = (changed[0, cut:] + 3) % 37
        same(model(changed, encoded=model.read(source))[:, :cut], logits[:, :cut])


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_nothing_on_either_side(model, side):
    source, target = ids(1, 5), ids(1, 4)
    plain = model(target, encoded=model.read(source))

    def padded(tokens_1T, more, fill):
        parts = [tokens_1T, torch.full((1, more), fill)]
        mask = torch.cat([torch.zeros_like(tokens_1T), torch.full((1, more), -1)][:: 1 if side == "right" else -1], 1)
        return torch.cat(parts[:: 1 if side == "right" else -1], 1), TokenLayout.packed(mask)

    for fill in (0, 9):
        longer, layout = padded(source, 3, fill)
        wide, own = padded(target, 2, fill)
        same(model(wide, own, encoded=model.read(longer, layout))[:, own.seen_BT[0]], plain)


def test_rows_of_padding_stay_finite(model):
    empty = TokenLayout.packed(torch.full((2, 4), -1))
    logits = model(ids(2, 5), encoded=model.read(ids(2, 4), empty))
    assert logits.isfinite().all()
    logits.sum().backward()
    assert all(weight.grad.isfinite().all() for weight in model.parameters() if weight.grad is not None)


def test_packed_pairs_equal_pairs_alone(model):
    pairs = [(ids(1, 5, seed), ids(1, 4 + seed, seed + 9)) for seed in range(2)]
    alone = [model(target, encoded=model.read(source))[0] for source, target in pairs]

    def together(side):
        numbers = torch.cat([torch.full(pair[side].shape, number) for number, pair in enumerate(pairs)], 1)
        return torch.cat([pair[side] for pair in pairs], 1), TokenLayout.packed(numbers)

    same(model(*together(1), encoded=model.read(*together(0)))[0], torch.cat(alone))


def test_decoding_equals_the_whole_pass(model):
    source, target = ids(2, 6), ids(2, 9)
    with torch.no_grad():
        whole = model(target, encoded=model.read(source))
        state = model.init_state(2, 9, model.read(source))
        pieces = []
        for piece in (target[:, :3], *target[:, 3:].split(1, 1)):
            logits, state = model.decode(piece, state)
            pieces.append(logits)
    torch.testing.assert_close(torch.cat(pieces, 1), whole, rtol=1e-5, atol=1e-5)  # a ring's softmax is float32


def test_what_is_written_are_the_likeliest_tokens_behind_the_source(model):
    source = ids(1, 6)
    written = list(writing(model, source[0].tolist(), 8, temperature=0, begin=1))
    with torch.no_grad():
        scores = model(torch.tensor([[1, *written[:-1]]]), encoded=model.read(source))
    assert scores[0].argmax(-1).tolist() == written
    other = list(writing(model, ids(1, 6, seed=5)[0].tolist(), 8, temperature=0, begin=1))
    assert other != written  # it reads the source
    with pytest.raises(DataError, match="no token that begins a text, from which the decoder could write"):
        next(writing(model, [3], 1))


@pytest.mark.parametrize("family", FOLDERS)
def test_transformers_loads_what_is_exported_and_writes_the_same(family, tmp_path):
    transformers = pytest.importorskip("transformers")
    hf.import_(ROOT / "tests" / "fixtures" / FOLDERS[family], tmp_path / "ours")
    hf.export(tmp_path / "ours", tmp_path / "theirs")
    name = json.loads((tmp_path / "theirs" / "config.json").read_text())["architectures"][0]
    kind = getattr(transformers, name)
    theirs, info = kind.from_pretrained(tmp_path / "theirs", output_loading_info=True, attn_implementation="eager")
    drawn = ("vision_tower", "multi_modal_projector", "eoi_embedding")  # of images; T5Gemma 2's class has them in any case
    assert all(any(part in key for part in drawn) for key in info["missing_keys"])
    assert not info["unexpected_keys"] and not info["mismatched_keys"]
    ours = hf.load(tmp_path / "ours", dtype=torch.float32)
    source, target = ids(2, 7), ids(2, 5)
    with torch.no_grad():
        wanted = theirs.eval()(input_ids=source, decoder_input_ids=target).logits
        torch.testing.assert_close(ours(target, encoded=ours.read(source)), wanted, rtol=1e-5, atol=1e-5)
        options = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None, "decoder_start_token_id": 2}
        written = theirs.generate(input_ids=source[:1], **options)[0, 1:].tolist()
    assert list(writing(ours, source[0].tolist(), 6, temperature=0, begin=2)) == written


def test_merged_attention_without_a_source_is_attention():
    options = {"heads": 2, "kv_heads": 1, "head_dim": 8, "window": 3, "softcap": 5.0, "qk_norm": True}
    from tiny_specs import context

    torch.manual_seed(0)
    merged, plain = (registry.build("mixer", {"type": kind, **options}, context()) for kind in ("merged_attention", "attention"))
    for weight in merged.parameters():
        torch.nn.init.normal_(weight)
    plain.load_state_dict(merged.state_dict())
    x, layout = torch.randn(2, 7, 16), TokenLayout.packed(torch.tensor([[0, 0, 0, 0, 1, 1, -1]] * 2))
    torch.testing.assert_close(merged(x, layout)[0][:, :6], plain(x, layout)[0][:, :6], rtol=1e-5, atol=1e-5)


def test_the_fast_form_equals_the_reference_in_value_and_gradient():
    generator = torch.Generator().manual_seed(0)
    seen = torch.rand(2, 5, 7, generator=generator) < 0.5
    seen[0, 2], seen[1] = False, False
    given = [torch.randn(2, n, h, 4, generator=generator, dtype=torch.float64) for n, h in ((5, 4), (7, 2), (7, 2))]
    weights = torch.randn(2, 5, 4, 4, generator=generator, dtype=torch.float64)
    results = []
    for form in (masked, masked_reference):
        leaves = [x.clone().requires_grad_() for x in given]
        y = form(*leaves, seen, 0.3)
        (y * weights).sum().backward()
        results.append((y.detach(), *(x.grad for x in leaves)))
    for a, b in zip(*results, strict=True):
        same(a, b)
    assert (results[0][0][0, 2] == 0).all()
    assert (results[0][0][1] == 0).all()


def test_a_source_is_read_once_per_layer(model):
    encoded = model.read(ids(1, 4))
    calls = []
    layers = {id(each) for block in model.blocks for each in cost.readers(block)}
    for _ in range(3):
        model(ids(1, 3), encoded=encoded)
        calls.append({id(layer) for layer in encoded._kept})
    assert calls == [layers] * 3


@pytest.mark.parametrize("form", FORMS)
def test_its_cost_is_exact(form):
    spec = spec_of(form)
    model = new_model(spec, 0)
    summary = cost.summary(spec, 64)
    assert summary["parameters"]["total"] == sum(weight.numel() for weight in model.parameters())
    stack = sum(weight.numel() for weight in model.encoder.parameters())
    assert summary["parameters"]["encoder"] == stack
    assert summary["parameters"]["embedding"] == 37 * 16 + (37 * 12 if form == "cross" else 0)
    keys = {"cross": 2 * 8, "merged": 8}[form]  # heads of the encoder's keys x channels
    own = 2 * 4 * 8  # a window of 4 tokens
    assert summary["cache_bytes"]["layers"] == [4 * (own + 2 * 32 * keys)] * 2
    ideal, executed = summary["flops_per_token"]["ideal"], summary["flops_per_token"]["executed"]
    assert 0 < ideal["prefill"] <= executed["prefill"] * 1.01
    assert ideal["train"] == 3 * ideal["prefill"]
    assert ideal["decode"] > 0
    assert not [note for note in summary["notes"] if "sees ahead" in note]
    assert costs(spec, "it", summary)


def test_ideal_flops_are_those_of_the_definition():
    spec = spec_of("cross")
    tokens = 32  # of the source, and of the target
    model = new_model(spec, 0)
    maps = {name: 2 * weight.numel() for name, weight in model.named_parameters() if weight.kind == "matrix"}
    mixing = 4 * 2 * 8 * 2 * sum(min(t + 1, 4) for t in range(tokens))  # the decoder's two windows
    near = sum(min(tokens - 1, t + 3) - max(0, t - 2) + 1 for t in range(tokens))
    mixing += 4 * 2 * 8 * (2 * near + tokens**2) + 2 * 4 * 2 * 8 * tokens**2
    total = 32 * sum(maps.values()) + mixing + 2 * 16 * 37 * tokens
    assert cost.outline(spec, 2 * tokens)["flops_per_token"]["ideal"]["prefill"] == total / (2 * tokens)


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"encoder": None}, "blocks.d.cross: it reads an encoder, and the model has none"),
        ({"pool": {"type": "mean"}}, "pool: of one stack"),
        ({"vision": {"type": "siglip"}}, "vision: for models of one stack"),
        ({"quantise": {"matrix": {"type": "q4_0"}}}, "quantise: for models of one stack"),
        ({"blocks": {"d": {"mixer": SELF, "ffn": FFN}}}, "no layer of the decoder reads it"),
        ({"encoder": {**ENCODER, "blocks": {"near": CROSS, "far": WHOLE}}}, "encoder.blocks.near.cross: an encoder has no other"),
        ({"encoder": {**ENCODER, "blocks": {"near": MERGED, "far": WHOLE}}}, "this stack has none beside it"),
        ({"encoder": {**ENCODER, "dim": 12}}, "encoder.dim: 12 with a shared embedding of dim = 16"),
        ({"encoder": {**ENCODER, "pattern": ["nearr"]}}, "encoder.pattern: no block 'nearr'"),
        ({"encoder": {**ENCODER, "layers": 0}}, "encoder.layers"),
        ({"blocks": {"d": {**CROSS, "cross": {"type": "attention", "heads": 3}}}}, "heads: 3 does not divide dim = 16"),
        ({"blocks": {"d": {**CROSS, "cross": {"type": "attentoin", "heads": 3}}}}, "no cross 'attentoin'"),
    ],
)
def test_what_does_not_fit_is_refused(changes, words):
    data = {"dim": 16, "vocab_size": 37, "layers": 2, "pattern": ["d"], **FORMS["cross"], **changes}
    root = document.node(data)
    with pytest.raises(SpecError) as refused:
        cost.check_builds(registry.resolve(ModelSpec.parse(root), root), root)
    assert words in f"{'.'.join(map(str, refused.value.path))}: {refused.value}"


def test_merged_attention_needs_one_width():
    with pytest.raises(SpecError, match="one map for both stacks"):
        spec = spec_of("merged", encoder={**ENCODER, "dim": 12, "embedding": "own"})
        cost.check_builds(spec, document.node(spec.dump()))


def test_like_works_in_both_stacks():
    near = {**AHEAD, "mixer": {**AHEAD["mixer"], "heads": 4, "kv_heads": 4}}
    blocks = {"near": near, "far": {"like": "near", "mixer": {"window": None}}}
    spec = spec_of("merged", encoder={**ENCODER, "blocks": blocks})
    assert spec.encoder.blocks["far"].mixer["heads"] == 4
    assert spec.encoder.blocks["far"].mixer["window"] is None


def test_a_stack_without_its_other_says_so(model):
    with pytest.raises(ValueError, match="needs a source"):
        model(ids(1, 3))
    with pytest.raises(ValueError, match="needs a source"):
        model.init_state(1, 3)
    alone = new_model(model.spec.encoder_spec, 0)
    with pytest.raises(ValueError, match="reads no source"):
        alone.read(ids(1, 3))
    with pytest.raises(ValueError, match="no encoder to read"):
        alone(ids(1, 3), encoded=Encoded(torch.zeros(1, 2, 16), TokenLayout.whole(1, 2)))


def test_a_damaged_folder_is_refused(tmp_path):
    folder = tmp_path / "folder"
    shutil.copytree(ROOT / "tests" / "fixtures" / "t5gemma_tiny", folder)
    text = (folder / "config.json").read_text()
    (folder / "config.json").write_text(text.replace('"rms_norm_eps": 1e-06', '"rms_norm_eps": 1e-05', 1))
    with pytest.raises(SpecError, match=r"the decoder's 1e-06|rms_norm_eps is"):
        hf.load(folder)


def test_the_releases_that_compute_an_exported_folder_are_named(tmp_path):
    """A folder whose encoder has windows is computed otherwise before 5.4: read in the releases 4.53.0, 5.3.0 and 5.4.0."""
    for name, since in (("t5gemma", {"4.53", "5.4"}), ("t5gemma2", {"5.0"})):
        assert {*hf.since(ROOT / "tests" / "fixtures" / FOLDERS[name]).values()} == since
