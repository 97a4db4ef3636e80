"""docs/everyday.md is true: its study, its commands in their order, and what it says they print."""

import re
import shlex
from contextlib import suppress
from pathlib import Path

import pytest
import typer

import archbench
from arch.errors import DataError

TEXT = (Path(__file__).parent.parent / "docs" / "everyday.md").read_text()
COMMANDS = [line for block in re.findall(r"```\n(archbench .*?)```", TEXT, re.DOTALL) for line in block.splitlines()]
# A model as small as can be, so that the commands take seconds.
SMALL = """
model: {dim: 16, vocab_size: 320, layers: 6, blocks: {local: {mixer: {heads: 1, head_dim: 16}, ffn: {hidden: 16}}}}
data: {tokenizer: {vocab_size: 320}, context: 32, rows: 2}
evaluate: {every: 20, select_rows: 2, report_rows: 2, sample_tokens: 4}
"""
# Commands that need an extra, or a model that is not small.
ELSEWHERE = ("--to wandb-offline", "--to mlflow", "archbench run ")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_of_it_is_one(command):
    program, *words = shlex.split(command, comments=True)
    context = typer.main.get_command(archbench.app)
    while hasattr(context, "commands"):
        context = context.commands[words.pop(0)]
    assert program == "archbench"
    with suppress(DataError):  # a study that has not begun is found missing after the options are read
        assert context.make_context(context.name, words).params


def test_it_covers_every_command_and_option_that_it_is_about():
    for name in ("list", "note", "archive", "rm", "gc"):
        assert any(command.startswith(f"archbench study {name}") for command in COMMANDS), name
    formats = set(re.findall(r"--to (\S+)", "\n".join(COMMANDS)))
    from analysis.exports.write import FORMATS

    assert formats == set(FORMATS)


@pytest.mark.slow
def test_its_commands_do_what_it_says(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    study = re.search(r"```yaml\n(# windows.yaml\n.*?)```", TEXT, re.DOTALL)[1]
    Path("windows.yaml").write_text(study + SMALL)
    shown = {}
    for command in COMMANDS:
        if not any(part in command for part in ELSEWHERE):
            code = archbench.app(shlex.split(command)[1:], standalone_mode=False)
            shown[command] = capfd.readouterr().out
            assert not code, command
    of = lambda start: next(text for command, text in shown.items() if command.startswith(f"archbench {start}"))  # noqa: E731
    assert "windows+seeds=2+train.steps=50: Does a wider window help?" in of("study show").splitlines()[0]
    assert "6 finished" in of("study status")
    assert re.search(r"^windows\+seeds-2\+train.steps-50/base  finished  .*MB|kB", of("study list"), re.MULTILINE)
    diff = "\n".join(re.search(r"```\n(seeds: 5 -> 2\n.*?)\n```", TEXT, re.DOTALL)[1].splitlines())
    assert of("diff").strip() == diff
    assert of("table").count("quick") == 3 and of("table").count("windows+seeds=2+train.steps=50") == 3
    assert Path("for_the_paper/tables.tex").is_file() and Path("runs/index.html").is_file()
    assert (Path("runs/quick/base/study.json")).is_file(), "nothing was removed"
    report = Path("runs/windows+seeds-2+train.steps-50/base/report.html").read_text()
    assert "archbench study run windows.yaml --set train.steps=50 --seeds 2" in report
