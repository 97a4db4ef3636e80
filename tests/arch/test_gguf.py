"""A GGUF file has what llama.cpp expects of a model that it computes, our exact weights, and nothing of another model."""

import itertools
import json
import struct
import subprocess
import sys

import numpy as np
import pytest
import torch
from gguf_files import TEXTS, TOKENS, Read, saved, spec, trained
from tiny_specs import resolved

from arch import chat_template, checkpoint, packed, quantised, registry
from arch.errors import DataError, SpecError
from arch.gguf import architectures, file, vocabulary
from arch.gguf.export import export, kinds_of
from arch.model_spec import TEXT_ROLES
from experiments.data.tokenizers.character import Character

NAMES = ("gemma2", "gemma3", "gemma-embedding")
Q4 = {role: {"type": "q4_0"} for role in ("embedding", "attention", "matrix")}
each = pytest.mark.parametrize("name", NAMES)


def test_the_bytes_of_a_small_file(tmp_path):
    entries = {"a": file.Stored((2, 3), "float32"), "b": file.Stored((1, 32), "q4_0")}
    values, blocks = np.arange(6, dtype=np.float32), np.arange(18, dtype=np.uint8)
    about = {"k": 7, "flags": [True, False], "texts": []}
    file.write(tmp_path / "f", about, entries, iter([("b", blocks), ("a", values)]))
    text = lambda value: struct.pack("<Q", len(value)) + value  # noqa: E731
    start = b"GGUF" + struct.pack("<IQQ", 3, 2, 3) + text(b"k") + struct.pack("<II", 4, 7)
    start += text(b"flags") + struct.pack("<IIQ", 9, 7, 2) + b"\1\0" + text(b"texts") + struct.pack("<IIQ", 9, 8, 0)
    start += text(b"a") + struct.pack("<IQQIQ", 2, 3, 2, 0, 0) + text(b"b") + struct.pack("<IQQIQ", 2, 32, 1, 2, 32)
    start += b"\0" * (-len(start) % 32)
    assert (tmp_path / "f").read_bytes() == start + values.tobytes() + b"\0" * 8 + blocks.tobytes() + b"\0" * 14
    with pytest.raises(ValueError, match="a: 8 bytes, expected 24"):
        file.write(tmp_path / "g", {}, entries, [("a", values[:2])])


@each
def test_float_weights_come_back_bit_for_bit(name, tmp_path):
    folder, model = saved(tmp_path / "c", name=name)
    done = export(folder, tmp_path / "f")
    found = Read(tmp_path / "f")
    assert done.architecture == found.about["general.architecture"] == name and found.about["general.file_type"] == 0
    weights = {architectures.place(ours): weight.detach() for ours, weight in model.named_parameters()}
    assert weights.keys() == found.tensors.keys()
    for theirs, weight in weights.items():
        shape, code, values = found.tensors[theirs]
        wanted = weight if weight.ndim == 2 else 1 + weight
        assert (shape, code) == (tuple(weight.shape), 0) and np.array_equal(values, wanted.numpy()), theirs


@pytest.mark.parametrize(("dtype", "code"), [("bfloat16", 30), ("float16", 1)])
def test_matrices_in_two_bytes_and_norms_in_four(dtype, code, tmp_path):
    folder, model = saved(tmp_path / "c")
    export(folder, tmp_path / "f", dtype)
    found = Read(tmp_path / "f").tensors
    assert {key: info[1] for key, info in found.items()} == {key: 0 if "norm" in key else code for key in found}
    values = torch.from_numpy(found["token_embd.weight"][2].copy()).view(getattr(torch, dtype)).view(TOKENS, 64)
    assert torch.equal(values, model.embedding.detach().to(getattr(torch, dtype)))
    with torch.no_grad():
        model.embedding[0, 0] = 1e6
    checkpoint_with(model, folder)
    if dtype == "float16":
        with pytest.raises(DataError, match="embedding has numbers that float16 cannot hold"):
            export(folder, tmp_path / "g", dtype)
        assert not (tmp_path / "g").exists()


