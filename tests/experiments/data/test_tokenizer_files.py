"""Tokenizers as people have them: holes, added tokens, normalizers, other names for what begins and ends a text."""

import json

import numpy as np
import pytest
import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers

from arch import registry
from arch.document import node
from arch.errors import DataError
from experiments.data.corpus import prepare
from experiments.spec import DataSpec

SPACE = "\u2581"
ASCII = [chr(number) for number in range(33, 127)]


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.setenv("ARCHBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def gemma(normalized=False):
    """Gemma's parts: U+2581 for a space, single bytes for what has no token, and added tokens of several spaces."""
    vocabulary = {"<pad>": 0, "<eos>": 1, "<bos>": 2, "<unk>": 3, **{f"<0x{byte:02X}>": 4 + byte for byte in range(256)}}
    vocabulary |= {token: 260 + i for i, token in enumerate([SPACE, SPACE * 2, SPACE * 4, *ASCII, f"{SPACE}a"])}
    merges = [(SPACE, SPACE), (SPACE * 2, SPACE * 2), (SPACE, "a")]
    built = tokenizers.Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    built.normalizer = normalizers.Replace(" ", SPACE)
    built.decoder = decoders.Sequence([decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()])
    built.add_special_tokens(["<pad>", "<eos>", "<bos>", "<unk>"])
    built.add_tokens([AddedToken(SPACE * count, normalized=normalized) for count in (2, 4)])
    built.add_tokens([AddedToken("<h1>", normalized=False)])
    return built


def gpt2(special="<|endoftext|>", prefix=False):
    """GPT-2's parts: bytes as printable characters, and one special token, which begins and ends a text."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    built = tokenizers.Tokenizer(models.BPE({token: i for i, token in enumerate(alphabet)}, []))
    built.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    built.decoder = decoders.ByteLevel()
    built.add_special_tokens([special])
    return built


def with_ends(built, *more):
    built.add_special_tokens(["<bos>", "<eos>", *more])
    return built


def numbered(built, shift):
    """The same tokenizer with the ids of its special tokens, which come last, moved by `shift`: a hole before them."""
    written = json.loads(built.to_str())
    for token in written["added_tokens"]:
        written["model"]["vocab"].pop(token["content"], None)
        token["id"] += shift
        written["model"]["vocab"][token["content"]] = token["id"]
    return tokenizers.Tokenizer.from_str(json.dumps(written))


TEXTS = [f"{i}: a word{'  ' * (i % 4)}and <b>{i * i}</b>\n" for i in range(120)]


def data(built, texts=TEXTS, on_loss="refuse", **options):
    with open("texts.jsonl", "w") as file:
        file.writelines(json.dumps({"text": text}) + "\n" for text in texts)
    built.save("tokenizer.json")
    source = {"type": "text", "files": ["texts.jsonl"]}
    written = node({"source": source, "tokenizer": {"type": "file", "path": "tokenizer.json", **options}})
    resolved = {kind: registry.resolve_component(kind, written, (kind,)) for kind in ("source", "tokenizer")}
    return DataSpec(**resolved, context=16, rows=2, on_loss=on_loss)


def test_a_token_that_no_text_gives_may_lie_beyond_the_embedding():
    """Gemma 3 has a soft token for images, one past its embedding."""
    built = gemma()
    size = built.get_vocab_size()
    built.add_special_tokens(["<image_soft_token>"])
    texts = [*TEXTS, "here is an <image_soft_token> in a text"]
    prepared = prepare(data(built, texts), size)
    assert prepared.vocabulary == len(prepared.byte_lengths) == size == prepared.summary()["vocabulary"]
    for stream in prepared.streams.values():
        assert stream.tokens.max() < size
    held = [prepared.tokenizer.decode(stream.tokens.tolist()) for stream in prepared.streams.values()]
    assert any("<image_soft_token>" in text for text in held)
    with pytest.raises(DataError, match=rf"can give the id {size - 1} \('<h1>'\) but model.vocab_size is {size - 1}: use"):
        prepare(data(built, texts), size - 1)


@pytest.mark.parametrize("shift", [5, 70_000])
def test_holes_in_the_numbering_are_counted_by_the_highest_id(shift, tmp_path):
    built = numbered(with_ends(gpt2()), shift)
    highest = max(built.get_vocab().values())
    assert built.get_vocab_size() < highest < 256 + shift + 5
    with pytest.raises(
        DataError, match=rf"can give the id {highest:,} \('<eos>'\) but model.vocab_size is {highest:,}: use another"
    ):
        prepare(data(built), highest)
    assert not [path for path in (tmp_path / "cache").iterdir() if path.is_dir()]  # nothing is written
    prepared = prepare(data(built), highest + 1)
    assert prepared.streams["train"].tokens.max() == highest and len(prepared.byte_lengths) == highest + 1


@pytest.mark.parametrize("normalized", [False, True])
def test_the_length_of_an_added_token_is_what_the_encoder_consumed(normalized):
    """Two spaces are two bytes, though the token for them is called like two characters of three bytes each."""
    texts = [text for text in TEXTS if "<h1>" not in text] + ["a    title:  <h1>", " ", "     "]
    prepared = prepare(data(gemma(normalized), texts), 400)
    lengths = dict(zip((SPACE, SPACE * 2, SPACE * 4, "<h1>", "<0x0A>"), (1, 2, 4, 4, 1), strict=True))
    assert lengths == {token: prepared.byte_lengths[prepared.tokenizer.token_to_id(token)] for token in lengths}
    for split, stream in prepared.streams.items():
        assert prepared.byte_lengths[stream.tokens].sum() == prepared.sizes[split]["bytes"]


def changed(built, normalizer):
    built.normalizer = normalizer if built.normalizer is None else normalizers.Sequence([normalizer, built.normalizer])
    return built


ODD = "a plain line\nthen a ﬁne one"


@pytest.mark.parametrize(
    "normalizer, text, said",
    [
        (normalizers.NFKC(), ODD, r"texts.jsonl:121, line 2 of it: .* 'ﬁne one' comes back as 'fine one' \(its normalizer: NFKC"),
        (normalizers.NFC(), "cafe\u0301", r"texts.jsonl:121, line 1 of it: .* \(its normalizer: NFC"),
        (normalizers.Lowercase(), "Loud", r"texts.jsonl:121, line 1 of it: .* 'Loud' comes back as 'loud' \(its normalizer: Lower"),
        (normalizers.Strip(), " in the middle ", r"texts.jsonl:121, line 1 of it: .*its normalizer: Strip"),
        (normalizers.Replace(Regex(" {9,}"), " "), f"a{' ' * 9}b", r"texts.jsonl:121, line 1 of it: .*its normalizer: Replace"),
    ],
)
def test_a_document_that_does_not_survive_is_named(normalizer, text, said):
    texts = [each.strip().lower() for each in TEXTS] + [text]
    for make in (gemma, lambda: with_ends(gpt2())):
        with pytest.raises(DataError, match=said) as caught:
            prepare(data(changed(make(), normalizer), texts), 500)
        assert "; 1 of 121 documents is changed; data.on_loss: skip leaves such documents out, keep takes them" in str(caught.value)


def test_a_line_of_a_whole_file_is_named(tmp_path):
    spec = data(changed(gemma(), normalizers.NFKC()))
    (tmp_path / "odd.txt").write_text(ODD)
    spec = spec.model_copy(update={"source": {**spec.source, "files": ["texts.jsonl", "odd.txt"]}})
    with pytest.raises(DataError, match=r"^odd.txt:2: the tokenizer changes this text"):
        prepare(spec, 500)


def test_what_is_lost_may_be_left_out_or_kept():
    """Without the lost documents, the data are the other ones; kept, their bytes are those of the text as changed."""
    built = changed(gemma(), normalizers.NFKC())
    odd = [f"{ODD} {i}" for i in range(40)]
    with pytest.raises(DataError, match="40 of 160 documents are changed"):
        prepare(data(built, TEXTS + odd), 500)
    skipped = prepare(data(built, TEXTS + odd, on_loss="skip"), 500)
    kept = prepare(data(built, TEXTS + odd, on_loss="keep"), 500)
    plain = prepare(data(built, TEXTS), 500)
    assert prepare(data(built, TEXTS, on_loss="skip"), 500).fingerprint == plain.fingerprint  # nothing was lost
    assert len({skipped.fingerprint, kept.fingerprint, plain.fingerprint}) == 3
    for split in ("train", "select", "report"):
        assert np.array_equal(skipped.streams[split].tokens, plain.streams[split].tokens)
        assert skipped.sizes == plain.sizes and skipped.documents(split) == plain.documents(split)
        assert kept.sizes[split]["bytes"] == kept.byte_lengths[kept.streams[split].tokens].sum()
    assert skipped.summary()["skipped"] == {"documents that the tokenizer changes": {"count": 40, "first": []}}
    assert skipped.notes == ["skipped: documents that the tokenizer changes: 40"]
    assert sum(sizes["documents"] for sizes in kept.sizes.values()) == 160
    assert kept.notes == ["kept (data.on_loss: keep): documents that the tokenizer changes: 40"]


NAMED = [
    ({"bos": "<|endoftext|>", "eos": "<|endoftext|>"}, 1, 1),
    ({"bos": None, "eos": "<|endoftext|>"}, 0, 1),
    ({"bos": None, "eos": None}, 0, 0),
]


@pytest.mark.parametrize("options, before, after", NAMED)
def test_what_begins_and_ends_a_text_has_any_name_or_none(options, before, after):
    prepared = prepare(data(gpt2(), **options), 257)
    for split, stream in prepared.streams.items():
        documents = prepared.sizes[split]["documents"]
        assert (stream.tokens == 256).sum() == documents * (before + after)
        assert prepared.sizes[split]["tokens"] == prepared.sizes[split]["bytes"] + documents * (before + after)
        assert (stream.tokens[stream.starts[:-1]] == 256).all() == bool(before)
    assert prepared.begin == (256 if before or after else prepared.streams["train"].tokens[0])


def test_names_are_part_of_what_the_data_are():
    one, other = (prepare(data(gpt2(), **options), 257).fingerprint for options, *_ in NAMED[:2])
    assert one != other
    config = registry.component("tokenizer", "file").Config
    assert config(path="a").dump(identity=True) == {}
    assert config(path="a", bos=None).dump(identity=True) == {"bos": None}


@pytest.mark.parametrize(
    "make, options, match",
    [
        (
            gpt2,
            {},
            r"no token <bos> and no <eos>; name its own \(`bos: NAME`, .*\) or say null; its special tokens: <\|endoftext\|>",
        ),
        (gpt2, {"bos": None}, "it has no token <eos>; name its own"),
        (gpt2, {"bos": "<s>", "eos": None}, "it has no token <s>; name"),
        (gpt2, {"bos": None, "eos": None, "unk": "[UNK]"}, r"it has no token \[UNK\]; name"),
        (gpt2, {"bos": None, "eos": "a"}, "'a' is a token that text has too; expected a special one, or null"),
        (lambda: gpt2().__class__(models.BPE({"a": 0}, [])), {}, "it has no special tokens"),
    ],
)
def test_a_name_that_the_file_lacks_is_said(make, options, match):
    with pytest.raises(DataError, match=match):
        prepare(data(make(), **options), 300)


def llama():
    """Llama 2's parts: a space is put in front of each text, and taken away again."""
    built = gemma()
    built.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)])
    built.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1)]
    )
    return built


