"""Sources give documents in a fixed order; an error names the unusable file and what was expected."""

import gzip
import json
import os
import sys
from pathlib import Path

import pytest

from arch import registry
from arch.document import node
from arch.errors import DataError


@pytest.fixture(autouse=True)
def working_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def source(**options):
    return registry.build("source", registry.resolve_component("source", node({"s": options}), ("s",)))


def read(*files, **options):
    return list(source(type="text", files=list(files), **options).documents())


def refused(match, *files, **options):
    with pytest.raises(DataError, match=match):
        read(*files, **options)


def test_globs_are_sorted_and_a_file_comes_once(tmp_path):
    for name in ("b.txt", "a.txt", "sub/c.md", "sub/deep/d.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    assert [name for name, _ in read("**/*.txt", "sub/*.md", "a.txt")] == ["a.txt", "b.txt", "sub/deep/d.txt", "sub/c.md"]
    (tmp_path / "odd[1].txt").write_text("x")
    assert read("odd[1].txt") == [("odd[1].txt", "x")]


def test_text_is_taken_as_it_stands(tmp_path):
    text = "\ufeffone\r\ntwo\u2028three\n\n"
    (tmp_path / "a.txt").write_bytes(text.encode())
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress(text.encode()))
    assert read("a.txt", "b.txt.gz") == [("a.txt", text), ("b.txt.gz", text)]


def test_a_separator_cuts_one_file_into_documents(tmp_path):
    (tmp_path / "a.txt").write_text("one\ntwo\n\nthree\n\n\n\nfour")
    assert read("a.txt", separator="\n\n") == [("a.txt#0", "one\ntwo"), ("a.txt#1", "three"), ("a.txt#3", "four")]


@pytest.mark.parametrize("packed", [False, True])
def test_json_lines_give_a_document_a_line(tmp_path, packed):
    rows = [{"text": "one\u2028line"}, {"text": "  "}, {"text": "two"}]
    content = ("\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n\n").encode()
    name = "a.jsonl.gz" if packed else "a.jsonl"
    (tmp_path / name).write_bytes(gzip.compress(content) if packed else content)
    assert read(name) == [(f"{name}:1", "one\u2028line"), (f"{name}:3", "two")]


def test_parquet_gives_a_document_a_row(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.table({"body": ["one", "two"], "n": [1, 2]}), tmp_path / "a.parquet")
    assert read("a.parquet", field="body") == [("a.parquet[0]", "one"), ("a.parquet[1]", "two")]
    refused("no column 'text'.*known: body, n", "a.parquet")
    refused(r"a.parquet\[0\]: the value of 'n' is not text", "a.parquet", field="n")
    (tmp_path / "b.parquet").write_text("not parquet")
    refused("b.parquet: cannot be read as Parquet", "b.parquet")


def test_parquet_without_pyarrow_says_how_to_get_it(tmp_path, monkeypatch):
    (tmp_path / "a.parquet").write_text("x")
    for name in ("pyarrow", "pyarrow.lib", "pyarrow.parquet"):
        monkeypatch.setitem(sys.modules, name, None)
    refused(r"pip install pyarrow", "a.parquet")


def test_bad_files_are_named(tmp_path):
    (tmp_path / "nul.txt").write_bytes(b"abc\x00def")
    (tmp_path / "latin.txt").write_bytes("größer".encode("latin-1"))
    (tmp_path / "empty.txt").write_bytes(b"")
    (tmp_path / "short.txt.gz").write_bytes(gzip.compress(b"abc" * 100)[:-9])
    (tmp_path / "plain.txt.gz").write_bytes(b"abc")
    refused(r"no file matches '\*.md' \(looked from .*\)", "*.md")
    refused("no file matches 'gone.txt'", "gone.txt")
    refused("nul.txt: binary, expected UTF-8 text: a NUL byte at byte offset 3", "nul.txt")
    refused("latin.txt: not UTF-8 text: byte 0xf6 at byte offset 2", "latin.txt")
    refused("empty.txt: empty; expected text", "empty.txt")
    refused("short.txt.gz: not a whole gzip file", "short.txt.gz")
    refused("plain.txt.gz: not a whole gzip file", "plain.txt.gz")
    refused(r"a folder; expected files, e.g. .*/\*\*/\*.txt", str(tmp_path))


@pytest.mark.parametrize(
    "line, match",
    [
        ("{", r"a.jsonl:2: not JSON"),
        ("[1]", r"a.jsonl:2: expected an object with the key 'text'"),
        ('{"txet": "a"}', r"a.jsonl:2: no key 'text' .* did you mean 'txet'"),
        ('{"text": 3}', r"a.jsonl:2: the value of 'text' is not text"),
    ],
)
def test_a_bad_json_line_is_named(tmp_path, line, match):
    (tmp_path / "a.jsonl").write_text('{"text": "fine"}\n' + line)
    refused(match, "a.jsonl")


def test_a_file_that_vanishes_after_listing_is_named(tmp_path):
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text(name)
    documents = source(type="text", files=["*.txt"]).documents()
    next(documents)
    (tmp_path / "b.txt").unlink()
    with pytest.raises(DataError, match=r"b.txt: vanished between listing and reading"):
        next(documents)


def test_the_standard_library_is_the_base_interpreters_own():
    documents = dict(source(type="python_stdlib").documents())
    assert documents["os.py"] == Path(os.__file__).read_text()
    assert list(documents) == sorted(documents) == [name for name, _ in source(type="python_stdlib").documents()]
    assert len(set(documents.values())) == len(documents)
    parts = {part for name in documents for part in name.split("/")}
    assert not parts & {"site-packages", "dist-packages", "__pycache__", "test", "tests", "idle_test"}
    assert not [name for name in documents if "_sysconfigdata" in name or name == "pydoc_data/topics.py"]
    assert sum(len(text) for text in documents.values()) > 5_000_000


def test_a_library_without_sources_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(tmp_path))
    with pytest.raises(DataError, match="without its sources"):
        list(source(type="python_stdlib").documents())