def checkpoint_with(model, folder):
    from arch import tensors

    checkpoint.write(model.spec, tensors.of_mapping(dict(model.state_dict())), folder)


@pytest.mark.parametrize("kind", ["q4_0", "q8_0"])
@pytest.mark.parametrize("trained_so", [True, False])
def test_blocks_are_the_weights_that_a_quantised_model_computes_with(kind, trained_so, tmp_path):
    roles = dict.fromkeys(TEXT_ROLES, kind)
    quantise = {role: {"type": kind} for role in roles}
    folder, model = saved(tmp_path / "c", **({"quantise": quantise} if trained_so else {}))
    done = export(folder, tmp_path / "f", quantise=None if trained_so else roles)
    assert "not quantised: norms" in done.notes
    found, quantiser = Read(tmp_path / "f"), registry.build("quantiser", {"type": kind})
    assert found.about["general.quantization_version"] == 2 and found.about["general.file_type"] == {"q4_0": 2, "q8_0": 7}[kind]
    for _, ours, _, weight in quantised.weights(model):
        shape, code, blocks = found.tensors[architectures.place(ours)]
        assert code == {"q4_0": 2, "q8_0": 8}[kind] and shape == tuple(weight.shape)
        values = quantiser.unpack({"blocks": torch.from_numpy(blocks.copy())}, shape[-1])
        assert torch.equal(values, quantiser.rounded(weight)), ours
        if trained_so:
            owner = model if ours == "embedding" else model.get_submodule(ours.removesuffix(".weight"))
            assert torch.equal(values, owner.fake(weight).detach()), ours


@each
@pytest.mark.parametrize("formats", [{}, {"embedding": "q8_0", "attention": "q8_0", "matrix": "q4_0"}, {"matrix": "q4_0"}])
def test_the_file_is_as_large_as_show_says(name, formats, tmp_path):
    folder, model = saved(tmp_path / "c", name=name)
    done = export(folder, tmp_path / "f", quantise=formats)
    said = packed.weights(model.spec, {role: {"type": kind} for role, kind in formats.items()}, "float32")
    assert Read(tmp_path / "f").bytes == packed.total(said) == sum(done.kinds.values())
    for kind in set(formats.values()):
        assert done.kinds[kind] == sum(each["bytes"] for each in said.values() if each["format"] == kind)


def test_what_a_file_says_of_gemma3(tmp_path):
    folder, _ = saved(tmp_path / "c")
    export(folder, tmp_path / "f", context=77)
    about = Read(tmp_path / "f").about
    own = {key.removeprefix("gemma3."): value for key, value in about.items() if key.startswith("gemma3.")}
    assert own.pop("attention.layer_norm_rms_epsilon") == pytest.approx(1e-6)
    assert own == {
        "context_length": 77,
        "embedding_length": 64,
        "block_count": 7,
        "feed_forward_length": 96,
        "attention.head_count": 2,
        "attention.head_count_kv": 1,
        "attention.key_length": 32,
        "attention.value_length": 32,
        "attention.sliding_window": 6,
        "rope.freq_base": 1e6,
        "rope.freq_base_swa": 1e4,
        "rope.scaling.type": "linear",
        "rope.scaling.factor": 8.0,
        "vocab_size": TOKENS,
    }


