"""The one command: it starts fast, has every command of the packages, and tells kinds of specs apart."""

import importlib
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

import archbench
from arch import registry
from arch.errors import SpecError
from experiments import doctor

ROOT = Path(__file__).parent.parent
SCRIPT = str(Path(sys.executable).with_name("archbench"))


def names(app):
    return {each.name or each.callback.__name__.replace("_", "-") for each in app.registered_commands}


def test_the_help_of_it_imports_nothing_heavy():
    code = (
        "import sys, archbench\nsys.argv = ['archbench', '--help']\n"
        "try:\n    archbench.main()\nfinally:\n"
        "    print([name for name in ('torch', 'pandas', 'matplotlib', 'optuna', 'lightning') if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout.strip().endswith("[]") and "doctor" in run.stdout


def test_every_command_of_a_package_is_in_it():
    study, own = names(archbench.study), names(archbench.app)
    assert names(importlib.import_module("sweeps.__main__").app) - {"schema"} <= study
    for package in ("arch", "experiments", "analysis"):
        assert names(importlib.import_module(f"{package}.__main__").app) <= own, package


@pytest.mark.parametrize(
    "command, said",
    [
        (["archive", "x"], "No such command 'archive' here; there is `archbench study archive`."),
        (["study", "encode", "x"], "No such command 'encode' here; there is `archbench encode`."),
        (["study", "shw"], "No such command 'shw'. Did you mean 'show'?"),
        (["frobnicate"], "No such command 'frobnicate'."),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, list) else "",
)
def test_a_command_of_another_group_is_pointed_at(command, said, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["archbench", *command])
    with pytest.raises(SystemExit) as end:
        archbench.main()
    assert end.value.code == 2 and said in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    "reference, kind",
    [
        ("gemma3/27b", "model"),
        ("arch/small/gemma3", "model"),
        ("tiny_gemma3", "experiment"),
        ("experiments/tiny_gemma3", "experiment"),
        ("gemma3/local_global", "study"),
        ("sweeps/gemma3/local_global", "study"),
    ],
)
def test_a_shipped_spec_is_of_the_kind_of_its_folder(reference, kind):
    assert archbench._kind(reference) == kind


