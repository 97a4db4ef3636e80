"""Sources give documents in a fixed order; an error names the unusable file and what was expected."""

import bz2
import gzip
import json
import lzma
import os
import sys
from pathlib import Path

import pytest

from arch import registry
from arch.document import node
from arch.errors import DataError
from experiments.data.left_out import sentences


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
    text = "one\r\n\ufefftwo\u2028three\n\n"
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
    (tmp_path / name).write_bytes(gzip.compress(content, mtime=0) if packed else content)
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
    (tmp_path / "short.txt.gz").write_bytes(gzip.compress(b"abc" * 100, mtime=0)[:-9])
    (tmp_path / "plain.txt.gz").write_bytes(b"abc")
    refused(r"no file matches '\*.md' \(looked from .*\)", "*.md")
    refused("no file matches 'gone.txt'", "gone.txt")
    refused("nul.txt: binary, expected UTF-8 text: a NUL byte at byte offset 3", "nul.txt")
    refused("latin.txt: not UTF-8 text: byte 0xf6 at byte offset 2", "latin.txt")
    refused("short.txt.gz: not a whole gzip file", "short.txt.gz")
    refused("plain.txt.gz: not a whole gzip file", "plain.txt.gz")


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
    with pytest.raises(DataError, match=r"pip install -e '.\[hub\]'"):
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


PACKED = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}


def packed(codec):
    """Compress with a codec of pyarrow."""
    pyarrow = pytest.importorskip("pyarrow")

    def compress(content):
        into = pyarrow.BufferOutputStream()
        with pyarrow.CompressedOutputStream(into, codec) as stream:
            stream.write(content)
        return into.getvalue().to_pybytes()

    return compress


PACKED |= {".zst": packed("zstd"), ".lz4": packed("lz4")}
TWO = ['one, and\n"more"', "zwei größer"]
LINES = "".join(json.dumps({"id": i, "text": text}) + "\n" for i, text in enumerate(TWO))
TABLE = 'id,text\n0,"one, and\n""more"""\n1,zwei größer\n'
# {ending: (content, the names of its two texts)}
FORMS = {
    ".jsonl": (LINES, [":1", ":2"]),
    ".JSONL": (LINES, [":1", ":2"]),
    ".ndjson": (LINES, [":1", ":2"]),
    ".json": (LINES, [":1", ":2"]),  # as the hub's C4 has it
    ".Json": (json.dumps([json.loads(line) for line in LINES.splitlines()]), ["[0]", "[1]"]),
    ".csv": (TABLE, [":2", ":4"]),
    ".CSV": (TABLE.replace(",text", ";text").replace("0,", "0;").replace("1,", "1;"), [":2", ":4"]),
    ".tsv": (TABLE.replace(",text", "\ttext").replace("0,", "0\t").replace("1,", "1\t"), [":2", ":4"]),
}


@pytest.mark.parametrize("mark", ["", "\ufeff"], ids=["", "marked"])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("ending", ["", *PACKED])
def test_a_file_is_read_as_what_its_ending_says(tmp_path, form, ending, mark):
    """Whatever it is compressed with, and with a byte order mark in front: two texts with their places, not prose."""
    content, places = FORMS[form]
    content = (mark + content).encode()
    name = f"a{form}{ending}"
    (tmp_path / name).write_bytes(PACKED[ending](content) if ending else content)
    assert read(name) == [(name + place, text) for place, text in zip(places, TWO, strict=True)]


def test_several_compressed_parts_are_one_file(tmp_path):
    for ending, compress in PACKED.items():
        (tmp_path / f"a.txt{ending}").write_bytes(compress(b"one ") + compress(b"two"))
        assert read(f"a.txt{ending}") == [(f"a.txt{ending}", "one two")]
        (tmp_path / f"b.txt{ending}").write_bytes(compress(b"one " * 100)[:-5])
        refused(f"b.txt{ending}: not a whole", f"b.txt{ending}")


