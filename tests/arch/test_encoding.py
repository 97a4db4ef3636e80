"""Texts to vectors: rows of tokens, order and padding, streaming, prompts, files, and what is refused with one line."""

import ast
import io
import json
import os
import sys
import sysconfig
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_specs import model_spec

from arch import checkpoint, encoding, prompts, tensors, text_lines, vector_files
from arch.encoding import encode, load_encoder
from arch.errors import DataError
from arch.layout import TokenLayout
from arch.model import new_model
from arch.texts_to_rows import ids_of, padded, rows_of
from arch.tokenizer import Ends
from experiments.data.specials import ends
from experiments.data.tokenizers.byte import Byte

BYTES = Byte(Byte.Config())
TOKENIZER = BYTES.train([])
ENDS = ends(BYTES, TOKENIZER)
PROMPTS = {"query": "task: find | query: ", "document": "title: none | text: "}
TEXTS = ["a short one", "x", "something that is somewhat longer than the others, and has a comma", "é ☃ 𝄞", "<eos>", " y "]


def model(**rest):
    attention = {"type": "attention", "heads": 2, "causal": False}
    near = {**attention, "window": {"before": 3, "after": 3}}
    return new_model(model_spec(near, attention, vocab_size=259, pool={"type": "mean"}, project=[24, 12], **rest), seed=0).eval()


def write(folder, built, said=PROMPTS, most=48):
    folder.mkdir()
    checkpoint.write(built.spec, tensors.of_mapping(dict(built.state_dict())), folder)
    TOKENIZER.save(str(folder / "tokenizer.json"))
    prompts.keep(said, most, folder)
    return folder


@pytest.fixture
def folder(tmp_path):
    return write(tmp_path / "encoder", model())


def vectors(built, texts, **options):
    return torch.cat([part.vector_NE for part in encode(built, TOKENIZER, ENDS, texts, **options)])


def alone(built, text, prompt="", dim=None):
    """The vector of one text by the model itself, in a row of its own."""
    ids = TOKENIZER.encode(prompt + text, add_special_tokens=False).ids
    row = torch.tensor([[ENDS.bos, *ids, ENDS.eos]])
    with torch.no_grad():
        return built.encode(row, TokenLayout.whole(*row.shape), dim)[0]


# --- texts to rows


def test_a_row_is_bos_prompt_text_eos():
    tokens_BT, length_B, cut = rows_of(TOKENIZER, ENDS, ["ab", "abcd"], "p ")
    assert (length_B.tolist(), cut) == ([6, 8], 0)
    assert tokens_BT[:, 0].tolist() == [ENDS.bos] * 2
    assert [int(row[length - 1]) for row, length in zip(tokens_BT, length_B, strict=True)] == [ENDS.eos] * 2
    assert TOKENIZER.decode(tokens_BT[1].tolist()) == "p abcd"
    pad = TOKENIZER.token_to_id("<pad>")
    assert tokens_BT[0, 6:].tolist() == [pad] * 2 and pad not in tokens_BT[1]


@pytest.mark.parametrize("ends", [ENDS, Ends(bos=1), Ends(eos=2), Ends()])
def test_a_text_is_cut_with_its_end_kept_and_counted(ends):
    around = (ends.bos is not None) + (ends.eos is not None)
    for room in range(1, 8):
        rows, cut = ids_of(TOKENIZER, ends, ["ab", "abcd", "abcdefgh"], max_tokens=room + around)
        assert cut == sum(size > room for size in (2, 4, 8))
        assert [len(row) for row in rows] == [min(size, room) + around for size in (2, 4, 8)]
        assert all(row[-1] == ends.eos for row in rows) or ends.eos is None
        assert all(row[0] == ends.bos for row in rows) or ends.bos is None


def test_padded_keeps_every_token():
    tokens_BT, length_B = padded([[5, 6], [7], [8, 9, 10]], pad=0)
    assert tokens_BT.tolist() == [[5, 6, 0], [7, 0, 0], [8, 9, 10]] and length_B.tolist() == [2, 1, 3]


# --- order, batches, windows


@pytest.mark.parametrize("batch_rows", [1, 2, 32])
def test_vectors_are_those_of_each_text_alone_in_the_order_of_the_texts(batch_rows, monkeypatch):
    monkeypatch.setattr(encoding, "WINDOW", 4)
    built, texts = model(), [*TEXTS, *reversed(TEXTS)]
    got_NE = vectors(built, texts, prompt="p: ", batch_rows=batch_rows)
    want_NE = torch.stack([alone(built, text, "p: ") for text in texts])
    assert (got_NE - want_NE).abs().max() < 1e-6 and got_NE.dtype == torch.float32
    torch.testing.assert_close(got_NE.norm(dim=1), torch.ones(len(texts)))


