"""The corpus is split by content, tokenized once and the same for all runs; unusable data is refused with a reason."""

import hashlib
import json
import shutil
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
import torch

from arch import registry
from arch.document import node
from arch.errors import DataError
from experiments.checkpoint import save_tokenizer
from experiments.data import cache, corpus, packing
from experiments.data.corpus import prepare
from experiments.data.specials import load
from experiments.data.split import FRACTIONS, SPLITS, split_of
from experiments.spec import DataSpec

BPE = {"type": "bpe", "vocab_size": 300}
ALL = [{"type": "byte"}, BPE, {"type": "character"}]


@pytest.fixture(autouse=True)
def cache_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("ARCHBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "cache"


def text(i):
    return f"Document {i}: " + " ".join(f"word{(i * j) % 17}" for j in range(1 + i % 40)) + f" größer {i}\n"


@pytest.fixture
def files(tmp_path):
    (tmp_path / "texts").mkdir()
    for i in range(200):
        (tmp_path / "texts" / f"{i:03}.txt").write_text(text(i))
    return ["texts/*.txt"]


def spec(files, tokenizer=BPE, context=16, **options):
    written = node({"source": {"type": "text", "files": files, **options}, "tokenizer": tokenizer})
    resolved = {kind: registry.resolve_component(kind, written, (kind,)) for kind in ("source", "tokenizer")}
    return DataSpec(**resolved, context=context, rows=4)


def same(a, b):
    return all(torch.equal(left, right) for left, right in zip(tensors(a), tensors(b), strict=True))


def tensors(batch):
    rows = batch["text"]
    return rows.tokens_BT, rows.targets_BT, rows.layout.doc_BT, rows.layout.pos_BT, rows.key_B


def documents(prepared, split):
    stream = prepared.streams[split]
    return [prepared.tokenizer.decode(stream.tokens[first:last].tolist()) for first, last in pairwise(stream.starts)]


@pytest.mark.parametrize("tokenizer", ALL, ids=lambda tokenizer: tokenizer["type"])
def test_the_splits_hold_every_document_once(files, tokenizer):
    prepared = prepare(spec(files, tokenizer), 512)
    held = {split: documents(prepared, split) for split in SPLITS}
    assert sorted(item for items in held.values() for item in items) == sorted(text(i) for i in range(200))
    for split, texts in held.items():
        assert {split_of(hashlib.sha256(item.encode()).digest()) for item in texts} == {split}
        stream, sizes = prepared.streams[split], prepared.summary()["splits"][split]
        assert sizes["documents"] == len(texts)
        assert sizes["tokens"] == len(stream.tokens) == prepared.rows(split, 1)
        assert sizes["bytes"] == sum(len(item.encode()) for item in texts) == prepared.byte_lengths[stream.tokens].sum()


def test_split_fractions_are_kept():
    drawn = [split_of(hashlib.sha256(str(i).encode()).digest()) for i in range(20_000)]
    for split, fraction in FRACTIONS.items():
        assert abs(drawn.count(split) / len(drawn) - fraction) < 0.01
    assert split_of(b"\xff" * 32) == "report" and split_of(b"\x00" * 32) == "train"


def test_adding_a_file_moves_no_document(files, tmp_path):
    before = prepare(spec(files), 512)
    (tmp_path / "texts" / "000a.txt").write_text("one more")
    after = prepare(spec(files), 512)
    assert after.fingerprint != before.fingerprint
    for split in SPLITS:
        assert set(documents(before, split)) <= set(documents(after, split))


def test_equal_texts_are_never_in_two_splits(files, tmp_path):
    for i in range(200):
        (tmp_path / "texts" / f"copy{i}.txt").write_text(text(i))
    prepared = prepare(spec(files), 512)
    held = [set(documents(prepared, split)) for split in SPLITS]
    assert sum(map(len, held)) == len(set.union(*held)) == 200


def test_only_the_train_split_teaches_the_tokenizer(files, tmp_path):
    before = prepare(spec(files), 512)
    added = next(item for i in range(10_000) if split_of(hashlib.sha256((item := f"zzqq{i} " * 500).encode()).digest()) == "report")
    (tmp_path / "texts" / "more.txt").write_text(added)
    after = prepare(spec(files), 512)
    assert after.tokenizer.to_str() == before.tokenizer.to_str()
    assert after.fingerprint != before.fingerprint


def test_the_fingerprint_is_of_content_not_of_names(files, tmp_path):
    before = prepare(spec(files), 512)
    (tmp_path / "texts").rename(tmp_path / "moved")
    assert prepare(spec(["moved/*.txt"]), 512).fingerprint == before.fingerprint
    assert prepare(spec(["moved/*.txt"], {"type": "byte"}), 512).fingerprint != before.fingerprint
    (tmp_path / "moved" / "000.txt").write_text(text(0) + ".")
    assert prepare(spec(["moved/*.txt"]), 512).fingerprint != before.fingerprint


def test_a_second_prepare_tokenizes_nothing_and_gives_the_same(files, monkeypatch):
    first = prepare(spec(files), 512)
    monkeypatch.setattr(corpus, "_build", lambda *args: pytest.fail("built again"))
    second = prepare(spec(files, context=8), 600)
    assert second.fingerprint == first.fingerprint and second.summary() == first.summary()
    assert isinstance(second.streams["train"].tokens, np.memmap) and second.streams["train"].tokens.dtype == np.uint16
    for step in (0, 3, 500):
        assert same(first.batch("train", step, 1, 4, 16), second.batch("train", step, 1, 4, 16))


@pytest.fixture
def reads(monkeypatch):
    """The number of times that a source's texts were read, as a list of one element each."""
    source, seen = registry.component("source", "text"), []
    read = source.documents
    monkeypatch.setattr(source, "documents", lambda self: seen.append(1) or read(self))
    return seen


def test_texts_are_read_once_in_a_process_and_again_when_a_file_changes(files, tmp_path, reads):
    first = prepare(spec(files), 512)
    assert prepare(spec(files, context=8), 600).fingerprint == first.fingerprint and len(reads) == 1
    other = prepare(spec(files, {"type": "byte"}), 512)  # its tokens are missing, so they are made from the texts
    assert len(reads) == 2 and prepare(spec(files, {"type": "byte"}), 512).fingerprint == other.fingerprint
    assert len(reads) == 2
    (tmp_path / "texts" / "000.txt").write_text(text(0) + ".")
    assert prepare(spec(files), 512).fingerprint != first.fingerprint and len(reads) == 3
    (tmp_path / "texts" / "001.txt").unlink()
    prepare(spec(files), 512)
    assert len(reads) == 4


def test_texts_of_a_source_that_lists_no_files_are_read_each_time(files, reads, monkeypatch):
    monkeypatch.delattr(registry.component("source", "text"), "files")
    listed = ["texts/000.txt"]
    monkeypatch.setattr(
        registry.component("source", "text"), "documents", lambda self: ((n, text(i)) for i, n in enumerate(listed))
    )
    listed += [f"{i}" for i in range(200)]
    first = prepare(spec(files), 512)
    listed.append("one more")
    assert prepare(spec(files), 512).fingerprint != first.fingerprint


def test_texts_that_change_while_they_are_prepared_are_refused(files, tmp_path, cache_folder, monkeypatch):
    prepare(spec(files), 512)
    shutil.rmtree(cache_folder)
    before = corpus.texts.stamp(spec(files).source)
    (tmp_path / "texts" / "000.txt").write_text(text(0) + ".")
    monkeypatch.setattr(corpus.texts, "stamp", lambda source: before)
    refused("changed while they were prepared", spec(files))


def test_a_corpus_does_not_depend_on_how_it_was_built(files, tmp_path, monkeypatch):
    first = prepare(spec(files), 512, tmp_path / "one")
    monkeypatch.setattr(corpus, "CHUNK", 3)
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "true")
    second = prepare(spec(files), 512, tmp_path / "two")
    assert first.fingerprint == second.fingerprint
    for split in SPLITS:
        assert np.array_equal(first.streams[split].tokens, second.streams[split].tokens)