@pytest.mark.parametrize(
    "text, kind",
    [
        ("schema: 1\nextends: gemma3/1b\ndim: 64\n", "model"),
        ("schema: 1\nextends: gemma3/1b\n", "model"),
        ("schema: 1\nextends: experiments/tiny_gemma3\n", "experiment"),
        ("schema: 1\nextends: experiments/tiny_gemma3\ntrain: {steps: 3}\n", "experiment"),
        ("schema: 1\nextends: experiments/tiny_gemma3\narms: {a: {}}\n", "study"),
        ("schema: 1\nextends: sweeps/gemma3/local_global\ntrain: {steps: 3}\n", "study"),
        ("schema: 1\nextends: nothing/there\ntrain: {steps: 3}\n", "experiment"),
        ("schema: 1\nextends: itself.yaml\n", "model"),
        ("schema: 1\n", "model"),
    ],
)
def test_a_file_is_of_the_kind_of_its_keys_or_of_what_it_extends(text, kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("itself.yaml").write_text(text)
    assert archbench._kind("itself.yaml") == kind


def test_an_unknown_name_shows_the_nearest_of_all_kinds():
    with pytest.raises(SpecError, match="did you mean 'gemma3/local_global'"):
        archbench._kind("gemma3/local_globe")


def test_show_shows_each_kind(capsys):
    for reference, text in (("tiny_gemma3", "one run: "), ("small/gemma3", "vocabulary 4,096"), ("gemma3/local_global", "5:1")):
        archbench.show(reference)
        assert text in capsys.readouterr().out


def test_list_and_schema_show_every_kind_of_component(capsys):
    archbench.list_()
    shown = capsys.readouterr().out
    schemas = {}
    for spec in ("experiment", "study"):
        archbench.schema(spec)
        schemas |= json.loads(capsys.readouterr().out)["$defs"]
    for kind in registry.FOLDERS:
        for name in registry.names(kind):
            assert f"{kind} {name}" in shown
            assert name in [branch["title"] for branch in schemas[kind]["oneOf"]]


@pytest.mark.slow
def test_components_of_ones_own_are_found_in_the_working_folder(tmp_path):
    """As with `python -m`: an installed script would else look beside itself."""
    (tmp_path / "own.py").write_text("from arch.mixers.rg_lru import RGLRU as Base\nfrom arch.registry import mixer\n")
    with (tmp_path / "own.py").open("a") as file:
        file.write("\n\n@mixer\nclass Own(Base):\n    pass\n")
    spec = "schema: 1\nextends: small/recurrentgemma\nblocks: {recurrent: {mixer: {type: own:Own}}}\n"
    (tmp_path / "spec.yaml").write_text(spec)
    done = subprocess.run([SCRIPT, "show", "spec.yaml"], cwd=tmp_path, check=False, capture_output=True, text=True)
    assert done.returncode == 0 and "recurrent" in done.stdout, done.stderr


def test_what_is_wrong_is_one_message_and_code_two(tmp_path):
    done = subprocess.run([SCRIPT, "study", "show", "nothing"], cwd=tmp_path, check=False, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith("no shipped spec 'nothing'")


def test_the_doctor_says_in_some_ten_lines_what_is_there(monkeypatch, tmp_path):
    (tmp_path / "tokens").mkdir()
    (tmp_path / "tokens" / "a").write_bytes(bytes(2000))
    monkeypatch.setenv("ARCHBENCH_CACHE", str(tmp_path))
    monkeypatch.setattr(doctor, "_installed", lambda name: name != "datasets")
    found = dict(doctor.findings())
    assert 8 <= len(found) <= 12 and all("\n" not in text for text in found.values())
    assert found["missing"].startswith("hub (datasets)") and found[""] == "to install one: pip install -e '.[hub]'"
    assert "parity" in found["extras"] and "hub" not in found["extras"]
    assert "corpora 2.00\N{NO-BREAK SPACE}kB" in found["caches"] and f"rm -r {tmp_path}" in found["caches"]
    assert "rms_norm" in found["kernels"]


def test_the_doctor_names_why_a_kernel_is_plain(monkeypatch):
    monkeypatch.setenv("ARCHBENCH_NATIVE", "0")
    assert "ARCHBENCH_NATIVE=0" in dict(doctor.findings())["kernels"]


def test_a_cache_reads_the_same_before_and_after_its_runs(tmp_path, capsys, monkeypatch):
    """`show` of the experiment, `study show` and the report print one size in one way."""
    from rich.console import Console

    from analysis.report import write_report
    from arch import cost, document, units
    from arch.show import costs as costs_table
    from sweeps import study
    from sweeps.record import ArmRecord, StudyRecord

    monkeypatch.setenv("COLUMNS", "200")
    spec, arms = study.check(document.load("gemma3/local_global", "sweeps"), "demo")
    costs = {arm.label: study.arm_cost(arm.spec, spec.long_context) for arm in arms}
    size = units.size(costs["5:1"]["long"]["cache_bytes"])
    assert size.endswith("MB")
    archbench.sweeps.show("gemma3/local_global", "demo", False)
    assert size in capsys.readouterr().out
    model = next(arm.spec.model for arm in arms if arm.label == "5:1")
    Console(width=200).print(costs_table(model, "5:1", cost.summary(model, spec.long_context)))
    assert size in capsys.readouterr().out
    recorded = {label: ArmRecord(changes={}, cost=each, identity=label, runs={}) for label, each in costs.items()}
    StudyRecord(
        name="s", scale=None, question="?", arms=recorded, seeds=[0], spec={}, claim={}, long_context=spec.long_context
    ).write(tmp_path)
    assert size in write_report(tmp_path).read_text()


IDLE = """schema: 1
extends: experiments/tiny_gemma3
model: {layers: 3, blocks: {local: {mixer: {window: 256}}}}
"""


def test_show_warns_of_what_has_no_effect(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("idle.yaml").write_text(IDLE)
    archbench.show("idle.yaml")
    window = "model.blocks.local.mixer.window: 256 is not shorter than the context of 256 tokens, so the window does nothing"
    pattern = "model.pattern: it has 6 layers and the model 3, so no layer is 'global'"
    shown = capsys.readouterr().out.splitlines()
    assert f"warning: {window}" in shown and f"warning: {pattern}" in shown
    archbench.show("idle.yaml", as_json=True)
    shown = capsys.readouterr()
    assert json.loads(shown.out)["model"]["layers"] == 3 and f"warning: {window}" in shown.err.splitlines()
    Path("model.yaml").write_text("schema: 1\nextends: small/gemma3\n")
    archbench.show("model.yaml", context=16)
    assert "warning: blocks.local.mixer.window: " in capsys.readouterr().out
    archbench.show("model.yaml", context=16, as_json=True)
    assert len(json.loads(capsys.readouterr().out)["remarks"]) == 1


def test_show_of_a_study_warns_of_arms_that_are_the_same(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    window = "model.blocks.local.mixer.window"
    arms = f"{{a: {{}}, wide: {{{window}: 256}}, wider: {{{window}: 300}}, twin: {{train.steps: 1000}}}}"
    Path("s.yaml").write_text(f"schema: 1\nextends: experiments/tiny_gemma3\nquestion: Which?\narms: {arms}\n")
    archbench.show("s.yaml")
    shown = [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning: ")]
    assert [line.partition(": ")[2].partition(":")[0] for line in shown[:2]] == ["arm 'wide'", "arm 'wider'"]
    same = f"arms 'wide' and 'wider' compute the same, up to rounding: {window} makes no difference"
    assert shown[2] == f"warning: {same} in a context of 256 tokens"
    assert shown[3:] == ["warning: arms 'a' and 'twin' resolve to the same experiment and share their runs"]


def test_diff_tells_default_null_and_absent_apart(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    base = "schema: 1\nextends: experiments/tiny_gemma3\n"
    Path("a.yaml").write_text(base)
    Path("b.yaml").write_text(f"{base}optimizer: {{clip: null}}\nmodel: {{blocks: {{local: {{mixer: {{rope: null}}}}}}}}\n")
    archbench.diff("a.yaml", "b.yaml")
    shown = capsys.readouterr().out
    assert "optimizer.clip: 1 -> null\n" in shown
    assert "model.blocks.local.mixer.rope: {theta: 10000, scale: 1, fraction: 1} -> null\n" in shown
    one = "schema: 1\ndim: 16\nvocab_size: 40\nlayers: 2\npattern: [a]\n"
    one += "blocks: {a: {mixer: {type: attention, heads: 2, window: 4}}}\n"
    Path("one.yaml").write_text(one)
    Path("other.yaml").write_text("schema: 1\nextends: one.yaml\nblocks: {a: {mixer: {type: rg_lru, blocks: 2}}}\n")
    archbench.diff("one.yaml", "other.yaml")
    mixer = "blocks.a.mixer"
    lines = [f"{mixer}.type: attention -> rg_lru", f"{mixer}.heads: 2 -> \N{EN DASH}", f"{mixer}.window: 4 -> \N{EN DASH}"]
    lines += [f"{mixer}.bias: false -> true", f"{mixer}.blocks: \N{EN DASH} -> 2"]
    assert capsys.readouterr().out.splitlines() == lines


def test_every_component_says_what_it_is_and_so_do_list_and_schema():
    from rich.console import Console

    from arch import registry
    from arch.schema import json_schema
    from arch.show import components
    from experiments.spec import ExperimentSpec

    branches = {kind: {} for kind in registry.FOLDERS}
    for kind, choice in json_schema(ExperimentSpec)["$defs"].items():
        branches[kind] = {each["title"]: each.get("description") for each in choice.get("oneOf", ())}
    console = Console(width=200, record=True, file=io.StringIO())
    for package in ("arch", "experiments", "sweeps"):
        for shown in components(package):
            console.print(shown)
    listed = " ".join(console.export_text().split())
    for kind in registry.FOLDERS:
        for name in registry.names(kind):
            purpose = registry.purpose(registry.component(kind, name))
            assert len(purpose) > 10, f"{kind} {name} has no docstring"
            assert f"{kind} {name}: {purpose[:40]}" in listed
            assert kind == "claim" or branches[kind][name] == purpose
