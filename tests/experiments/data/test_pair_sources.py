"""Sources of pairs: what of code, files, catalogues and data sets becomes a pair, and what is wrong with the rest."""

import gzip
import json
import struct
import sys

import pytest
from pair_data import made_up, store

from arch import registry
from arch.document import node
from arch.errors import DataError, SpecError
from experiments.data import message_catalogue
from experiments.data.pair import Pair
from experiments.data.sources import bitext, docstrings


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def source(**options):
    return registry.build("source", registry.resolve_component("source", node({"s": options}), ("s",)))


def read(**options):
    return list(source(**options).pairs())


def refused(match, **options):
    with pytest.raises(DataError, match=match):
        read(**options)


# Docstrings.

CODE = '''
"""A module has no function of its own."""

class Reader:
    """Nor has a class."""

    def read_all(self, file):
        """Read everything that a file has.
        And no more.

        The rest says how.
        """
        # first
        return self.read_all_of(file.read(),
"""
text at the margin""") or self.read_all(file)

    async def wait(self): "A docstring on the line of its function is left out."; return await self.until_it_comes_at_last()

    def only(self):
        """There is nothing in this function but what it says."""

def outer():
    """Says what the outer function is for."""
    def inner():
        """Says what the inner function is for."""
        return "some more code so that it is long enough to be taken"
    return inner
'''


def test_a_function_is_divided_into_what_it_says_and_its_code():
    read_all, outer, inner = docstrings.functions(CODE)
    assert read_all == docstrings.Function(
        "read_all",
        "Read everything that a file has. And no more.",
        'def read_all(self, file):\n        # first\n        return self.read_all_of(file.read(),\n"""\n'
        'text at the margin""") or self.read_all(file)',
    )
    assert outer.name == "outer" and "what the outer" not in outer.code and "what the inner" in outer.code
    assert inner.code.startswith('def inner():\n    return "some more')
    with pytest.raises(SyntaxError):
        docstrings.functions("def f(:")


def test_a_name_is_masked_wherever_it_stands_alone():
    function = docstrings.Function("read", "", "def read(self):\n    reader.read(already_read, READ)")
    assert docstrings.masked(function) == "def _(self):\n    reader._(already_read, READ)"


@pytest.fixture
def package(tmp_path, monkeypatch):
    """An installed package with functions in two modules, and a test."""
    body = '    """{}"""\n    return "a text that is long enough for this to count as code, twice over"\n'
    for name, text in {
        "shapes/__init__.py": "",
        "shapes/flat/round.py": "def circle():\n" + body.format("Draws a circle around a point.\n\n    More."),
        "shapes/flat/deep/edge.py": "def edge():\n" + body.format("Draws an edge between two points."),
        "shapes/copy.py": "def circle_again():\n" + body.format("Draws a circle around a point."),
        "shapes/short.py": "def a():\n"
        + body.format("Too short")
        + 'def b():\n    """Says what it does at length."""\n    return 1\n',
        "shapes/broken.py": "def (:",
        "shapes/tests/test_round.py": "def test():\n" + body.format("Tests that a circle is round."),
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "shapes" / "latin.py").write_bytes("# größer".encode("latin-1"))
    monkeypatch.syspath_prepend(str(tmp_path))
    return "shapes"


def test_the_functions_of_a_package_are_grouped_by_their_modules(package, monkeypatch):
    monkeypatch.setattr(docstrings.Docstrings, "_library", lambda self: ())
    made = source(type="docstrings", packages=[package])
    pairs = list(made.pairs())
    assert [(pair.query, pair.group, pair.label) for pair in pairs] == [
        ("Draws a circle around a point.", "shapes.copy", "shapes.copy"),
        ("Draws an edge between two points.", "shapes.flat.deep", "shapes.flat.deep.edge"),
    ]
    assert {reason: entry[0] for reason, entry in made.left_out.reasons.items()} == {
        "functions whose docstring came before": 1,
        "functions with a short docstring or short code": 2,
        "files that are not Python": 1,
        "files that are not UTF-8 text": 1,
    }
    assert all(pair.positive.startswith("def ") and "Draws" not in pair.positive for pair in pairs)
    masked = source(type="docstrings", packages=[package], names="masked").pairs()
    assert [pair.positive.partition("(")[0] for pair in masked] == ["def _", "def _"]
    assert {path.name for path in made.files()} >= {"round.py", "copy.py"} and list(made.pairs()) == pairs


def test_a_package_that_is_not_there_is_named():
    refused("'no_such_package': no such package is installed here", type="docstrings", packages=["no_such_package"])
    refused("'os.path': no such package", type="docstrings", packages=["os.path"])


@pytest.mark.slow
def test_the_standard_library_has_thousands_of_pairs():
    made = source(type="docstrings")
    pairs = list(made.pairs())
    assert len(pairs) > 4000 and len({pair.query for pair in pairs}) == len(pairs) and len({pair.group for pair in pairs}) > 120
    assert all(len(pair.query.split()) >= 5 and len(pair.positive) > 60 and pair.label.startswith(pair.group) for pair in pairs)
    assert not any(".test" in pair.label or "site-packages" in pair.label for pair in pairs)