def test_batches_are_a_function_of_split_step_and_seed(files):
    prepared = prepare(spec(files), 512)
    batch = prepared.batch("train", 7, 3, 4, 16)
    assert batch["text"].tokens_BT.shape == (4, 16)
    prepared.batch("train", 8, 3, 4, 16)
    assert same(batch, prepared.batch("train", 7, 3, 4, 16))
    for other in (
        prepared.batch("train", 7, 4, 4, 16),
        prepared.batch("train", 6, 3, 4, 16),
        prepared.batch("select", 7, 3, 4, 16),
    ):
        assert not torch.equal(batch["text"].tokens_BT, other["text"].tokens_BT)


def test_one_epoch_of_batches_has_every_train_token_as_a_target_once(files):
    prepared = prepare(spec(files), 512)
    rows = prepared.rows("train", 16)
    targets = torch.cat([prepared.batch("train", step, 0, 1, 16)["text"].targets_BT for step in range(rows)])
    counted = torch.bincount(targets[targets >= 0], minlength=512)
    stream = torch.from_numpy(prepared.streams["train"].tokens[: rows * 16 + 1].astype(np.int64))
    expected = torch.bincount(stream[stream != prepared.tokenizer.token_to_id("<bos>")], minlength=512)
    assert torch.equal(counted, expected)