def test_what_a_file_says_of_the_others():
    gemma2 = architectures.metadata(spec("gemma2"), 8192)
    assert gemma2["gemma2.attn_logit_softcapping"] == 20 and gemma2["gemma2.final_logit_softcapping"] == 30
    assert gemma2["gemma2.context_length"] == 8192 and gemma2["gemma2.attention.sliding_window"] == 6
    encoder = architectures.metadata(spec("gemma-embedding"), 8192)
    said = {key.removeprefix("gemma-embedding."): value for key, value in encoder.items()}
    assert said["attention.sliding_window"] == 6 and said["attention.causal"] is False and said["pooling_type"] == 1
    assert [said[f"dense_{n}_feat_{end}"] for n in (2, 3) for end in ("in", "out")] == [64, 96, 96, 64]
    for pool, code in (("first", 2), ("last", 3)):
        assert architectures.metadata(spec("gemma-embedding", **{"pool.type": pool}), 1)["gemma-embedding.pooling_type"] == code
    one = architectures.metadata(spec("gemma-embedding", project=[96]), 1)
    assert one["gemma-embedding.embedding_length_out"] == 96 and "gemma-embedding.dense_3_feat_in" not in one


def test_without_a_window_a_file_says_nothing_of_one():
    whole = architectures.metadata(spec(pattern=["global"]), 1)
    assert not any("sliding_window" in key or "swa" in key for key in whole)


LOCAL = "blocks.local.mixer"
REFUSED = {
    "recurrent": (
        "gemma3",
        {"blocks.r": {"mixer": {"type": "rg_lru", "blocks": 2}, "ffn": {"type": "gated", "hidden": 96}}, "pattern": ["local", "r"]},
        "blocks.r.mixer.type: llama.cpp's gemma3 has attention in every layer, not rg_lru",
    ),
    "no QK-norm": ("gemma3", {f"{LOCAL}.qk_norm": False}, "blocks.local.mixer.qk_norm: llama.cpp's gemma3 has it"),
    "QK-norm in some layers": ("gemma3", {"blocks.global.mixer.qk_norm": False}, "blocks.global.mixer.qk_norm: llama.cpp's"),
    "capped scores": ("gemma3", {f"{LOCAL}.softcap": 5.0}, "blocks.local.mixer.softcap: llama.cpp's gemma3 has null"),
    "plain norms": ("gemma3", {"blocks.local.norm": "before"}, "blocks.local.norm: llama.cpp's gemma3 has"),
    "another activation": ("gemma3", {"blocks.local.ffn.activation": "silu"}, "blocks.local.ffn.activation: "),
    "biases": ("gemma3", {f"{LOCAL}.bias": True}, "blocks.local.mixer.bias: "),
    "no positions": ("gemma3", {f"{LOCAL}.rope": None}, "blocks.local.mixer.rope.fraction: "),
    "half of the channels": ("gemma3", {f"{LOCAL}.rope.fraction": 0.5}, "blocks.local.mixer.rope.fraction: "),
    "a scale of queries": ("gemma3", {f"{LOCAL}.query_scale": 0.5}, "query_scale: llama.cpp's gemma3 of 7 layers scales"),
    "the layers of the 27B": ("gemma3", {"layers": 62, f"{LOCAL}.heads": 4}, "query_scale: llama.cpp's gemma3 of 62 layers"),
    "other heads in some layers": ("gemma3", {"blocks.global.mixer.heads": 4}, "blocks.global.mixer.heads: llama.cpp's"),
    "scaled local positions": ("gemma3", {f"{LOCAL}.rope.scale": 2.0}, "mixer.rope.scale: llama.cpp's gemma3 scales no"),
    "two windows": (
        "gemma3",
        {"blocks.wide": {"like": "local", "mixer": {"window": 9}}, "pattern": ["local", "wide", "global"]},
        "blocks.wide.mixer.window: a GGUF file has one for the layers with a window; 6 in one layer and 9 in another",
    ),
    "another order": (
        "gemma3",
        {"pattern": ["2*local", "global"]},
        "pattern: llama.cpp's gemma3 has a global layer at every place that 6",
    ),
    "the other order": (
        "gemma2",
        {"pattern": ["global", "local"]},
        "pattern: llama.cpp's gemma2 has a global layer at every place that 2",
    ),
    "only windows": ("gemma3", {"pattern": ["local"]}, "blocks.local.mixer.window: llama.cpp's gemma3 has both kinds of layers"),
    "unscaled embeddings": ("gemma3", {"embed_scale": "none"}, "embed_scale: llama.cpp's gemma3 scales by sqrt_dim, not none"),
    "uncapped logits": ("gemma2", {"logit_softcap": None}, "logit_softcap: llama.cpp's gemma2 always has one"),
    "a head of its own": ("gemma2", {"tie_embeddings": False}, "tie_embeddings: the head of llama.cpp's gemma2 is the embedding"),
    "only global layers": ("gemma2", {"pattern": ["global"]}, "blocks.global.mixer.window: llama.cpp's gemma2 has both kinds"),
    "scaled in some layers": ("gemma2", {"blocks.global.mixer.rope.scale": 2.0}, "mixer.rope.scale: llama.cpp's gemma2 has one"),
    "a causal encoder": (
        "gemma-embedding",
        {f"{LOCAL}.causal": True, f"{LOCAL}.window": 6, "pool.type": "last"},
        "blocks.local.mixer.causal: llama.cpp's gemma-embedding has false",
    ),
    "a lopsided window": ("gemma-embedding", {f"{LOCAL}.window.after": 2}, "sees as far ahead as back"),
    "a pool of its own": (
        "gemma-embedding",
        {"pool": {"type": "attention", "heads": 2}},
        "pool: llama.cpp has mean, first, last, not",
    ),
    "three maps": ("gemma-embedding", {"project": [32, 32, 64]}, "project: llama.cpp has at most two maps"),
    "another last width": ("gemma-embedding", {"project": [96, 32]}, "at most two maps, the second to dim = 64"),
}