@pytest.mark.parametrize("ending", [".docx", ".zip", ".tar.gz", ".feather", ".warc.gz", ".PDF", ".jsonl.br", ".csv.1"])
def test_what_is_not_read_is_named_by_its_ending(tmp_path, ending):
    (tmp_path / f"a{ending}").write_bytes(gzip.compress(b"text", mtime=0))
    kind = ending.lower().removesuffix(".gz")
    refused(f"a{ending}: files that end in {kind} are not read; expected text, .jsonl, .ndjson", f"a{ending}")


def test_a_table_that_is_none_is_named_with_its_line(tmp_path):
    def table(text, match, name="a.csv"):
        (tmp_path / name).write_text(text)
        refused(match, name)

    table("id,txet\n1,a\n", r"a.csv:1: no column 'text' \(data.source.field\); did you mean 'txet'")
    table("text,text\na,b\n", "a.csv:1: 2 columns are called 'text'; expected one")
    table("id,text\n1,fine\n2,one, two\n", "a.csv:3: 3 cells, the header has 2; a text with a separator in it must be quoted")
    table('id,text\n1,"a"b\n', "a.csv:2: not a row of a table")
    table('id,text\n1,"never closed\n', "a.csv:2: not a row of a table")
    (tmp_path / "a.tsv").write_text('id\ttext\n1\t"Stop!" he said\n2\t"never closed\n')
    assert read("a.tsv") == [("a.tsv:2", '"Stop!" he said'), ("a.tsv:3", '"never closed')]
    (tmp_path / "long.csv").write_text("text\n" + "x" * 200_000 + "\n")
    assert len(read("long.csv")[0][1]) == 200_000


def test_what_has_no_text_is_left_out_and_counted(tmp_path):
    (tmp_path / "a.txt").write_text("text")
    (tmp_path / "b.txt").write_text("")
    (tmp_path / "c.txt.gz").write_bytes(gzip.compress(b"", mtime=0))
    (tmp_path / "d.jsonl").write_text('{"text": "one"}\n{"text": null}\n{"text": " "}\n\n{"text": null}\n')
    (tmp_path / "e.csv").write_text("id,text\n1,\n2\n3,three\n\n")
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.table({"text": ["five", None]}), tmp_path / "f.parquet")
    found = source(type="text", files=["*"])
    assert [text for _, text in found.documents()] == ["text", "one", "three", "five"]
    assert [text for _, text in found.documents()] == ["text", "one", "three", "five"]  # and counted once
    assert found.left_out.summary() == {
        "skipped": {
            "empty files": {"count": 2, "first": ["b.txt", "c.txt.gz"]},
            "null rows": {"count": 4, "first": ["d.jsonl:2", "d.jsonl:5", "e.csv:3"]},
            "rows without text": {"count": 2, "first": ["d.jsonl:3", "e.csv:2"]},
        }
    }
    assert "skipped: null rows: 4 (d.jsonl:2, d.jsonl:5, e.csv:3 and 1 more)" in sentences(found.left_out.summary())