def test_evaluation_reads_the_same_rows_each_time(files):
    prepared = prepare(spec(files), 512)
    batches = list(prepared.evaluation("report", 5, 16, 2))
    assert [batch.rows for batch in batches] == [2, 2, 1]
    assert all(same(a, b) for a, b in zip(batches, prepared.evaluation("report", 5, 16, 2), strict=True))
    everything = list(prepared.evaluation("report", 10**6, 16, 8))
    assert sum(batch.rows for batch in everything) == prepared.rows("report", 16)


def test_documents_are_named_by_their_text_in_every_corpus_of_it(files, monkeypatch):
    prepared = prepare(spec(files), 512)
    for split in SPLITS:
        texts = documents(prepared, split)
        assert prepared.documents(split) == [hashlib.sha256(item.encode()).hexdigest()[:16] for item in texts]
    assert prepare(spec(files, {"type": "byte"}), 512).documents("report") == prepared.documents("report")
    monkeypatch.setattr(corpus, "FILES", corpus.FILES + 1)
    again = prepare(spec(files), 512)
    assert again.fingerprint == prepared.fingerprint, "other files of the cache are no other data, so runs stay the same runs"


def test_rows_of_the_report_split_are_spread_and_those_of_select_are_drawn(files):
    prepared = prepare(spec(files, context=8), 512)

    def keys(split, rows):
        return torch.cat([batch["text"].key_B for batch in prepared.evaluation(split, rows, 8, 3)]).tolist()

    assert keys("report", 9) == packing.spread_rows(prepared.streams["report"].starts, 8, 9).tolist()
    assert keys("select", 9) == packing.evaluation_rows(prepared.rows("select", 8), 9).tolist()


def test_the_summary_is_json_and_the_tokenizer_is_saved(files, tmp_path):
    prepared = prepare(spec(files), 512)
    assert json.loads(json.dumps(prepared.summary())) == prepared.summary()
    assert prepared.summary()["vocabulary"] == len(prepared.byte_lengths) == 300
    save_tokenizer(prepared.tokenizer, tmp_path)
    assert load(tmp_path / "tokenizer.json").to_str() == prepared.tokenizer.to_str()