def test_a_cut_vector_is_normalised_again_and_a_prompt_is_part_of_it():
    built = model()
    got_NE = vectors(built, TEXTS, dim=5)
    torch.testing.assert_close(got_NE, torch.nn.functional.normalize(vectors(built, TEXTS)[:, :5], dim=-1))
    assert (vectors(built, TEXTS, prompt="p: ", dim=5) - got_NE).abs().max() > 0.01


def test_a_text_that_is_cut_has_the_vector_of_its_beginning():
    built = model()
    (part,) = encode(built, TOKENIZER, ENDS, ["abcdefgh", "ab"], max_tokens=6)
    assert part.cut == 1 and part.tokens == 6 + 4 and part.texts == ["abcdefgh", "ab"]
    assert (part.vector_NE[0] - alone(built, "abcd")).abs().max() < 1e-6


def test_texts_stream_a_window_at_a_time(monkeypatch):
    """Neither texts nor vectors are held: no more than a window is read before the first vectors come."""
    monkeypatch.setattr(encoding, "WINDOW", 8)
    read, told = [], []

    def texts():
        for number in range(100_000):
            read.append(number)
            yield f"text {number}"

    parts = encode(model(), TOKENIZER, ENDS, texts(), batch_rows=4, progress=told.append)
    assert not read
    for expected in (8, 16, 24):
        assert len(next(parts).vector_NE) == 8 and len(read) == expected
    assert told == [4, 8, 12, 16, 20, 24]
    assert [*encode(model(), TOKENIZER, ENDS, [])] == []


def docstrings():
    """Docstrings of this Python's standard library, as many as a few large modules have."""
    library = Path(sysconfig.get_path("stdlib"))
    for name in ("argparse", "logging/__init__", "subprocess", "tarfile", "pathlib", "typing", "unittest/case"):
        for node in ast.walk(ast.parse((library / f"{name}.py").read_text(encoding="utf-8"))):
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and (text := ast.get_docstring(node)) and text.strip():
                yield text


@pytest.mark.parametrize("rows", [1, 4, 32])
def test_a_batch_has_every_text_once_and_little_padding(rows):
    draw = np.random.default_rng(0)
    lengths = [int(length) for length in np.exp(draw.normal(4, 1.5, 500)) + 2]
    found = [*encoding.batches(lengths, rows)]
    assert sorted(i for batch in found for i in batch) == [*range(500)]
    for batch in found:
        positions = max(lengths[i] for i in batch) * len(batch)
        assert len(batch) <= rows
        assert positions <= encoding.SMALL or positions - sum(lengths[i] for i in batch) <= encoding.PADDING * positions
    assert [*encoding.batches([], rows)] == [] and [*encoding.batches([7] * 5, 2)] == [[0, 1], [2, 3], [4]]


def test_padding_is_under_five_percent_of_real_texts(monkeypatch):
    """Counted, on texts of very different lengths; in the order in which they come, it would be over half."""
    texts = [*docstrings()]
    assert len(texts) > 300
    monkeypatch.setattr(encoding, "_vectors", lambda model, tokens_BT, length_B, dim: torch.zeros(len(tokens_BT), 12))
    parts = [*encode(model(), TOKENIZER, ENDS, texts, PROMPTS["document"], max_tokens=2048)]
    tokens, padding = (sum(getattr(part, name) for part in parts) for name in ("tokens", "padding"))
    assert 0 < padding < 0.05 * (tokens + padding)
    unsorted = 0
    for start in range(0, len(texts), encoding.ROWS):
        tokens_BT, length_B, _ = rows_of(TOKENIZER, ENDS, texts[start : start + encoding.ROWS], PROMPTS["document"], 2048)
        unsorted += tokens_BT.numel() - int(length_B.sum())
    assert unsorted > 0.5 * tokens


# --- what is refused