def test_a_space_in_front_that_is_taken_away_again_is_no_loss():
    prepared = prepare(data(llama(), [*TEXTS, " begins with one"]), 400)
    assert prepared.notes == [] and sum(sizes["documents"] for sizes in prepared.sizes.values()) == 121


def test_truncation_and_padding_that_a_file_holds_are_of_other_batches():
    built = gemma()
    built.enable_truncation(8)
    built.enable_padding(length=64, pad_id=0)
    assert prepare(data(built), 400).fingerprint == prepare(data(gemma()), 400).fingerprint


def test_a_text_that_has_the_token_which_ends_one_is_lost():
    """A unigram model (T5) has `</s>` among its pieces, so it takes these four characters for it."""
    pieces = [("<unk>", 0.0), ("</s>", 0.0), *((character, -2.0) for character in [*ASCII, "\n", SPACE])]
    built = tokenizers.Tokenizer(models.Unigram(pieces, 0, False))
    built.normalizer, built.decoder = normalizers.Replace(" ", SPACE), decoders.Replace(SPACE, " ")
    built.add_special_tokens(["</s>"])
    assert prepare(data(built, bos=None, eos="</s>"), 200).notes == []
    with pytest.raises(DataError, match=r"texts.jsonl:121: the tokenizer reads '</s>' in this text as the token that begins or"):
        prepare(data(built, [*TEXTS, "a</s>b"], bos=None, eos="</s>"), 200)