# Files.


def test_json_lines_and_parquet_give_the_same_pairs(tmp_path):
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    rows = [row | {"negatives": ["no", f"never {i}"], "label": i % 3} for i, row in enumerate(made_up(3, 2))]
    store(tmp_path / "a.jsonl", rows)
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress((tmp_path / "a.jsonl").read_bytes(), mtime=0))
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "c.parquet")
    expected = [Pair(row["query"], row["positive"], ("no", f"never {i}"), row["group"], str(i % 3)) for i, row in enumerate(rows)]
    for name in ("a.jsonl", "b.jsonl.gz", "c.parquet"):
        assert read(type="pairs", files=[name]) == expected
    store(tmp_path / "d.jsonl", [{"q": "a", "p": "b", "n": "c", "label": None}])
    assert read(type="pairs", files=["d.jsonl"], columns={"query": "q", "positive": "p", "negatives": "n"}) == [
        Pair("a", "b", ("c",))
    ]
    without = {"negatives": None, "group": None, "label": None}
    assert read(type="pairs", files=["a.jsonl"], columns=without) == [Pair(row["query"], row["positive"]) for row in rows]


@pytest.mark.parametrize(
    ("line", "match"),
    [
        ("{", r"a.jsonl:2: not JSON .*expected one object per line"),
        ("[1]", r"a.jsonl:2: expected an object with the keys 'query' and 'positive'"),
        ('{"qeury": "a", "positive": "b"}', r"a.jsonl:2: no key 'query' \(data.source.columns\); did you mean 'qeury'"),
        ('{"query": 3, "positive": "b"}', r"a.jsonl:2: the value of 'query' is a number; expected text"),
        ('{"query": "a", "positive": null}', r"a.jsonl:2: the value of 'positive' is null; expected text"),
        ('{"query": " ", "positive": "b"}', r"a.jsonl:2: the query is empty; expected text"),
        ('{"query": "a", "positive": "b", "negatives": [""]}', r"a.jsonl:2: the negative is empty"),
        ('{"query": "a", "positive": "b", "negatives": {}}', r"a.jsonl:1: no hard negatives|a.jsonl:2: no hard negatives"),
        (
            '{"query": "a", "positive": "b", "negatives": 3}',
            r"a.jsonl:2: the value of 'negatives' is a number; expected a text or a list",
        ),
        ('{"query": "a", "positive": "b", "negatives": [3]}', r"a.jsonl:2: the value of 'negatives' is a number; expected text"),
        (
            '{"query": "a", "positive": "b", "group": [1]}',
            r"a.jsonl:2: the value of 'group' is a list; expected a text or a whole number",
        ),
        (
            '{"query": "a", "positive": "b"}',
            r"a.jsonl:2: no hard negatives, but a.jsonl:1 has some; expected them in every row or in none",
        ),
        (
            r'{"query": "\ud800", "positive": "b"}',
            r"a.jsonl:2: the query is not Unicode text: half a surrogate pair at character 0",
        ),
    ],
)
def test_a_bad_line_is_named(tmp_path, line, match):
    (tmp_path / "a.jsonl").write_text('{"query": "fine", "positive": "too", "negatives": ["no"]}\n' + line)
    refused(match, type="pairs", files=["a.jsonl"])


def test_a_bad_file_is_named(tmp_path):
    (tmp_path / "latin.jsonl").write_bytes(b'{"query": "fine", "positive": "too"}\n{"query": "gr\xf6\xdfer"}')
    refused("latin.jsonl: not UTF-8 text: byte 0xf6 at byte offset 50, line 2", type="pairs", files=["latin.jsonl"])
    (tmp_path / "a.txt").write_text("text")
    refused(r"a.txt: a file of another kind; expected .jsonl, .ndjson or .parquet", type="pairs", files=["a.txt"])
    refused("no file matches 'gone.jsonl'", type="pairs", files=["gone.jsonl"])
    store(tmp_path / "a.jsonl", [{"query": "a", "positive": "b"}])
    refused("no key 'topic'", type="pairs", files=["a.jsonl"], columns={"group": "topic"})


def test_a_bad_table_is_named(tmp_path):
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.table({"query": ["a"], "answer": ["b"]}), tmp_path / "a.parquet")
    refused(r"a.parquet: no column 'positive' \(data.source.columns\); known: answer, query", type="pairs", files=["a.parquet"])
    parquet.write_table(pyarrow.table({"query": ["a", "b"], "positive": ["b", ""]}), tmp_path / "b.parquet")
    refused(r"b.parquet\[1\]: the positive is empty", type="pairs", files=["b.parquet"])


