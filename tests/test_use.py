"""What every user of a command line expects of one: help, version, closed pipes, specs of another kind, options explained."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import archbench
from arch import document, explained, registry
from arch.errors import SpecError
from arch.model_spec import ModelSpec
from arch.schema import json_schema
from experiments.spec import ExperimentSpec
from sweeps.spec import StudySpec

ROOT = Path(__file__).parent.parent
STUDY = "extends: experiments/tiny_gemma3\nquestion: q\narms: {a: {}}\n"


def started(*words):
    """A process of the command whose output is a pipe."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "80"}
    command = [sys.executable, str(ROOT / "archbench.py"), *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


@pytest.mark.parametrize("words", ["list", pytest.param("schema", marks=pytest.mark.slow), "show gemma3/1b"])
def test_a_reader_that_has_enough_is_no_error(words):
    """`archbench list | head -1`: one writes by rich, one by print, and one ends before it is closed."""
    with started(*words.split()) as process:
        assert process.stdout.readline()
        process.stdout.close()
        said = process.stderr.read()
    assert (process.returncode, said) == (0, "")


def test_short_help_and_version():
    for words in (["-h"], ["study", "run", "-h"]):
        said, _ = (process := started(*words)).communicate()
        assert process.returncode == 0 and "Usage: archbench" in said
    said, _ = (process := started("--version")).communicate()
    assert process.returncode == 0 and said.startswith("archbench ") and "torch" in said and said.count("\n") == 1


@pytest.fixture
def specs(tmp_path, monkeypatch):
    """A working folder with a study, an experiment and a model."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "study.yaml").write_text(STUDY)
    (tmp_path / "run.yaml").write_text("extends: tiny_gemma3\ntrain.steps: 3\n")
    (tmp_path / "model.yaml").write_text("extends: gemma3/1b\nlayers: 2\n")


def answer(words, capsys, monkeypatch):
    """(exit code, what stands on standard error) of the command in this process."""
    monkeypatch.setattr(sys, "argv", ["archbench", *words])
    with pytest.raises(SystemExit) as ended:
        archbench.main()
    return ended.value.code, capsys.readouterr().err.strip()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("run study.yaml", "study.yaml: this is a study: archbench study run study.yaml"),
        ("run model.yaml", "model.yaml: this is a model: archbench show model.yaml"),
        ("run gemma3/local_global", "gemma3/local_global: this is a study: archbench study run gemma3/local_global"),
        ("study run run.yaml", "run.yaml: this is an experiment: archbench run run.yaml"),
        ("study run tiny_gemma3", "tiny_gemma3: this is an experiment: archbench run tiny_gemma3"),
        ("study show run.yaml", "run.yaml: this is an experiment: archbench show run.yaml"),
        ("study show gemma3/1b", "gemma3/1b: this is a model: archbench show gemma3/1b"),
        ("study status run.yaml", "run.yaml: this is an experiment: archbench run run.yaml"),
        ("study work model.yaml --storage journal:x", "model.yaml: this is a model: archbench show model.yaml"),
        ("study work model", "model: this is a model: archbench show model"),
    ],
)
def test_a_spec_of_another_kind_is_told_with_its_command(words, said, specs, capsys, monkeypatch):
    assert answer(words.split(), capsys, monkeypatch) == (2, said)


def test_the_ending_may_be_left_out_and_a_shipped_name_comes_first(specs, tmp_path):
    assert document.find("run", "experiments") == Path("run.yaml") and archbench._kind("study") == "study"
    (tmp_path / "tiny_gemma3.yaml").write_text("dim: 3\n")
    (tmp_path / "tiny_gemma3").mkdir()  # a folder of that name
    (tmp_path / "tiny_griffin").write_text("a file of that name")
    assert document.find("tiny_gemma3", "experiments").parent != Path(".")
    assert archbench._kind("tiny_gemma3") == archbench._kind("tiny_griffin") == "experiment"
    with pytest.raises(SpecError, match="no shipped spec 'runn'"):
        document.find("runn", "experiments")


@pytest.mark.parametrize("command", ["show", "study show", "run", "report", "bench"])
def test_a_file_or_folder_that_is_no_spec_is_said_to_be_there(command, specs, tmp_path, capsys, monkeypatch):
    (tmp_path / "notes.md").write_text("# Notes")
    (tmp_path / "docs").mkdir()
    wanted = "expected a file whose name ends in .yaml, or a shipped name"
    assert answer([*command.split(), "notes.md"], capsys, monkeypatch) == (2, f"notes.md is there, but is no YAML spec; {wanted}")
    if command != "report":  # of folders, it takes those of studies
        assert answer([*command.split(), "docs"], capsys, monkeypatch) == (2, f"docs is a folder and no spec; {wanted}")
        assert answer([*command.split(), "/dev/null"], capsys, monkeypatch)[1].startswith("/dev/null is there, but")


@pytest.mark.parametrize("command", ["show", "study show", "study status", "run", "diff model.yaml"])
def test_an_empty_name_is_called_empty(command, specs, capsys, monkeypatch):
    said = "the name of the spec is empty; expected a shipped name or a path ending in .yaml"
    assert answer([*command.split(), ""], capsys, monkeypatch) == (2, said)


@pytest.mark.parametrize(
    ("missing", "meant"),
    [("gemma3/27b.yaml", "gemma3/27b"), ("arch/gemma3/27b.yml", "arch/gemma3/27b"), ("modell.yaml", "model.yaml")],
)
def test_a_missing_file_is_told_with_the_name_that_is_meant(missing, meant, specs, capsys, monkeypatch):
    assert answer(["show", missing], capsys, monkeypatch) == (2, f"no such file: {missing}; did you mean {meant!r}?")
    assert answer(["show", "zzzz.yaml"], capsys, monkeypatch) == (2, "no such file: zzzz.yaml")


def test_what_extends_a_file_that_is_no_spec_is_told_with_its_line(specs, tmp_path):
    (tmp_path / "notes.md").write_text("# Notes")
    (tmp_path / "base.yaml").write_text("schema: 1\nextends: notes.md\n")
    with pytest.raises(SpecError, match=r"^base.yaml:2: extends: notes.md is there, but is no YAML spec"):
        document.load("base.yaml", "experiments")


@pytest.mark.parametrize("kind", registry.FOLDERS)
def test_every_option_of_a_component_is_explained(kind):
    for name in registry.names(kind):
        config = registry.component(kind, name).Config
        assert explained.options(config).keys() == config.model_fields.keys(), f"{kind} {name}"
        assert all(len(text) > 2 for text in explained.options(config).values()), f"{kind} {name}"


@pytest.mark.parametrize("spec", [ModelSpec, ExperimentSpec, StudySpec])
def test_every_key_in_the_schema_is_explained(spec):
    schema = json_schema(spec)
    for name, definition in [(spec.__name__, schema), *schema["$defs"].items()]:
        for each in [definition, *definition.get("oneOf", [])]:
            for key, value in each.get("properties", {}).items():
                described = "description" in value or all("description" in one for one in value.get("anyOf", [{}]))
                assert described or key == "type", (name, each.get("title"), key)
    assert json.dumps(schema)


def test_an_explanation_ends_where_the_next_begins():
    class Config:
        """One line that names no option: it is none.

        a, b: of both; c: the third, as in xa: y. `d`: the last.
        """

        model_fields = dict.fromkeys("abcde")

    for name in Config.model_fields:
        Config.model_fields[name] = type("Field", (), {"alias": None})
    said = explained.options(Config)
    assert said["a"] == said["b"] == "of both" and said["d"] == "the last" and "e" not in said
    assert said["c"].startswith("the third") and said["c"].endswith("xa: y")
