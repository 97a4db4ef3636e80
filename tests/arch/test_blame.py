"""Errors in code of a user's own: one line that names the block, the mixer, the file and the line, whatever they raise."""

import re
import sys
from pathlib import Path

import pytest

from arch import blame, cli, cost, document, probe_model, registry
from arch.errors import SpecError
from arch.model_spec import ModelSpec
from arch.registry import resolve

SOURCE = (Path(__file__).parent.parent / "plugins" / "own_failing.py").read_text()


def line(text):
    """`own_failing.py:LINE` of the first line of the plug-in that has this text."""
    number = next(i for i, each in enumerate(SOURCE.splitlines(), start=1) if text in each)
    return f"own_failing.py:{number}"


@pytest.mark.parametrize(
    ("source", "said", "where"),
    [
        ("import sys\nsys.exit(3)", "it calls sys.exit(3)", 2),
        ("import sys\nsys.exit()", "it calls sys.exit()", 2),
        ("raise SystemExit('no licence')", "it calls sys.exit('no licence')", 1),
        ("raise RuntimeError('no')", "RuntimeError: no", 1),
        ("\ndef f(:", "SyntaxError: invalid syntax", 2),
        ("if 1:\n\tx = 1\n        y = 2", "TabError: inconsistent use of tabs and spaces in indentation", 3),
        ("import not_there_at_all", "ModuleNotFoundError: No module named 'not_there_at_all'", 1),
        ("from arch.registry import no_such_kind", "ImportError: cannot import name 'no_such_kind' from 'arch.registry'", 1),
        ("def f():\n    return f()\nf()", "RecursionError: maximum recursion depth exceeded", 2),
        ("import torch\ntorch.ones(2) @ torch.ones(3)", "RuntimeError: ", 2),
        ("open('/nothing/there')", "FileNotFoundError: ", 1),
    ],
)
def test_a_module_that_cannot_be_imported_is_one_line_with_the_users_own(source, said, where, tmp_path, monkeypatch):
    (tmp_path / "own_unread.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SpecError) as raised:
        registry.component("mixer", "own_unread:Thing")
    assert raised.value.reason.startswith(f"own_unread cannot be imported: {said}")
    assert raised.value.reason.endswith(f"(own_unread.py:{where})") and "\n" not in raised.value.reason


@pytest.mark.parametrize(
    ("how", "said", "where"),
    [
        ("exits", "calls sys.exit('enough') at {} while it is checked", 'sys.exit("enough")'),
        ("raises", "raises LookupError (nothing there) at {} while it is checked", "raise LookupError"),
        ("in torch", "raises RuntimeError (", "F.linear"),
        ("no state", "gives Tensor instead of (output, state) ({})", "def forward"),
        ("shape", "gives shape (2, 1, 1) for an input of shape (2, 1, 16) ({})", "def forward"),
        ("built", "cannot be built: its __init__ calls sys.exit(4) on the meta device, at {}", "sys.exit(4)"),
    ],
)
def test_what_a_mixer_does_wrong_is_named_before_anything_runs(how, said, where, plugins, monkeypatch):
    monkeypatch.chdir(plugins)
    (plugins / "model.yaml").write_text("schema: 1\ndim: 16\nvocab_size: 40\nlayers: 1\npattern: [b]\n"
                                        f"blocks:\n  b: {{mixer: {{type: own_failing:Failing, always: {how}}}}}\n")  # fmt: skip
    root = document.load("model.yaml", "arch")
    with pytest.raises(SpecError) as raised:
        spec = resolve(ModelSpec.parse(root), root)
        cost.check_builds(spec, root)
        probe_model.check_components(spec, root, tokens=32)
    text = str(raised.value)
    assert text.startswith(f"model.yaml:7: blocks.b.mixer: own_failing:Failing {said.format(line(where))}"), text
    assert line(where) in text and "\n" not in text


def ended(act, monkeypatch):
    """The exit code of a command that does `act`."""
    monkeypatch.setattr(sys, "argv", ["test", "act"])
    app = cli.new_app("a test")
    app.command("act")(act)
    app.command("other")(lambda: None)  # with two commands, Typer asks for the name
    with pytest.raises(SystemExit) as end:
        cli.main(app, "test")
    return end.value.code


@pytest.mark.parametrize(
    ("source", "code", "said"),
    [
        ("import sys\nsys.exit(0)", 2, "own_act.py:2: sys.exit(0) was called"),
        ("raise ValueError('first\\nsecond')", 2, "own_act.py:1: ValueError (first)"),
        ("open('nothing')", 2, "own_act.py:1: FileNotFoundError ([Errno 2] No such file or directory: 'nothing')"),
    ],
)
def test_a_command_that_runs_into_it_ends_with_code_two_and_one_line(source, code, said, tmp_path, monkeypatch, capsys):
    (tmp_path / "own_act.py").write_text(source)
    monkeypatch.chdir(tmp_path)
    act = lambda: exec(compile(source, str(tmp_path / "own_act.py"), "exec"))  # noqa: E731
    assert (ended(act, monkeypatch), capsys.readouterr().err) == (code, said + "\n")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (PermissionError(13, "Permission denied", "runs/x"), "runs/x: Permission denied"),
        (OSError(30, "Read-only file system", "runs"), "runs: Read-only file system"),
        (OSError(28, "No space left on device"), "No space left on device"),
        (RuntimeError("Storage size calculation overflowed with sizes=[9, 9]"),
         "a number is too large: sizes and counts are held in 64 bits"),
        (TypeError("Overflow when unpacking long long"), "a number is too large: sizes and counts are held in 64 bits"),
        (FileNotFoundError("No such file: x"), "FileNotFoundError (No such file: x)"),
        (MemoryError("Unable to allocate 7.28 TiB for an array"), "not enough memory for 7.28 TiB"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 640 bytes. Error code 12"),
         "not enough memory for 640 bytes"),
    ],
)  # fmt: skip
def test_what_the_machine_refuses_is_one_line(error, said, monkeypatch, capsys):
    monkeypatch.setattr(blame, "own_place", lambda error: "")  # this test's own line

    def act():
        raise error

    assert (ended(act, monkeypatch), capsys.readouterr().err) == (2, said + "\n")


def test_an_error_of_this_project_keeps_its_traceback(monkeypatch):
    monkeypatch.setattr(blame, "own_place", lambda error: "")

    def act():
        raise KeyError("a mistake of ours")

    with pytest.raises(KeyError):
        ended(act, monkeypatch)


def test_whose_code_it_is():
    import numpy
    import torch

    assert blame.is_own(__file__) and blame.is_own("/home/me/own.py")
    assert not any(map(blame.is_own, (re.__file__, torch.__file__, numpy.__file__, registry.__file__, cli.__file__, "<string>")))