@pytest.mark.parametrize(
    ("texts", "options", "message"),
    [
        (["a", "b", ""], {}, "^text 3 is empty$"),
        (["a", " \n"], {}, "^text 2 is empty$"),
        (["a", 5], {}, "^text 2 is not text but int$"),
        (["\ud800"], {}, "^text 1 is not valid Unicode: it has half of a surrogate pair$"),
        (["a"], {"dim": 13}, "^13 numbers of a vector: the model gives 12; expected 1 to 12$"),
        (["a"], {"dim": 0}, "^0 numbers of a vector"),
        (
            ["a"],
            {"prompt": "four", "max_tokens": 6},
            "^prompt: 6 tokens with those around a text, of 6 that a row may have: no text",
        ),
    ],
)
def test_texts_and_options_that_cannot_be_encoded(texts, options, message):
    with pytest.raises(DataError, match=message):
        vectors(model(), texts, **options)


def test_models_that_cannot_encode():
    with pytest.raises(DataError, match="without a pool"):
        vectors(new_model(model_spec({"type": "attention", "heads": 2}), 0), ["a"])
    with pytest.raises(DataError, match="float16: the activations of such models reach 800,000 and its largest number is 65,504"):
        vectors(model().half(), ["a"])
    built = model()
    with torch.no_grad():
        built.project[0].weight[0] = torch.nan
    with pytest.raises(DataError, match=r"^the vector of text 1 is not finite$"):
        vectors(built, ["a", "bbb"])
    with pytest.raises(DataError, match=r"the tokenizer gives the id \d+, but the model has 30 tokens"):
        vectors(new_model(model_spec({"type": "attention", "heads": 2}, vocab_size=30, pool={"type": "mean"}), 0), ["u"])


# --- an encoder from a folder


def test_an_encoder_reads_its_prompts_and_its_limit(folder):
    encoder, built = load_encoder(folder, device="cpu"), model()
    assert encoder.prompts == PROMPTS and encoder.max_tokens == 48 and encoder.ends == Ends(ENDS.bos, ENDS.eos)
    got_NE = encoder.encode(TEXTS[:2], task="query", dim=8)
    assert isinstance(got_NE, np.ndarray) and got_NE.dtype == np.float32 and got_NE.shape == (2, 8)
    want_NE = torch.stack([alone(built, text, PROMPTS["query"], 8) for text in TEXTS[:2]]).numpy()
    assert np.abs(got_NE - want_NE).max() < 1e-6
    assert np.abs(encoder.encode(TEXTS[:2], prompt=PROMPTS["query"], dim=8) - got_NE).max() < 1e-6
    assert encoder.encode([], task="query").shape == (0, 12)
    assert [part.cut for part in encoder.stream(TEXTS, prompt="")] == [1]
    text = encoder.encode(["<eos>"], prompt="")
    assert np.abs(text - alone(built, "<eos>").numpy()).max() < 1e-6  # text, not the token that ends a text
    in_bfloat16 = load_encoder(folder, dtype=torch.bfloat16, device="cpu").encode(TEXTS, task="query")
    assert in_bfloat16.dtype == np.float32
    assert 0 < np.abs(in_bfloat16 - encoder.encode(TEXTS, task="query")).max() < 0.1


def test_a_task_is_named_where_there_are_prompts(folder):
    encoder = load_encoder(folder, device="cpu")
    with pytest.raises(DataError, match=r"no prompt 'qurey'; did you mean 'query'\?"):
        encoder.encode(["a"], task="qurey")
    with pytest.raises(DataError, match=r"was trained with prompts: expected a task \(query, document\), or a prompt"):
        encoder.encode(["a"])
    with pytest.raises(DataError, match="a task and a prompt: expected one of them"):
        encoder.encode(["a"], task="query", prompt="")
    with pytest.raises(DataError, match="expected a list of texts, got one text"):
        encoder.encode("a", task="query")
    prompts.keep({}, None, folder)
    assert np.array_equal(load_encoder(folder, device="cpu").encode(["a"]), encoder.encode(["a"], prompt=""))


def test_what_stands_around_no_text_is_kept(folder):
    prompts.keep(PROMPTS, 64, folder, Ends(bos=None, eos=2))
    assert load_encoder(folder, device="cpu").ends == Ends(None, 2)
    assert prompts.most_tokens(folder) == 64
    (folder / "tokenizer_config.json").write_text('{"model_max_length": 1e30, "tokenizer_class": "X"}')
    assert prompts.most_tokens(folder) is None
    prompts.keep({"sts": "ü: "}, 32, folder)
    assert json.loads((folder / "tokenizer_config.json").read_text()) == {"model_max_length": 32, "tokenizer_class": "X"}
    assert prompts.prompts(folder) == {"sts": "ü: "}
    assert sorted(path.name for path in folder.iterdir() if path.name.startswith(".")) == []


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("prompts.json", "[", "prompts.json: not valid JSON"),
        ("prompts.json", "[]", "prompts.json: expected a mapping of keys"),
        ("prompts.json", '{"query": 5}', "prompts.json: query: expected a text, got 5"),
        (
            "tokenizer_config.json",
            '{"model_max_length": 0.5}',
            "tokenizer_config.json: model_max_length: expected a number of tokens",
        ),
        ("tokenizer.json", None, "no tokenizer.json in it"),
        ("model.safetensors", None, "no checkpoint: expected spec.yaml and model.safetensors"),
    ],
)
def test_a_folder_that_is_no_encoder(name, content, message, folder):
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_text(content)
    with pytest.raises(DataError, match=message):
        load_encoder(folder, device="cpu")