def test_a_folder_stands_for_its_text_files(tmp_path):
    for name in ("b.txt", "deep/er/c.md", "deep/a.jsonl", ".hidden", ".git/config", "deep/LICENSE"):
        (tmp_path / "texts" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "texts" / name).write_text(json.dumps({"text": name}) if name.endswith("jsonl") else name)
    (tmp_path / "texts" / "picture.png").write_bytes(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR")
    (tmp_path / "texts" / "all.zip").write_bytes(b"PK\x03\x04")
    (tmp_path / "texts" / "empty.txt").write_text("")
    found = source(type="text", files=["texts"])
    assert [text for _, text in found.documents()] == ["b.txt", "deep/LICENSE", "deep/a.jsonl", "deep/er/c.md"]
    assert found.left_out.summary() == {
        "skipped": {
            "files of another kind": {"count": 2, "first": ["texts/all.zip", "texts/picture.png"]},
            "empty files": {"count": 1, "first": ["texts/empty.txt"]},
        },
        "folders": {"texts": {"files": 5, "first": ["b.txt", "deep/LICENSE", "deep/a.jsonl"]}},
    }
    assert sentences(found.left_out.summary())[0] == (
        "data.source: texts is a folder; read from it: 5 files (b.txt, deep/LICENSE, deep/a.jsonl and 2 more)"
    )
    assert [text for _, text in source(type="text", files=["texts/deep/", "texts/b.txt"]).documents()] == [
        "deep/LICENSE",
        "deep/a.jsonl",
        "deep/er/c.md",
        "b.txt",
    ]
    (tmp_path / "nothing").mkdir()
    refused("nothing: a folder without a file of text; expected text, .jsonl", "nothing")


@pytest.mark.parametrize("separator, ending", [("\n\n", "\r\n"), ("\n\n", "\n"), ("\n---\n", "\r\n"), ("\n", "\r\n")])
def test_a_separator_cuts_whatever_ends_a_line(tmp_path, separator, ending):
    text = separator.join(["one", "two", "three"]).replace("\n", ending)
    (tmp_path / "a.txt").write_bytes(text.encode())
    assert [piece for _, piece in read("a.txt", separator=separator)] == ["one", "two", "three"]


def test_a_separator_that_is_nowhere_is_said(tmp_path):
    (tmp_path / "a.txt").write_text("one\n\ntwo")
    found = source(type="text", files=["a.txt"], separator="\\n\\n")
    list(found.documents())
    (said,) = sentences(found.left_out.summary())
    assert said.startswith(
        "data.source.separator: '\\\\n\\\\n' is nowhere in the texts, so none was cut; in YAML, only double quotes"
    )
    found = source(type="text", files=["a.txt"], separator="\n\n")
    list(found.documents())
    assert sentences(found.left_out.summary()) == []


@pytest.mark.parametrize(
    "content, match",
    [
        ("größer".encode("utf-16"), "a.txt: UTF-16LE text; expected UTF-8 .iconv -f UTF-16LE -t UTF-8 converts it"),
        (b"\xfe\xff" + "größer".encode("utf-16-be"), "a.txt: UTF-16BE text"),
        ("Hello, world".encode("utf-16-le"), "a.txt: UTF-16LE text"),
        ("Hello, world".encode("utf-16-be"), "a.txt: UTF-16BE text"),
        ("größer".encode("utf-32"), "a.txt: UTF-32LE text"),
        (gzip.compress(b"text", mtime=0), "it is compressed with gzip, and its name does not end so"),
        (b"PAR1\0\0", "it is Parquet, and its name does not end so"),
        (b"%PDF-1.4\n%\xe2\xe3\xcf\xd3", "it is PDF, and its name does not end so"),
    ],
)
def test_what_a_file_is_instead_of_utf_8_is_said(tmp_path, content, match):
    (tmp_path / "a.txt").write_bytes(content)
    refused(match, "a.txt")


def test_tables_as_spreadsheets_write_them(tmp_path):
    """With a line that names the separator, and with a separator at the end of every row."""
    (tmp_path / "a.csv").write_text("sep=|\nid|text\n1|one, two|\n2|three||\n")
    assert read("a.csv") == [("a.csv:3", "one, two"), ("a.csv:4", "three")]


def test_json_lines_under_another_name_are_one_text_and_said(tmp_path):
    (tmp_path / "part-00000").write_text('{"text": "one"}\n{"text": "two"}\n')
    found = source(type="text", files=["part-00000"])
    assert len(list(found.documents())) == 1
    assert sentences(found.left_out.summary()) == [
        "part-00000 begins like JSON lines, but its name does not end so: it is read as one text"
    ]


def test_a_link_to_a_folder_is_not_followed_and_said(tmp_path):
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("a")
    (tmp_path / "texts" / "again").symlink_to("../texts")
    found = source(type="text", files=["texts"])
    assert [text for _, text in found.documents()] == ["a"]
    assert found.left_out.summary()["skipped"] == {"links to folders": {"count": 1, "first": ["texts/again"]}}
