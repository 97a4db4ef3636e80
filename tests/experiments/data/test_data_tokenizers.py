"""Tokenizers: lossless, comparable by bytes, stored in one file; text that looks like a special token stays text."""

import random
import subprocess
import sys

import pytest

from arch import registry
from arch.document import node
from arch.errors import DataError, SpecError
from experiments.data.specials import BOS, EOS, PAD, SPECIALS, UNK, load

TEXTS = [f"def f{i}(x):\n\treturn x + {i}  # größer, {chr(0x4E00 + i)}\r\n" for i in range(40)]
WEIRD = [
    "",
    " ",
    "\ufeffbyte order mark",
    "\x00\x01\x7f\x80\x85\u2028\u2029",
    "e\u0301 and \u0301 alone",
    "👩‍👩‍👧‍👦 \U0010ffff \ud7ff\ue000\ufffe",
    "<eos><bos> <pad>, <unk>",
    "  \n\n\t  \r\n trailing   ",
    "ĠĊ look like the byte alphabet",
]
LOSSLESS = [{"type": "byte"}, {"type": "bpe", "vocab_size": 300}]
ALL = [*LOSSLESS, {"type": "character"}]


def trained(spec, texts=TEXTS):
    component = registry.build("tokenizer", spec)
    return component, component.train(texts)


def by_type(specs):
    return pytest.mark.parametrize("spec", specs, ids=lambda spec: spec["type"])


@by_type(LOSSLESS)
def test_any_text_comes_back(spec):
    _, tokenizer = trained(spec)
    points = [p for p in range(0x110000) if not 0xD800 <= p < 0xE000]
    noise = ["".join(map(chr, random.Random(i).choices(points, k=200))) for i in range(20)]
    for text in WEIRD + noise + TEXTS:
        assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False).ids) == text


@by_type(ALL)
def test_byte_lengths_add_up_to_the_text(spec):
    component, tokenizer = trained(spec, TEXTS + (WEIRD if spec["type"] == "character" else []))
    lengths = component.byte_lengths(tokenizer)
    assert lengths.shape == (tokenizer.get_vocab_size(),)
    for text in TEXTS + WEIRD:
        assert lengths[tokenizer.encode(text).ids].sum() == len(text.encode())
    for special in SPECIALS:
        assert lengths[tokenizer.token_to_id(special)] == 0


@by_type(ALL)
def test_one_file_holds_the_tokenizer(spec, tmp_path):
    _, tokenizer = trained(spec)
    (tmp_path / "tokenizer.json").write_text(tokenizer.to_str(pretty=True), encoding="utf-8")
    again = load(tmp_path / "tokenizer.json")
    assert again.to_str() == tokenizer.to_str()
    for text in TEXTS + WEIRD:
        assert again.encode(text).ids == tokenizer.encode(text).ids


@by_type(ALL)
def test_specials_come_first_and_never_from_text(spec):
    _, tokenizer = trained(spec)
    assert [tokenizer.token_to_id(special) for special in (PAD, BOS, EOS)] == [0, 1, 2]
    assert not {0, 1, 2} & set(tokenizer.encode("a<eos> <bos><pad>").ids)


def test_a_character_the_train_split_lacks_is_unknown():
    component, tokenizer = trained({"type": "character"}, ["abc", "cab"])
    unknown = tokenizer.token_to_id(UNK)
    assert tokenizer.encode("axxb").ids.count(unknown) == 2
    assert component.byte_lengths(tokenizer)[unknown] == 0
    assert tokenizer.decode(tokenizer.encode("cab").ids) == "cab"