@pytest.mark.parametrize(("name", "changes", "reason"), REFUSED.values(), ids=REFUSED)
def test_a_model_that_llama_cpp_does_not_compute_is_refused_at_its_key(name, changes, reason):
    with pytest.raises(ValueError) as error:
        architectures.architecture(spec(name, **changes))
    assert reason in str(error.value) and "\n" not in str(error.value)


def test_the_27b_scales_queries_by_the_width_of_a_share():
    architectures.architecture(spec(layers=62, **{f"{LOCAL}.query_scale": (64 / 2) ** -0.5}))


def test_images_and_two_stacks_are_refused():
    tower = {"type": "siglip", "image_size": 8, "patch": 4, "dim": 8, "layers": 1, "heads": 2, "hidden": 8, "tokens": 4}
    tower |= {"placeholder": 3, "start": 4, "end": 5}
    with pytest.raises(ValueError, match="vision: GGUF files are of one stack that reads text"):
        architectures.architecture(spec(vision=tower))
    part = {"mixer": {"type": "attention", "heads": 2}, "ffn": {"type": "gated", "hidden": 32}}
    source = part | {"mixer": {"type": "attention", "heads": 2, "causal": False}}
    blocks = {"a": part | {"cross": {"type": "attention", "heads": 2}}}
    two = {"dim": 32, "vocab_size": 40, "layers": 1, "pattern": ["a"], "blocks": blocks}
    two["encoder"] = {"layers": 1, "pattern": ["e"], "blocks": {"e": source}}
    with pytest.raises(ValueError, match="encoder: GGUF files are of one stack that reads text"):
        architectures.architecture(resolved(two))


@pytest.mark.parametrize("kind", ["bpe", "byte"])
def test_the_vocabulary_is_the_tokenizers(kind, tmp_path):
    tokenizer = trained(kind)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    about = vocabulary.metadata(tmp_path, TOKENS)
    about = {key.removeprefix("tokenizer.ggml."): value for key, value in about.items()}
    size = tokenizer.get_vocab_size()
    assert about["tokens"][:size] == [tokenizer.id_to_token(i) for i in range(size)] and len(set(about["tokens"])) == TOKENS
    assert about["token_type"] == [3] * 3 + [1] * (size - 3) + [5] * (TOKENS - size)
    assert (about["bos_token_id"], about["eos_token_id"], about["padding_token_id"]) == (1, 2, 0)
    assert (about["add_bos_token"], about["add_eos_token"]) == (True, False)
    assert (about["model"], about["pre"]) == ("gpt2", "gpt-2") and bool(about["merges"]) == (kind == "bpe")
    for text in TEXTS:
        assert merged(about, tokenizer, text) == tokenizer.encode(text, add_special_tokens=False).ids