def test_a_data_set_on_disk_gives_pairs(tmp_path):
    datasets = pytest.importorskip("datasets")
    rows = [{"anchor": f"q{i}", "positive": f"p{i}", "negative": f"n{i}"} for i in range(4)]
    datasets.Dataset.from_list(rows).save_to_disk(str(tmp_path / "saved"))
    options = {"type": "hub_pairs", "path": str(tmp_path / "saved"), "columns": {"query": "anchor", "negatives": "negative"}}
    assert read(**options) == [Pair(f"q{i}", f"p{i}", (f"n{i}",)) for i in range(4)]
    assert read(**options, limit=2) == read(**options)[:2]
    refused(r"saved\[0\]: no key 'query' \(data.source.columns\)", type="hub_pairs", path=str(tmp_path / "saved"))


# Texts in two languages.


def catalogue(messages, order="<"):
    """The bytes of a compiled catalogue of {message: translation}."""
    texts = [[each.encode() for each in pair] for pair in sorted(messages.items())]
    begin, tables, strings = 28, [], b""
    place = begin + 16 * len(texts)
    for side in (0, 1):
        for pair in texts:
            tables.append(struct.pack(f"{order}2I", len(pair[side]), place + len(strings)))
            strings += pair[side] + b"\0"
    head = struct.pack(f"{order}7I", message_catalogue.MAGIC, 0, len(texts), begin, begin + 8 * len(texts), 0, 0)
    return head + b"".join(tables) + strings


@pytest.mark.parametrize("order", ["<", ">"])
def test_a_catalogue_gives_its_messages(tmp_path, order):
    messages = {"": "Content-Type: text/plain", "Save it": "Speichern", "menu\x04Open it": "Öffnen", "a day\0days": "ein Tag\0Tage"}
    (tmp_path / "a.mo").write_bytes(catalogue(messages, order))
    assert list(message_catalogue.read(tmp_path / "a.mo")) == [("Save it", "Speichern"), ("Open it", "Öffnen")]
    (tmp_path / "b.mo").write_bytes(catalogue(messages, order)[:60])
    with pytest.raises(DataError, match=r"b\.mo: not a whole catalogue of messages"):
        list(message_catalogue.read(tmp_path / "b.mo"))
    (tmp_path / "c.mo").write_bytes(b"text")
    with pytest.raises(DataError, match=r"c\.mo: not a compiled catalogue of messages"):
        list(message_catalogue.read(tmp_path / "c.mo"))


def test_messages_lose_their_placeholders_and_short_ones_are_left_out(tmp_path, monkeypatch):
    folder = tmp_path / "django" / "conf" / "locale" / "de" / "LC_MESSAGES"
    folder.mkdir(parents=True)
    messages = {"The value of %(name)s must be {n} at least": "Der Wert von %(name)s muss wenigstens {n} sein", "Save": "Speichern"}
    (folder / "django.mo").write_bytes(catalogue(messages))
    (tmp_path / "django" / "__init__.py").write_text("raise RuntimeError('it is not imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    english = "The value of must be at least"
    made = source(type="bitext", of=["django"], languages=["de"])
    assert list(made.pairs()) == [Pair("Der Wert von muss wenigstens sein", english, group=english, label="de-en")]
    assert [entry[0] for entry in made.left_out.reasons.values()] == [1] and made.files() == [folder / "django.mo"]
    refused("no texts in 'xx'; known: de", type="bitext", of=["django"], languages=["xx"])


def test_names_of_emoji_are_grouped_without_their_skin_tone():
    pytest.importorskip("emoji")
    pairs = read(type="bitext", languages=["de", "ja"])
    assert {pair.label for pair in pairs} == {"de-en", "ja-en"} and len(pairs) > 7000
    waving = [pair for pair in pairs if pair.positive.startswith("waving hand")]
    assert {pair.group for pair in waving} == {"👋"} and len(waving) == 12
    assert any(pair.query == "winkende hand" for pair in waving), [pair.query for pair in waving]
    assert not any("_" in text or text.startswith(":") for pair in pairs for text in pair.texts)
    assert source(type="bitext").config.prompts.document == bitext.TASK


def test_a_package_that_is_needed_is_named_with_the_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "emoji", None)
    monkeypatch.setattr(bitext.importlib.util, "find_spec", lambda name: None)
    refused(r"the source `bitext` needs the package emoji: pip install -e '.\[bitext\]'", type="bitext")
    with pytest.raises(DataError, match="needs the package django"):
        source(type="bitext", of=["django"]).files()
    with pytest.raises(SpecError, match="of"):
        source(type="bitext", of=["german"])


def test_options_that_do_not_decide_the_pairs_are_not_in_what_is_remembered(tmp_path):
    store(tmp_path / "a.jsonl", made_up(1, 1))
    plain = source(type="pairs", files=["a.jsonl"])
    prompted = source(type="pairs", files=["a.jsonl"], prompts={"query": "q: "}, negatives={"k": 3})
    assert plain.texts == prompted.texts and "prompts" not in plain.texts
    parts = {name: {"source": {"type": "pairs", "files": ["a.jsonl"], "prompts": {"query": name}}} for name in ("a", "b")}
    heavy = json.loads(json.dumps(parts)) | {"b": {**parts["b"], "weight": 3.0}}
    assert source(type="mix", parts=parts).texts == source(type="mix", parts=heavy).texts