def test_bpe_learns_the_same_in_another_process_with_other_threads():
    _, tokenizer = trained({"type": "bpe", "vocab_size": 400})
    program = (
        "from arch import registry; texts = [f'def f{i}(x):\\n\\treturn x + {i}  # größer, {chr(0x4E00 + i)}\\r\\n'"
        " for i in range(40)]; print(ascii(registry.build('tokenizer', {'type': 'bpe', 'vocab_size': 400}).train(texts).to_str()))"
    )
    output = subprocess.run(
        [sys.executable, "-c", program],
        env={"RAYON_NUM_THREADS": "1", "PYTHONHASHSEED": "7", "PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert output.strip() == ascii(tokenizer.to_str())


def test_bpe_has_the_size_asked_for_where_the_text_gives_it():
    assert trained({"type": "bpe", "vocab_size": 300})[1].get_vocab_size() == 300


def test_a_vocabulary_below_the_byte_alphabet_is_refused():
    written = node({"data": {"tokenizer": {"type": "bpe", "vocab_size": 258}}}, "a.yaml", 3)
    with pytest.raises(SpecError, match=r"a.yaml:3: data.tokenizer.vocab_size: expected at least 259.*256 bytes") as error:
        registry.resolve_component("tokenizer", written, ("data", "tokenizer"))
    assert "got 258" in str(error.value)


@pytest.mark.parametrize("name", ["byte", "bpe", "character"])
def test_examples_resolve(name):
    for config in registry.component("tokenizer", name).Config.examples():
        resolved = registry.resolve_component("tokenizer", node({"t": {"type": name, **config.dump()}}), ("t",))
        assert trained(resolved)[1].get_vocab_size() > len(SPECIALS)


def test_a_broken_tokenizer_file_is_named(tmp_path):
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(DataError, match=r"tokenizer.json"):
        load(tmp_path / "tokenizer.json")


def with_byte_fallback(path):
    """A tokenizer.json like Gemma's: "\u2581" for a space, single bytes for characters not in the vocabulary."""
    import tokenizers
    from tokenizers import decoders, models, normalizers

    vocabulary = {"<pad>": 0, "<eos>": 1, "<bos>": 2, "<unk>": 3, **{f"<0x{byte:02X}>": 4 + byte for byte in range(256)}}
    for token in ("\u2581", "a", "b", "c", "ab", "\u2581ab", "é"):
        vocabulary[token] = len(vocabulary)
    merges = [("a", "b"), ("\u2581", "ab")]
    built = tokenizers.Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    built.normalizer = normalizers.Replace(" ", "\u2581")
    built.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
    built.add_special_tokens(["<pad>", "<eos>", "<bos>", "<unk>"])
    built.save(str(path))
    return built


def test_a_tokenizer_from_a_file_with_byte_fallback(tmp_path):
    with_byte_fallback(tmp_path / "tokenizer.json")
    component, tokenizer = trained({"type": "file", "path": str(tmp_path / "tokenizer.json")})
    lengths = component.byte_lengths(tokenizer)
    for text in [*TEXTS, *WEIRD, "ab ab cab é", "   "]:
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        assert tokenizer.decode(ids) == text and lengths[ids].sum() == len(text.encode())
    assert [lengths[tokenizer.token_to_id(token)] for token in ("<bos>", "<0x00>", "\u2581ab", "é")] == [0, 1, 3, 2]


@by_type(ALL)
def test_a_tokenizer_from_a_file_is_the_one_that_was_written(spec, tmp_path):
    component, tokenizer = trained(spec)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    other, again = trained({"type": "file", "path": str(tmp_path / "tokenizer.json")})
    assert again.to_str() == tokenizer.to_str()
    assert (other.byte_lengths(again) == component.byte_lengths(tokenizer)).all()


def test_a_tokenizer_file_is_known_by_its_content(tmp_path):
    """The file's content is part of the corpus's key; its path is not."""
    spec = registry.component("tokenizer", "file").Config(path=str(tmp_path / "tokenizer.json"))
    assert spec.dump(identity=True) == {}
    with_byte_fallback(tmp_path / "tokenizer.json")
    component, _ = trained({"type": "file", "path": str(tmp_path / "tokenizer.json")})
    first = component.content()
    (tmp_path / "tokenizer.json").write_text((tmp_path / "tokenizer.json").read_text() + " ")
    assert component.content() != first


def test_a_tokenizer_file_that_will_not_do_is_said(tmp_path):
    with pytest.raises(DataError, match="No such file"):
        trained({"type": "file", "path": str(tmp_path / "none.json")})
    built = with_byte_fallback(tmp_path / "tokenizer.json")
    text = built.to_str().replace("<bos>", "<s>").replace("<eos>", "</s>")
    (tmp_path / "tokenizer.json").write_text(text)
    with pytest.raises(DataError, match="it has no token <bos> and no <eos>"):
        trained({"type": "file", "path": str(tmp_path / "tokenizer.json")})