def test_a_chat_template_is_in_the_file(tmp_path):
    tokenizer = trained("byte")
    tokenizer.add_special_tokens(["<start_of_turn>", "<end_of_turn>"])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    assert "tokenizer.chat_template" not in vocabulary.metadata(tmp_path, TOKENS)
    (tmp_path / "chat_template.jinja").write_text(chat_template.jinja("gemma3"))
    about = vocabulary.metadata(tmp_path, TOKENS)
    assert about["tokenizer.chat_template"] == (tmp_path / "chat_template.jinja").read_text()
    assert about["tokenizer.ggml.eot_token_id"] == tokenizer.token_to_id("<end_of_turn>")


def merged(about, tokenizer, text):
    """The tokens of a text by the merges in the file: again and again the first of them that fits, within each word."""
    ranks, ids = ({each: i for i, each in enumerate(about[key])} for key in ("merges", "tokens"))
    found = []
    for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(text):
        parts = list(word)
        while True:
            pairs = [(ranks[f"{a} {b}"], i) for i, (a, b) in enumerate(itertools.pairwise(parts)) if f"{a} {b}" in ranks]
            if not pairs:
                break
            _, i = min(pairs)
            parts[i : i + 2] = [parts[i] + parts[i + 1]]
        found += [ids[part] for part in parts]
    return found


def test_an_encoder_puts_the_end_behind_a_text_and_says_its_prompts(tmp_path):
    folder, _ = saved(tmp_path / "c", name="gemma-embedding")
    (folder / "prompts.json").write_text(json.dumps({"query": "task: "}))
    (folder / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 48}))
    done = export(folder, tmp_path / "f")
    about = Read(tmp_path / "f").about
    assert about["tokenizer.ggml.add_bos_token"] and about["tokenizer.ggml.add_eos_token"]
    assert about["gemma-embedding.context_length"] == 48
    assert "a GGUF file has no prompts; put in front of a query: 'task: '" in done.notes


def test_without_a_tokenizer_tokens_are_numbers(tmp_path):
    folder, _ = saved(tmp_path / "c", tokenizer=None)
    done = export(folder, tmp_path / "f")
    about = Read(tmp_path / "f").about
    assert about["tokenizer.ggml.model"] == "no_vocab" and about["gemma3.vocab_size"] == TOKENS
    assert any(note.startswith("no vocabulary, because ") for note in done.notes)


def test_other_tokenizers_are_refused(tmp_path):
    Character(Character.Config()).train(TEXTS).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(DataError, match=r"pre_tokenizer.type is null, expected \"ByteLevel\"; a GGUF file holds byte-level BPE"):
        vocabulary.metadata(tmp_path, TOKENS)
    trained("bpe").save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(DataError, match="its highest id is 299, but the model has 280 tokens"):
        vocabulary.metadata(tmp_path, 280)
    said = json.loads((tmp_path / "tokenizer.json").read_text())
    said["pre_tokenizer"]["use_regex"] = False
    (tmp_path / "tokenizer.json").write_text(json.dumps(said))
    with pytest.raises(DataError, match="its merges cross words"):
        vocabulary.metadata(tmp_path, TOKENS)