def test_the_librarys_tests_are_an_option(tmp_path, monkeypatch):
    for name in ("json/__init__.py", "json/tests/a.py", "test/b.py", "test/bad.py", "site-packages/x/tests/c.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(name.encode() + (b"\xff" if "bad" in name else b""))
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(tmp_path))
    assert [name for name, _ in source(type="python_stdlib").documents()] == ["json/__init__.py"]
    found = [name for name, _ in source(type="python_stdlib", tests=True).documents()]
    assert found == ["json/__init__.py", "json/tests/a.py", "test/b.py"]


def test_the_hub_source_without_datasets_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match=r"pip install 'archbench\[hub\]'"):
        list(source(type="hub", path="nobody/nothing").documents())


def test_the_hub_source_reads_local_folders(tmp_path):
    datasets = pytest.importorskip("datasets")
    datasets.config.HF_DATASETS_CACHE = tmp_path / "cache"
    folder = tmp_path / "rows"
    folder.mkdir()
    (folder / "train.jsonl").write_text("\n".join(json.dumps({"body": f"row {i}"}) for i in range(5)))
    expected = [(f"{folder}[{i}]", f"row {i}") for i in range(5)]

    def hub(**options):
        return list(source(type="hub", path=str(folder), **{"field": "body", **options}).documents())

    assert hub() == expected
    assert hub(limit=2) == expected[:2]
    assert hub(data_files=["train.jsonl"]) == expected
    with pytest.raises(DataError, match=r"no column 'text'.*known: body"):
        hub(field="text")
    with pytest.raises(DataError, match="datasets cannot load it"):
        hub(split="nothing")
    rows = datasets.Dataset.from_dict({"body": [f"row {i}" for i in range(5)]})
    folder = tmp_path / "saved"
    rows.save_to_disk(str(folder))
    assert [text for _, text in hub(limit=3)] == ["row 0", "row 1", "row 2"]
    folder = tmp_path / "saved_splits"
    datasets.DatasetDict({"train": rows}).save_to_disk(str(folder))
    assert [text for _, text in hub()] == [text for _, text in expected]
    with pytest.raises(DataError, match="no split 'tran'; did you mean 'train'"):
        hub(split="tran")