def test_two_processes_may_prepare_the_same_corpus(files, cache_folder):
    program = (
        "import sys, json; from experiments.data.corpus import prepare; from experiments.spec import DataSpec\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        "print(prepare(DataSpec.parse(json.loads(sys.argv[1])), 512).fingerprint)"
    )
    command = [sys.executable, "-c", program, json.dumps(spec(files).dump())]
    environment = {"PYTHONPATH": ":".join(sys.path), "ARCHBENCH_CACHE": str(cache_folder)}
    racers = [
        subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    for racer in racers:
        assert racer.stdout.readline() == "ready\n"
    for racer in racers:
        racer.stdin.write("\n")
        racer.stdin.flush()
    found = {racer.communicate()[0].strip() for racer in racers}
    assert [racer.returncode for racer in racers] == [0, 0]
    assert found == {prepare(spec(files), 512).fingerprint}
    assert len([path for path in cache_folder.iterdir() if path.is_dir()]) == 1


def test_the_standard_library_prepares():
    data = DataSpec(source={"type": "python_stdlib", "tests": False}, tokenizer={"type": "byte"}, context=512, rows=4)
    prepared = prepare(data, 259)
    for split in SPLITS:
        assert prepared.rows(split, 512) > 100
    assert prepared.summary()["source"] == "python_stdlib"


def refused(match, data, vocab_size=512):
    with pytest.raises(DataError, match=match):
        prepare(data, vocab_size)


def test_a_split_without_documents_is_refused(tmp_path, cache_folder):
    (tmp_path / "one.txt").write_text("the only document " * 100)
    refused(r"split has no document: the source text has 1, .*90% train, 5% select, 5% report.*separator", spec(["one.txt"]))
    assert not cache_folder.exists()


def test_a_separator_makes_one_file_a_corpus(tmp_path):
    (tmp_path / "one.txt").write_text("\n\n".join(text(i) for i in range(200)))
    assert sum(sizes["documents"] for sizes in prepare(spec(["one.txt"], separator="\n\n"), 512).sizes.values()) == 200


def test_a_context_longer_than_a_split_is_refused(files):
    prepared = prepare(spec(files), 512)
    short = min(SPLITS, key=lambda split: len(prepared.streams[split].tokens))
    tokens = len(prepared.streams[short].tokens)
    refused(rf"context {tokens + 1:,} is longer than the {short} split's {tokens:,} tokens", spec(files, context=tokens + 1))
    with pytest.raises(DataError, match=f"context {tokens + 1:,}"):
        prepared.batch(short, 0, 0, 1, tokens + 1)
    with pytest.raises(DataError, match=f"context {tokens + 1:,}"):
        next(prepared.evaluation(short, 1, tokens + 1, 1))


def test_a_vocabulary_larger_than_the_models_is_refused(files):
    refused(
        "300 tokens but model.vocab_size is 299: raise model.vocab_size to at least 300 or lower data.tokenizer.vocab_size",
        spec(files),
        299,
    )
    refused("259 tokens but model.vocab_size is 258.*use another data.tokenizer", spec(files, {"type": "byte"}), 258)


def test_a_corpus_without_text_is_refused(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": " "}\n{"text": ""}\n')
    refused("the source text has no text at all", spec(["a.jsonl"]))


def test_half_a_surrogate_pair_is_refused(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "ab\\ud800"}\n')
    refused(r"a.jsonl:1: not Unicode text: half a surrogate pair at character 2", spec(["a.jsonl"]))


def test_a_tokenizer_that_miscounts_bytes_is_refused(files, monkeypatch):
    byte = registry.component("tokenizer", "byte")
    monkeypatch.setattr(byte, "byte_lengths", lambda self, trained: np.full(trained.get_vocab_size(), 2))
    refused(
        r"texts/\d+.txt: the tokenizer gives tokens for .* bytes of a text that has \d+; 200 of 200 documents are changed; data.on",
        spec(files, {"type": "byte"}),
    )


@pytest.mark.parametrize("damage", ["unlink", "truncate"])
def test_a_damaged_cache_is_named(files, cache_folder, damage):
    prepare(spec(files), 512)
    (tokens,) = cache_folder.glob("*/train.tokens.npy")
    if damage == "unlink":
        tokens.unlink()
    else:
        np.save(tokens, np.zeros(5, dtype=np.uint16))
    refused("the token cache is damaged .*delete this folder", spec(files))


def test_a_cache_that_vanishes_does_not_disturb_an_open_corpus(files, cache_folder):
    prepared = prepare(spec(files), 512)
    before = prepared.batch("train", 0, 0, 4, 16)
    for path in cache_folder.glob("*/*"):
        path.unlink()
    assert same(before, prepared.batch("train", 0, 0, 4, 16))


def test_the_cache_follows_the_variable(files, cache_folder):
    assert cache.root() == cache_folder
    prepare(spec(files), 512)
    assert len(list(cache_folder.glob("*/corpus.json"))) == 1
