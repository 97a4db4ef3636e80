"""A study whose folder cannot be written is shown elsewhere: `--out`."""

import sys

import pytest

import analysis.__main__ as command
from analysis import measurements, report, tensorboard
from arch import cli


@pytest.fixture
def sealed(make_study, monkeypatch):
    """A study's folder in which nothing can be written, as far as reports write."""
    folder = make_study(seeds=3)

    def refuse(act):
        def acts(path, *arguments):
            if folder in path.parents:
                raise OSError(30, "Read-only file system", str(path))
            return act(path, *arguments)

        return acts

    for module in (report, measurements):
        monkeypatch.setattr(module, "write_atomically", refuse(module.write_atomically))
    monkeypatch.setattr(tensorboard, "_write", lambda study, logs: refuse(lambda path: path.mkdir())(logs))
    return folder


def ended(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["analysis", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        cli.main(command.app, "analysis")
    return end.value.code


@pytest.mark.parametrize(
    ("arguments", "files"),
    [(("report",), ["claims.csv", "report.html", "results.csv", "results.tex", "runs.csv"]), (("tensorboard", "--write-only"), [])],
)
def test_it_is_said_in_one_line_and_written_where_it_is_asked_for(arguments, files, sealed, tmp_path, monkeypatch, capsys):
    before = sorted(sealed.rglob("*"))
    word, *options = arguments
    assert ended(monkeypatch, word, sealed, *options) == 2
    said = f"{sealed}: cannot be written (Read-only file system); --out FOLDER writes elsewhere\n"
    assert capsys.readouterr().err == said
    out = tmp_path / "above" / "out"
    assert ended(monkeypatch, word, sealed, *options, "--out", out) == 0
    assert {*files} <= {path.name for path in out.iterdir()} and sorted(sealed.rglob("*")) == before
    assert capsys.readouterr().out.strip().endswith(str(out / ("report.html" if files else "tensorboard")))
    (tmp_path / "file").write_text("")
    assert ended(monkeypatch, word, sealed, *options, "--out", tmp_path / "file" / "below") == 2
    assert capsys.readouterr().err == f"{tmp_path}/file/below: cannot be written (Not a directory)\n"