def test_widths_and_formats_that_do_not_fit(tmp_path):
    with pytest.raises(ValueError, match=r"quantise.attention: q4_0 needs rows of a multiple of 32 values, and .* have 48"):
        kinds_of(spec(**{f"{LOCAL}.head_dim": 24}), {"attention": "q4_0"}, "float32")
    folder, _ = saved(tmp_path / "c", quantise=Q4)
    with pytest.raises(SpecError, match=r"quantise.matrix: the model computes with q4_0, and q8_0 would round its float weights"):
        export(folder, tmp_path / "f", quantise={"matrix": "q8_0"})
    other, _ = saved(tmp_path / "d", quantise={"matrix": {"type": "sfp8"}})
    with pytest.raises(SpecError, match=r"spec.yaml:\d+: quantise.matrix.type: GGUF files have no sfp8; expected q4_0 or q8_0"):
        export(other, tmp_path / "f")
    assert not (tmp_path / "f").exists()


def test_a_weight_that_is_not_finite_leaves_no_file(tmp_path):
    folder, model = saved(tmp_path / "c")
    with torch.no_grad():
        model.blocks[3].ffn.component.up.weight[1, 2] = float("nan")
    checkpoint_with(model, folder)
    for formats in ({}, {"matrix": "q4_0"}):
        with pytest.raises(DataError, match=r"blocks\.3\.ffn\.component\.up\.weight is not finite"):
            export(folder, tmp_path / "f", quantise=formats)
    assert [path.name for path in tmp_path.iterdir()] == ["c"]


def test_the_command(tmp_path):
    folder, model = saved(tmp_path / "c")
    called = [sys.executable, "-m", "arch", "export", str(folder), str(tmp_path / "m.gguf")]
    called += ["--format", "gguf", "--quantise", "q4_0"]
    done = subprocess.run(called, capture_output=True, text=True, check=True)
    first, *notes = done.stdout.splitlines()
    said = packed.weights(model.spec, Q4, "float32")
    assert first.startswith(f"{tmp_path / 'm.gguf'}: gemma3, ") and " in q4_0" in first and len(notes) == 2
    assert Read(tmp_path / "m.gguf").bytes == packed.total(said)
    before = (tmp_path / "m.gguf").read_bytes()
    done = subprocess.run(called, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stderr == f"{tmp_path / 'm.gguf'}: is there already; give the name of a new file\n"
    assert (tmp_path / "m.gguf").read_bytes() == before and sorted(path.name for path in tmp_path.iterdir()) == ["c", "m.gguf"]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--format", "ggfu"], "--format: no format 'ggfu'; did you mean 'gguf'?"),
        (["--quantise", "q4_0"], "--quantise: not of --format hf, which has --truncate-dim"),
        (["--format", "gguf", "--truncate-dim", "4"], "--truncate-dim: not of --format gguf, which has --context"),
        (["--format", "gguf", "--quantise", "int4_channel"], "--quantise: GGUF files have no int4_channel; expected q4_0 or q8_0"),
        (["--format", "gguf", "--quantise", "matrx=q4_0"], "--quantise: no role 'matrx'; did you mean 'matrix'?"),
        (["--format", "gguf", "--dtype", "float61"], "dtype: no dtype 'float61'"),
    ],
)
def test_options_that_do_not_go_together(options, reason, tmp_path, monkeypatch, capsys):
    from arch import cli
    from arch.__main__ import app

    folder, _ = saved(tmp_path / "c")
    monkeypatch.setattr(sys, "argv", ["arch", "export", str(folder), str(tmp_path / "f"), *options])
    with pytest.raises(SystemExit) as ended:
        cli.main(app, "python -m arch")
    assert ended.value.code == 2 and capsys.readouterr().err.startswith(reason)
    assert not (tmp_path / "f").exists()


def test_a_checkpoint_that_is_refused_names_its_line(tmp_path):
    folder, _ = saved(tmp_path / "c", pattern=["local"])
    with pytest.raises(SpecError, match=r"c/spec.yaml:\d+: blocks.local.mixer.window: llama.cpp's gemma3 has both kinds of layers"):
        export(folder, tmp_path / "f")
    assert [path.name for path in tmp_path.iterdir()] == ["c"]