def test_words_in_pieces_count_the_bytes_of_the_pieces():
    """WordPiece (BERT) marks what continues a word, and an end of a word may be marked too: marks are no text."""
    component = registry.build("tokenizer", {"type": "file", "path": "none.json"})
    pieces = tokenizers.Tokenizer(models.WordPiece({"[UNK]": 0, "word": 1, "##ing": 2}, unk_token="[UNK]"))
    assert component.byte_lengths(pieces).tolist()[1:] == [4, 3]
    ends = tokenizers.Tokenizer(models.BPE({"a": 0, "b</w>": 1, "ab</w>": 2}, [("a", "b</w>")], end_of_word_suffix="</w>"))
    assert component.byte_lengths(ends).tolist() == [1, 1, 2]


def test_a_run_says_what_was_left_out_and_how_its_texts_begin_and_end(tiny, tmp_path):
    """Its record counts what has no text. Its folder can be sampled from and measured, though no token is called <bos>."""
    from arch.tokenizer import TextTokens
    from experiments.measuring import of_checkpoint
    from experiments.plan import plan
    from experiments.train import train

    settled = data(gpt2(), bos=None, eos="<|endoftext|>")
    with open("texts.jsonl", "a") as file:
        file.write('{"text": null}\n{"text": ""}\n')
    (tmp_path / "empty.txt").write_text("")
    source = {"type": "text", "files": ["texts.jsonl", "empty.txt"]}
    written = {**tiny, "data": {**settled.dump(), "source": source}, "train": {"steps": 2}}
    record = train(plan(written), 0, tmp_path / "run")
    assert record.status == "finished" and record.sample and record.metrics["report/bits_per_byte"] > 0
    assert record.data["skipped"] == {
        "null rows": {"count": 1, "first": ["texts.jsonl:121"]},
        "rows without text": {"count": 1, "first": ["texts.jsonl:122"]},
        "empty files": {"count": 1, "first": ["empty.txt"]},
    }
    assert "skipped: null rows: 1 (texts.jsonl:121)" in record.notes
    spoken = TextTokens(tmp_path / "run")
    assert spoken.begin is None and spoken.ends == {256}
    section = node({"report": {"loss": {"type": "objective", "rows": 2}}})
    measured = of_checkpoint(tmp_path / "run", section, node({"context": 16}), ["texts.jsonl"])
    assert measured.spec.data.tokenizer == {"type": "file", "path": str(tmp_path / "run" / "tokenizer.json")} | {
        "bos": None,
        "eos": "<|endoftext|>",
    }