def test_a_language_model_and_float16_are_refused(folder, tmp_path):
    plain = write(tmp_path / "plain", new_model(model_spec({"type": "attention", "heads": 2}, vocab_size=259), 0))
    with pytest.raises(DataError, match=r"plain: its model has no pool, so it gives no vector of a text; `archbench generate`"):
        load_encoder(plain)
    with pytest.raises(DataError, match="float16"):
        load_encoder(folder, dtype=torch.float16)
    half = write(tmp_path / "half", model().half())
    with pytest.raises(DataError, match="float16"):
        load_encoder(half)
    assert load_encoder(half, dtype=torch.float32, device="cpu").encode(["a"], task="query").shape == (1, 12)


# --- files of texts and of vectors


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"one\n\nthree\n", r"^a.txt:2: text 2 is empty$"),
        ("a.txt", b"one\ntw\xff\n", r"^a.txt:2: not UTF-8: byte 0xff at column 3$"),
        ("a.jsonl", b'{"text": "one"}\n{"txt": "two"}\n', r"""^a.jsonl:2: no key "text"; did you mean 'txt'\?"""),
        ("a.jsonl", b'{"text": "one"\n', r"^a.jsonl:1: not valid JSON"),
        ("a.jsonl", b'["one"]\n', r'^a.jsonl:1: expected an object with the key "text", got \["one"\]'),
        ("a.jsonl", b'{"text": 5}\n', r"^a.jsonl:1: text: expected a text, got 5"),
        ("a.jsonl", b'{"text": " "}\n', r"^a.jsonl:1: text 1 is empty"),
        ("a.jsonl", b'{"text": "one"}\n{"text": "\\ud800"}\n', r"^a.jsonl:2: text: half of a surrogate pair, which is no text$"),
        ("b.txt", None, r"^b.txt: No such file or directory$"),
        ("c", "folder", r"^c: Is a directory$"),
    ],
)
def test_a_file_of_texts_that_cannot_be_read(name, content, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if content == "folder":
        Path(name).mkdir()
    elif content is not None:
        Path(name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        text_lines.count(name)


def test_lines_are_texts(tmp_path, monkeypatch):
    content = "\ufeffone\r\n two \u2028 still two\nlast".encode()
    (tmp_path / "a.txt").write_bytes(content)
    assert [*text_lines.texts(str(tmp_path / "a.txt"))] == ["one", " two \u2028 still two", "last"]
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    assert [*text_lines.texts("-")] == ["one", " two \u2028 still two", "last"]
    (tmp_path / "a.jsonl").write_text('{"text": "one\\ntwo", "more": 1}\n')
    assert [*text_lines.texts(str(tmp_path / "a.jsonl"))] == ["one\ntwo"]


PARTS = [(["a", 'ü "'], np.array([[0.1, -1e-20], [3, 4]], np.float32)), (["c"], np.array([[1 / 3, 7]], np.float32))]
TOGETHER = np.concatenate([vector_NE for _, vector_NE in PARTS])


def written(name, out):
    with vector_files.writing(name, out, 2) as write:
        for part in PARTS:
            write(*part)


def test_every_format_gives_back_the_same_numbers(tmp_path, capsysbinary):
    import pyarrow.parquet as pq

    for name in vector_files.FORMATS:
        written(name, tmp_path / f"v.{name}")
    array = np.load(tmp_path / "v.npy")
    assert array.dtype == np.float32 and np.array_equal(array, TOGETHER)
    lines = [json.loads(line) for line in (tmp_path / "v.jsonl").read_text().splitlines()]
    assert np.array_equal(np.array([line["vector"] for line in lines], np.float32), TOGETHER)
    table = pq.read_table(tmp_path / "v.parquet")
    assert np.array_equal(np.array(table["vector"].to_pylist(), np.float32), TOGETHER)
    assert [line["text"] for line in lines] == table["text"].to_pylist() == ["a", 'ü "', "c"]
    written("jsonl", None)
    assert capsysbinary.readouterr().out == (tmp_path / "v.jsonl").read_bytes()


@pytest.mark.parametrize("name", vector_files.FORMATS)
def test_a_file_appears_whole_or_not_at_all(name, tmp_path):
    out = tmp_path / "v.out"
    out.write_text("before")
    with pytest.raises(KeyError), vector_files.writing(name, out, 2) as write:
        write(*PARTS[0])
        raise KeyError
    assert os.listdir(tmp_path) == ["v.out"] and out.read_text() == "before"
    with pytest.raises(DataError, match="cannot be written"), vector_files.writing(name, tmp_path / "no" / "v", 2):
        pass


def test_the_name_of_a_file_says_its_format():
    assert vector_files.format_of(None, None) == vector_files.format_of(None, Path("v")) == "jsonl"
    assert vector_files.format_of(None, Path("v.npy")) == "npy" and vector_files.format_of("parquet", Path("v.npy")) == "parquet"
    for given, message in (
        (("np", None), r"^no format 'np'; did you mean 'npy'\?"),
        ((None, Path("v.txt")), r"v.txt: no format 'txt'"),
        (("npy", None), r"the format npy needs a file: --out FILE"),
    ):
        with pytest.raises(DataError, match=message):
            vector_files.format_of(*given)


# --- the command


def run(arguments, capsys, monkeypatch):
    """(exit code, standard output, standard error) of `python -m arch encode ARGUMENTS` in this process."""
    from arch import __main__, cli

    monkeypatch.setattr(sys, "argv", ["arch", "encode", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        cli.main(__main__.app, "arch")
    said = capsys.readouterr()
    return ended.value.code, said.out, said.err


def test_the_command_writes_the_vector_of_each_line(folder, tmp_path, capsys, monkeypatch):
    source = tmp_path / "texts.txt"
    source.write_text("".join(f"{text}\n" for text in TEXTS))
    encoder = load_encoder(folder)
    code, out, err = run([folder, source, "--task", "document", "--dim", 4], capsys, monkeypatch)
    lines = [json.loads(line) for line in out.splitlines()]
    assert code == 0 and [line["text"] for line in lines] == TEXTS
    assert np.array_equal(np.array([line["vector"] for line in lines], np.float32), encoder.encode(TEXTS, task="document", dim=4))
    assert err == "warning: 1 of 6 texts had more than 48 tokens, with their prompt, and were cut\n"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(source.read_bytes())))
    npy = tmp_path / "v.npy"
    code, out, _ = run([folder, "-", "--prompt", "", "--batch", 2, "--out", npy], capsys, monkeypatch)
    assert (code, out) == (0, "") and np.array_equal(np.load(npy), encoder.encode(TEXTS, prompt="", batch_rows=2))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--task", "qury"], "no prompt 'qury'; did you mean 'query'?"),
        ([], "the encoder was trained with prompts: expected a task (query, document)"),
        (["--task", "query", "--dim", "13"], "13 numbers of a vector: the model gives 12; expected 1 to 12"),
        (["--task", "query", "--dtype", "float16"], "float16: the activations"),
        (["--task", "query", "--format", "csv"], "no format 'csv'"),
        (["--task", "query", "--out", "no/v.npy"], "no/v.npy: cannot be written"),
    ],
)
def test_the_command_refuses_with_one_line_and_writes_nothing(arguments, message, folder, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("texts.txt").write_text("one\ntwo\n")
    before = sorted(tmp_path.rglob("*"))
    code, out, err = run([folder, "texts.txt", *arguments], capsys, monkeypatch)
    assert (code, out) == (2, "") and message in err and len(err.splitlines()) == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_a_bad_line_is_found_before_anything_is_written(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("texts.txt").write_bytes(b"one\ntwo\nthr\xc3\n")
    code, out, err = run([folder, "texts.txt", "--task", "query"], capsys, monkeypatch)
    assert (code, out, err) == (2, "", "texts.txt:3: not UTF-8: byte 0xc3 at column 4\n")
    Path("empty.txt").write_bytes(b"")
    code, out, err = run([folder, "empty.txt", "--task", "query", "--out", "v.npy"], capsys, monkeypatch)
    assert (code, out, err) == (2, "", "empty.txt: no text in it\n") and not Path("v.npy").exists()
