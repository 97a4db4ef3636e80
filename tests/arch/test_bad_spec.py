"""Every known way to get a model spec wrong: exit code 2 and one message with file, line, key and expectation."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from arch import cost, document, registry
from arch.errors import SpecError
from arch.model_spec import ModelSpec

ROOT = Path(__file__).parent.parent.parent
GOOD = """\
schema: 1
dim: 16
vocab_size: 40
layers: 3
pattern: [2*local, global]
blocks:
  local:
    mixer: {type: attention, heads: 4, kv_heads: 2, head_dim: 8, window: 4}
    ffn: {type: gated, hidden: 8}
  global: {like: local, mixer: {window: null}}
"""
MIXER = "    mixer: {type: attention, heads: 4, kv_heads: 2, head_dim: 8, window: 4}"
DEEP = "blocks: " + "[" * 80 + "]" * 80 + "\n"


def mixer(**options):
    """GOOD with these options for the local mixer."""
    text = ", ".join(f"{key}: {value}" for key, value in {"type": "attention", "heads": 4, **options}.items())
    return GOOD.replace(MIXER, f"    mixer: {{{text}}}")


def line(number, text):
    lines = GOOD.splitlines()
    lines[number - 1] = text
    return "\n".join(lines) + "\n"


# name: (text of the file, line, key, what the message must say)
BAD = {
    "unknown key at the top": (GOOD + "layer: 3\n", 11, "layer", "unknown key; did you mean 'layers' or"),
    "unknown key in a block": (
        line(9, "    ffm: {type: gated, hidden: 8}"),
        9,
        "blocks.local.ffm",
        "did you mean 'ffn'",
    ),
    "unknown option": (mixer(windw=4), 8, "blocks.local.mixer.windw", "did you mean 'window'"),
    "unknown key two levels down": (
        mixer(rope="{thta: 1e4}"),
        8,
        "blocks.local.mixer.rope.thta",
        "did you mean 'theta'",
    ),
    "unknown option of an ffn": (line(9, "    ffn: {type: gated, hiden: 8}"), 9, "blocks.local.ffn.hiden", "'hidden'"),
    "unknown key in init": (GOOD + "init: {matrx: {type: fan_in}}\n", 11, "init.matrx", "did you mean 'matrix'"),
    "unknown mixer": (
        mixer(type="atention"),
        8,
        "blocks.local.mixer.type",
        "no mixer 'atention'; did you mean 'attention'",
    ),
    "unknown ffn": (line(9, "    ffn: {type: gatd, hidden: 8}"), 9, "blocks.local.ffn.type", "did you mean 'gated'"),
    "unknown module": (mixer(type="no_such.module"), 8, "blocks.local.mixer.type", "no module 'no_such.module'"),
    "module without a mixer": (mixer(type="json.decoder"), 8, "blocks.local.mixer.type", "0 classes marked @mixer"),
    "component without a type": (
        line(9, "    ffn: {hidden: 8}"),
        9,
        "blocks.local.ffn",
        "a component needs `type: NAME`",
    ),
    "component as text": (
        line(9, "    ffn: gated"),
        9,
        "blocks.local.ffn",
        "expected a mapping of keys, got the text 'gated'",
    ),
    "a number as text": (line(2, "dim: '16'"), 2, "dim", "expected a whole number, got the text '16'"),
    "a word for a number": (line(2, "dim: wide"), 2, "dim", "expected a whole number, got the text 'wide'"),
    "true for a count": (line(2, "dim: true"), 2, "dim", "expected a whole number, got true"),
    "a fraction for a count": (line(2, "dim: 16.5"), 2, "dim", "expected a whole number"),
    "NaN for a count": (line(2, "dim: .nan"), 2, "dim", "not a finite number"),
    "infinity": (GOOD + "norm_eps: .inf\n", 11, "norm_eps", "not a finite number"),
    "null for a count": (line(2, "dim: null"), 2, "dim", "expected a whole number, got null"),
    "text for an option": (
        mixer(heads="'4'"),
        8,
        "blocks.local.mixer.heads",
        "expected a whole number, got the text '4'",
    ),
    "true for an option": (mixer(heads="true"), 8, "blocks.local.mixer.heads", "expected a whole number, got true"),
    "a number for a switch": (mixer(qk_norm=1), 8, "blocks.local.mixer.qk_norm", "expected true or false, got 1"),
    "zero layers": (line(4, "layers: 0"), 4, "layers", "greater than or equal to 1, got 0"),
    "negative width": (line(2, "dim: -16"), 2, "dim", "greater than or equal to 1, got -16"),
    "a window of 0": (mixer(window=0), 8, "blocks.local.mixer.window", "greater than or equal to 1, got 0"),
    "a side of a window of 0": (
        mixer(causal="false", window="{before: 0, after: 2}"),
        8,
        "blocks.local.mixer.window.before",
        "greater than or equal to 1, got 0",
    ),
    "a window as text": (
        mixer(window="wide"),
        8,
        "blocks.local.mixer.window",
        "expected a whole number, got the text 'wide'",
    ),
    "kv_heads does not divide": (mixer(kv_heads=3), 8, "blocks.local.mixer.kv_heads", "3 does not divide heads = 4"),
    "heads do not divide dim": (
        mixer(heads=3, kv_heads=3),
        8,
        "blocks.local.mixer.heads",
        "3 does not divide dim = 16",
    ),
    "odd head width": (mixer(head_dim=7), 8, "blocks.local.mixer.head_dim", "rotary needs an even number of channels"),
    "odd derived head width": (
        line(2, "dim: 12").replace(MIXER, "    mixer: {type: attention, heads: 4}"),
        8,
        "blocks.local.mixer",
        "rotary needs an even number of channels, 1 of 3 is 3",
    ),
    "a window with two sides, causal": (
        mixer(window="{before: 2, after: 2}"),
        8,
        "blocks.local.mixer.window",
        "is for `causal: false`",
    ),
    "gate blocks do not divide": (
        GOOD.replace(MIXER, "    mixer: {type: rg_lru, blocks: 3}").replace(", mixer: {window: null}", ""),
        8,
        "blocks.local.mixer.blocks",
        "3 does not divide width = 16",
    ),
    "not one of the choices": (
        line(9, "    ffn: {type: gated, hidden: 8, activation: gelu}"),
        9,
        "blocks.local.ffn.activation",
        "did you mean 'relu' or 'gelu_tanh'",
    ),
    "a missing option": (
        line(9, "    ffn: {type: gated}"),
        9,
        "blocks.local.ffn.hidden",
        "missing; this key is required",
    ),
    "a missing key": (line(2, ""), 1, "dim", "missing; this key is required"),
    "a pattern that names no block": (
        line(5, "pattern: [2*lcal]"),
        5,
        "pattern",
        "no block 'lcal'; did you mean 'local'",
    ),
    "an empty pattern": (line(5, "pattern: []"), 5, "pattern", "expected at least one block name"),
    "a pattern of no repeats": (line(5, "pattern: [0*local]"), 5, "pattern", "COUNT*NAME"),
    "a pattern that is no list": (line(5, "pattern: local"), 5, "pattern", "expected a list"),
    "a block that does nothing": (
        line(10, "  global: {norm: before}"),
        10,
        "blocks.global",
        "needs at least one of mixer, cross, ffn",
    ),
    "like names no block": (
        line(10, "  global: {like: locl}"),
        10,
        "blocks.global.like",
        "no block 'locl'; did you mean 'local'",
    ),
    "circular like": (
        line(10, "  global: {like: other}\n  other: {like: global}"),
        11,
        "blocks.other.like",
        "circular like: global -> other -> global",
    ),
    "like itself": (line(10, "  global: {like: global}"), 10, "blocks.global.like", "circular like"),
    "like a list": (line(10, "  global: {like: [local]}"), 10, "blocks.global.like", "no block"),
    "blocks as a list": (
        "\n".join(GOOD.splitlines()[:5]) + "\nblocks: [local]\n",
        6,
        "blocks",
        "expected a mapping of keys, got a list",
    ),
    "extends names no shipped spec": ("extends: gemma3/2b\n", 1, "extends", "no shipped spec 'gemma3/2b'"),
    "extends names no file": ("dim: 3\nextends: nowhere.yaml\n", 2, "extends", "no such file"),
    "extends itself": ("extends: bad.yaml\n", 1, "extends", "circular extends: bad.yaml -> bad.yaml"),
    "extends a number": ("extends: 3\n", 1, "extends", "expected the name or path of a spec"),
    "a wrong value laid over": ("extends: gemma3/1b\nlayers: '3'\n", 2, "layers", "expected a whole number"),
    "duplicate keys": (GOOD + "dim: 32\n", 11, "dim", "duplicate key; first given on line 2"),
    "duplicate keys inside": (
        mixer(rope="{theta: 1.0, theta: 2.0}"),
        8,
        "blocks.local.mixer.rope.theta",
        "duplicate key",
    ),
    "a list": ("- dim: 16\n", 1, "", "the file is a list; expected a mapping of keys"),
    "a single value": ("dim\n", 1, "", "the file is a single value"),
    "empty": ("", 1, "", "the file is empty"),
    "only comments": ("# nothing\n", 1, "", "the file is empty"),
    "broken syntax": ("dim: 16\nblocks: {a: [1, 2\n", 3, "", "not valid YAML"),
    "a tab for indentation": ("dim: 16\nblocks:\n\ta: 1\n", 3, "", "not valid YAML"),
    "two documents": ("dim: 16\n---\ndim: 17\n", 2, "", "not valid YAML"),
    "over 1 MB": ("# " + "x" * 1_000_000 + "\n", 1, "", "a spec may have at most 1,000,000"),
    "nested too deep": (DEEP, 1, "", "nested over 64 levels deep"),
    "anchors": ("dim: &d 16\nvocab_size: *d\n", 1, "", "anchors are not used"),
    "a key that is no word": ("[1, 2]: 3\n", 1, "", "a key must be a plain word"),
    "another schema": (line(1, "schema: 2"), 1, "schema", "expected 1, got 2"),
    "a tag of one's own": (line(2, "dim: !ENV x"), 2, "dim", "specs know no tag !ENV; expected the value itself"),
    "a tag on a list": (line(5, "pattern: !env [local]"), 5, "pattern", "specs know no tag !env"),
    "a tag on a mapping": (mixer(rope="!rope {theta: 1e4}"), 8, "blocks.local.mixer.rope", "specs know no tag !rope"),
    "a tag on a key": (line(2, "!big dim: 16"), 2, "dim", "specs know no tag !big; expected the key itself"),
    "a tag on the whole": ("!model\n" + GOOD, 1, "", "specs know no tag !model"),
    "a set": (line(5, "pattern: !!set {local, global}"), 5, "pattern", "specs know no tag !!set"),
    "a mapping that says it is a list": (line(5, "pattern: !!seq {a: 1}"), 5, "pattern", "specs know no tag !!seq"),
    "a word that says it is a number": (line(2, "dim: !!int ten"), 2, "dim", "expected what the tag !!int says, got 'ten'"),
    "nothing that says it is a number": (line(2, "dim: !!int ''"), 2, "dim", "expected what the tag !!int says, got ''"),
    "a word that says it is a switch": (mixer(qk_norm="!!bool maybe"), 8, "blocks.local.mixer.qk_norm", "!!bool says, got 'maybe'"),
    "a word that says it is nothing": (mixer(window="!!null x"), 8, "blocks.local.mixer.window", "!!null says, got 'x'"),
    "binary data": (line(2, "dim: !!binary aGk="), 2, "dim", "specs know no tag !!binary"),
    "a date that is none": (line(2, "dim: 2026-02-30"), 2, "dim", "2026-02-30 reads as a date, and no key is one; in quotes"),
    "a date": (line(2, "dim: 2026-02-28"), 2, "dim", "2026-02-28 reads as a date"),
    "a time that is none": (line(2, "dim: 2026-02-28 25:61:00"), 2, "dim", "reads as a date"),
    "five thousand digits": (line(2, f"dim: {'9' * 5000}"), 2, "dim", "expected what the tag !!int says, got '9999"),
}


def load_all(path):
    root = document.load(str(path), "arch")
    spec = registry.resolve(ModelSpec.parse(root), root)
    cost.check_builds(spec, root)


def test_the_good_one_is_good(tmp_path):
    (tmp_path / "good.yaml").write_text(GOOD)
    load_all(tmp_path / "good.yaml")


@pytest.mark.parametrize("name", BAD)
def test_a_bad_spec_is_refused_where_it_is_wrong(name, tmp_path, monkeypatch):
    text, line, key, reason = BAD[name]
    monkeypatch.chdir(tmp_path)
    Path("bad.yaml").write_text(text)
    with pytest.raises(SpecError) as caught:
        load_all("bad.yaml")
    first, *others = str(caught.value).splitlines()
    assert not others, others
    assert first.startswith(f"bad.yaml:{line}: " + (f"{key}: " if key else "")), first
    assert reason in first, first


@pytest.mark.parametrize(
    "content, reason",
    [
        (b"\xff\xfed\0i\0m\0", "not UTF-8 text (it is UTF-16)"),
        (b"dim: \xff", "not UTF-8 text (byte 5)"),
        (b"dim: \x00", "not valid YAML"),
    ],
)
def test_a_binary_file_is_refused(content, reason, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("bad.yaml").write_bytes(content)
    with pytest.raises(SpecError, match=r"^bad.yaml:1: ") as caught:
        load_all("bad.yaml")
    assert reason in str(caught.value)


@pytest.mark.parametrize(
    "text, reason",
    [
        ("layers=!ENV x", "--set layers=!ENV x: layers: specs know no tag !ENV"),
        ("layers=2026-02-30", "--set layers=2026-02-30: layers: 2026-02-30 reads as a date"),
        ("layers=!!int ten", "--set layers=!!int ten: layers: expected what the tag !!int says, got 'ten'"),
        ("blocks={a: !x 1}", "--set blocks={a: !x 1}: blocks.a: specs know no tag !x"),
    ],
)
def test_an_override_is_read_like_a_file(text, reason):
    with pytest.raises(SpecError) as caught:
        document.assignments([text])
    assert str(caught.value).startswith(reason)


def test_tags_that_say_what_a_value_is_anyway_are_no_error(tmp_path):
    (tmp_path / "a.yaml").write_text(
        "a: !!str 3\nb: !!int '4'\nc: !!map {d: !!seq [!!null ~, !!float 1e3]}\ne: =\n", encoding="utf-8-sig"
    )
    assert document.read(tmp_path / "a.yaml").plain() == {"a": "3", "b": 4, "c": {"d": [None, 1000.0]}, "e": "="}


def test_a_character_that_yaml_has_not_is_one_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("bad.yaml").write_text("dim: 16\n\0")
    with pytest.raises(SpecError) as caught:
        load_all("bad.yaml")
    assert len(str(caught.value).splitlines()) == 1


def test_a_circle_of_files_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, other in (("a", "b"), ("b", "c"), ("c", "a")):
        Path(f"{name}.yaml").write_text(f"extends: {other}.yaml\n")
    with pytest.raises(SpecError, match=re.escape("circular extends: a.yaml -> b.yaml -> c.yaml -> a.yaml")):
        load_all("a.yaml")


def test_an_error_in_an_extended_file_names_that_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("base.yaml").write_text(GOOD.replace("heads: 4", "heads: four"))
    Path("top.yaml").write_text("extends: base.yaml\nlayers: 2\n")
    with pytest.raises(SpecError, match=r"^base.yaml:8: blocks.local.mixer.heads: expected a whole number"):
        load_all("top.yaml")


def test_several_errors_are_shown_together(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("bad.yaml").write_text(GOOD.replace("dim: 16", "dim: x").replace("layers: 3", "layers: 0"))
    with pytest.raises(SpecError) as caught:
        load_all("bad.yaml")
    assert [text.split(": ")[0] for text in str(caught.value).splitlines()] == ["bad.yaml:2", "bad.yaml:4"]


def arch(*arguments, cwd):
    command = [sys.executable, "-m", "arch", *arguments]
    return subprocess.run(command, cwd=cwd, check=False, capture_output=True, text=True, env={"PYTHONPATH": str(ROOT), "PATH": ""})


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["show", "bad.yaml"], r"bad.yaml:8: blocks.local.mixer.kv_heads: 3 does not divide heads = 4\n"),
        (["show", "gemma3/2b"], r"no shipped spec 'gemma3/2b'.*did you mean 'gemma3/.*known: .*\n"),
        (["shw"], r"(?s).*No such command 'shw'.*"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, list) else "",
)
def test_a_command_ends_with_code_2_and_one_message(arguments, message, tmp_path):
    (tmp_path / "good.yaml").write_text(GOOD)
    (tmp_path / "bad.yaml").write_text(mixer(kv_heads=3))
    before = sorted(tmp_path.iterdir())
    run = arch(*arguments, cwd=tmp_path)
    assert run.returncode == 2 and run.stdout == ""
    assert re.fullmatch(message, run.stderr), run.stderr
    assert "Traceback" not in run.stderr
    assert sorted(tmp_path.iterdir()) == before
