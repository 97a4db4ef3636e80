"""A tokenizer that another source teaches: the same tokens on different data."""

import sysconfig
from pathlib import Path

import pytest
from pair_data import dataset, made_up, spec, store

from arch import registry
from arch.document import node
from arch.errors import DataError, SpecError
from arch.spec import digest
from experiments.data import taught
from experiments.data.pair_splits import split_of_group


def tokenizer(**options):
    written = node({"tokenizer": {"type": "bpe", "vocab_size": 300, **options}})
    return registry.resolve_component("tokenizer", written, ("tokenizer",))


@pytest.fixture
def pairs(tmp_path):
    return {"type": "pairs", "files": [store(tmp_path / "pairs.jsonl", made_up())]}


@pytest.fixture
def documents(tmp_path):
    folder = tmp_path / "texts"
    folder.mkdir()
    for i in range(120):
        (folder / f"{i}.txt").write_text(f"document {i} of lower case words, number {i * i}, and so on\n" * 3)
    return {"type": "text", "files": [f"{folder}/*.txt"]}


def test_runs_on_different_data_have_the_same_tokens(pairs, documents):
    own = dataset(pairs)
    text = dataset(documents, {"type": "bpe", "vocab_size": 300, "learned_from": pairs})
    assert text.tokenizer.get_vocab() == own.tokenizer.get_vocab() != dataset(documents).tokenizer.get_vocab()
    back = dataset(pairs, {"type": "bpe", "vocab_size": 300, "learned_from": documents})
    assert back.tokenizer.get_vocab() == dataset(documents).tokenizer.get_vocab()
    same = dataset(pairs, {"type": "bpe", "vocab_size": 300, "learned_from": pairs})
    assert same.fingerprint == own.fingerprint, "how the same tokens were learned does not matter"


def test_a_source_that_changes_teaches_again(pairs, documents, tmp_path):
    asked = {"type": "bpe", "vocab_size": 300, "learned_from": pairs}
    before = dataset(documents, asked)
    store(tmp_path / "pairs.jsonl", made_up(seed=1))
    after = dataset(documents, asked)
    assert after.tokenizer.get_vocab() != before.tokenizer.get_vocab() and after.fingerprint != before.fingerprint


def test_a_source_that_lists_no_files_is_known_by_its_texts(pairs, monkeypatch):
    resolved, stamp = spec(pairs).source, taught.texts.stamp(spec(pairs).source)
    assert taught.content(resolved) == stamp
    monkeypatch.setattr(taught.texts, "stamp", lambda source: None)
    assert taught.content(resolved) == taught.content(resolved) != stamp


def test_a_tokenizer_that_learns_from_its_own_data_is_what_it_was():
    assert "learned_from" not in tokenizer() and digest(tokenizer()) == digest({"type": "bpe", "vocab_size": 300})
    assert not hasattr(registry.build("tokenizer", tokenizer()), "content")


def test_what_cannot_teach_is_refused(tmp_path):
    with pytest.raises(SpecError, match="mqar has rows of its own; expected a source of texts"):
        tokenizer(learned_from={"type": "mqar"})
    with pytest.raises(SpecError, match="did you mean 'docstrings'"):
        tokenizer(learned_from={"type": "docstring"})
    absent = tokenizer(learned_from={"type": "pairs", "files": [str(tmp_path / "no.jsonl")]})
    with pytest.raises(DataError, match=r"no\.jsonl"):
        registry.build("tokenizer", absent).train([])


def test_the_modules_that_train_have_no_pair_that_is_measured():
    """The name of a top module is the group of its pairs (`docstrings`), and decides their split."""
    root = Path(sysconfig.get_path("stdlib"))
    tops = [
        {path.relative_to(root).parts[0].removesuffix(".py") for path in registry.build("source", spec(each).source).files()}
        for each in ({"type": "python_stdlib"}, {"type": "python_stdlib", "modules": "train"})
    ]
    assert tops[1] == {name for name in tops[0] if split_of_group(name) == "train"} and 0.6 < len(tops[1]) / len(tops[0]) < 0.9
