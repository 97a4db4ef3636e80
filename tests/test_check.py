"""A model that is not what it says is refused before anything is trained; `archbench check` says what is wrong with it."""

import importlib
import shutil
import sys
from pathlib import Path

import pytest

import archbench
from arch import cli
from arch.document import assignments, node, overridden
from experiments import costs, plan, probes
from sweeps import study

RUN = """\
schema: 1
model:
  dim: 16
  vocab_size: 300
  layers: 2
  pattern: [local, mine]
  blocks:
    local: {mixer: {type: attention, heads: 2, window: 4}, ffn: {type: gated, hidden: 8}}
    mine:
      like: local
      mixer: {type: own_cheats:Leak}
data:
  source: {type: text, files: [texts.jsonl], field: text}
  tokenizer: {type: byte}
  context: 32
  rows: 2
optimizer: {lr: 1e-3}
train: {steps: 2}
"""
STUDY = (
    RUN.replace("pattern: [local, mine]", "pattern: [local]")
    + """\
question: Does a look ahead help?
arms:
  blind: {}
  seeing: {model.pattern: [local, mine]}
seeds: 2
"""
)
NEEDY = """\
from torch import nn
from arch.registry import mixer
from arch.spec import Count, Spec


@mixer
class Needy(nn.Module):
    class Config(Spec):
        width: Count
"""
README = Path(__file__).parent.parent / "README.md"
MESSAGE = "model.blocks.mine.mixer: own_cheats:Leak says causal, but token 1 changes the output at 0"


@pytest.fixture
def folder(plugins, monkeypatch, corpus_file):
    """A working folder with the plug-ins of the tests, a run, a study and their texts."""
    shutil.copy(corpus_file, plugins / "texts.jsonl")
    (plugins / "run.yaml").write_text(RUN)
    (plugins / "study.yaml").write_text(STUDY)
    monkeypatch.chdir(plugins)
    return plugins


@pytest.fixture
def archbench_(capsys, monkeypatch):
    """A function of the arguments of `archbench`: (exit code, stdout, stderr)."""
    monkeypatch.setenv("COLUMNS", "200")

    def ended(*arguments):
        monkeypatch.setattr(sys, "argv", ["archbench", *arguments])
        with pytest.raises(SystemExit) as end:
            cli.main(archbench.app, "archbench")
        return end.value.code, *capsys.readouterr()

    return ended


@pytest.mark.parametrize(
    "command, where",
    [
        (["run", "run.yaml"], "run.yaml:11"),
        (["show", "run.yaml"], "run.yaml:11"),
        (["study", "run", "study.yaml"], "study.yaml:11"),
        (["study", "show", "study.yaml"], "study.yaml:11"),
        (["show", "study.yaml"], "study.yaml:11"),
    ],
)
def test_a_mixer_that_peeks_is_refused_at_its_line(command, where, folder, archbench_):
    before = sorted(path for path in folder.rglob("*") if "__pycache__" not in path.parts)
    assert archbench_(*command) == (2, "", f"{where}: {MESSAGE}\n")
    assert sorted(path for path in folder.rglob("*") if "__pycache__" not in path.parts) == before


def test_a_model_of_it_is_not_shown_either(folder, archbench_):
    (folder / "model.yaml").write_text("schema: 1\ndim: 16\nvocab_size: 40\nlayers: 1\npattern: [b]\n"
                                       "blocks: {b: {mixer: {type: own_cheats:Leak}}}\n")  # fmt: skip
    code, _, said = archbench_("show", "model.yaml")
    assert code == 2 and said.startswith("model.yaml:6: blocks.b.mixer: own_cheats:Leak says causal, but")


def test_an_ffn_that_mixes_tokens_is_refused(folder, archbench_):
    honest = "mixer: {type: own_cheats:Leak}"
    (folder / "run.yaml").write_text(RUN.replace(honest, "ffn: {type: own_cheats:Mixing}"))
    code, _, said = archbench_("run", "run.yaml")
    where = "run.yaml:11: model.blocks.mine.ffn"
    assert code == 2 and f"{where}: own_cheats:Mixing must work on each token alone, but token 0 changes the output at 1" in said


@pytest.mark.parametrize("changed", [{}, {"evaluate": {"report_rows": 3}}], ids=["the same", "another measurement"])
def test_what_passed_is_not_run_again_in_another_process(changed, tiny, monkeypatch, tmp_path):
    monkeypatch.setenv("ARCHBENCH_CACHE", str(tmp_path))
    complete = plan.resolved(node(tiny))
    asked = []
    monkeypatch.setattr(probes.probe_model, "check_causal", lambda *given: asked.append(given) or [])
    probes.check(complete.spec, complete.document)
    probes.check(plan.resolved(node(tiny | changed)).spec, complete.document)
    assert len(asked) == 1
    wider = plan.resolved(overridden(node(tiny), assignments(["model.dim=32"])))
    probes.check(wider.spec, wider.document)
    assert len(asked) == 2


def test_what_failed_is_asked_again(folder, archbench_):
    for _ in range(2):
        assert archbench_("run", "run.yaml")[0] == 2


def test_a_changed_source_is_asked_again(folder, monkeypatch, tmp_path):
    honest = RUN.replace("own_cheats:Leak}", "own_cheats:Honest}")
    monkeypatch.setenv("ARCHBENCH_CACHE", str(tmp_path / "cache"))
    (folder / "honest.yaml").write_text(honest)
    asked = []
    monkeypatch.setattr(probes.probe_model, "check_components", lambda *given: asked.append(given) or [])
    load = importlib.import_module("arch.document").load
    for text in ("", "", "\n# changed\n"):
        with (folder / "own_cheats.py").open("a") as file:
            file.write(text)
        plan.probed(plan.resolved(load("honest.yaml", "experiments")))
    assert len(asked) == 2 and costs.sources()


@pytest.mark.parametrize("causal", [True, False])
def test_a_model_that_says_it_is_causal_is_asked_whatever_its_objective(causal, folder, tiny, monkeypatch, tmp_path):
    monkeypatch.setenv("ARCHBENCH_CACHE", str(tmp_path / "cache"))  # that of all tests may know it from another time
    asked = []
    monkeypatch.setattr(probes.probe_model, "check_causal", lambda *given: asked.append(given) or [])
    blocks = {"seen": {"mixer": {"type": "attention", "heads": 2 if causal else 4, "causal": causal}}}
    model = {**tiny["model"], "pattern": ["seen"], "blocks": blocks}
    data = {**tiny, "objective": {"type": "own_objective:WithAccuracy"}, "model": model, "evaluate": {"report": {}}}
    plan.probed(plan.resolved(node(data)))
    assert len(asked) == causal


def test_every_arm_and_helper_run_is_asked(folder, monkeypatch):
    asked = []
    monkeypatch.setattr(probes, "check", lambda spec, root: asked.append(spec.model.pattern) or [])
    honest = STUDY.replace("own_cheats:Leak", "own_cheats:Honest")
    (folder / "study.yaml").write_text(honest + "runs: {warm: {model.pattern: [mine]}}\n")
    load = importlib.import_module("arch.document").load
    study.check(load("study.yaml", "sweeps"))
    assert asked == [("local",), ("local", "mine"), ("mine",)]


# --- archbench check


def test_check_says_in_words_what_a_component_does(folder, archbench_):
    code, shown, _ = archbench_("check", "own_ffn:SquaredReLU")
    assert code == 0 and "works on each token alone" in shown and "it does what it says" in shown and "FAIL" not in shown
    code, shown, _ = archbench_("check", "own_cheats:Leak", "--context", "40")
    assert code == 1 and "FAIL: says causal, but token 1 changes the output at 0" in shown
    assert "keeps the shape and the type of its input" in shown and "checks failed" in shown


def test_the_readmes_mixer_passes(folder, archbench_):
    section = README.read_text().partition("## A mixer of your own")[2]
    (folder / "my_mixers.py").write_text(section.partition("```python\n")[2].partition("```")[0])
    assert "archbench check my_mixers:MovingAverage" in section
    code, shown, _ = archbench_("check", "my_mixers:MovingAverage", "--dim", "16")
    assert code == 0 and "2 sets of options: defaults; decay=0.5" in shown and "remark" not in shown


def test_check_takes_options_and_every_example_without(folder, archbench_):
    code, shown, _ = archbench_("check", "attention", "--set", "heads=2", "--set", "window=4", "--dim", "16", "--context", "40")
    assert code == 0 and "1 set of options: heads=2, kv_heads=2, window=4" in shown
    code, shown, _ = archbench_("check", "gated", "--dim", "8", "--context", "16")
    assert code == 0 and "3 sets of options" in shown
    code, shown, _ = archbench_("check", "own_cheats:Leak", "--set", "how=the window", "--dim", "8", "--context", "16")
    assert code == 1 and "says that it sees at most 2 tokens back, but token 0 changes the output at 3" in shown


def test_check_remarks_on_what_is_unusual_without_failing(folder, archbench_):
    code, shown, _ = archbench_("check", "own_cheats:Honest", "--set", "how=every second token", "--dim", "8", "--context", "16")
    assert code == 0 and "remark: says that the output at 1 may depend on token 0, but it does not" in shown


COSTLESS = "own_cheats:Valued cannot be costed: its {} needs the values of tensors (.item()) or makes tensors on another device"


@pytest.mark.parametrize("how", ["a number", "a choice", "a tensor on the CPU", "at its start"])
def test_what_cannot_be_costed_is_one_line_at_its_key(how, folder, archbench_):
    mine = f"ffn: {{type: own_cheats:Valued, how: {how}}}"
    (folder / "run.yaml").write_text(RUN.replace("mixer: {type: own_cheats:Leak}", mine))
    words = COSTLESS.format("__init__" if how == "at its start" else "forward")
    for command in ("run", "show"):
        code, shown, said = archbench_(command, "run.yaml")
        assert code == 2 and not shown and said.count("\n") == 1
        assert said.startswith(f"run.yaml:11: model.blocks.mine.ffn: {words}, at own_cheats.py:")
    code, shown, _ = archbench_("check", "own_cheats:Valued", "--set", f"how={how}", "--dim", "8", "--context", "16")
    assert code == 1 and words.partition(" ")[2] in " ".join(
        part for line in shown.splitlines() for part in line.replace("│", " ").split()
    )
    code, shown, _ = archbench_("check", "own_cheats:Valued", "--set", "how=nothing", "--dim", "8", "--context", "16")
    assert code == 0 and "can be costed" in shown


def test_check_says_what_it_did_not_check(folder, archbench_):
    ahead = ["--set", "heads=2", "--set", "causal=false", "--dim", "16", "--context", "20"]
    code, shown, _ = archbench_("check", "attention", *ahead)
    lines = {
        words.strip(): result.strip() for _, words, result, *_ in (line.split("│") for line in shown.splitlines() if "│" in line)
    }
    assert code == 0 and lines["reads a row in chunks as at once"] == "not checked: it sees ahead and has no state"
    assert lines["keeps streams apart"].startswith("not checked: ") and lines["keeps the rows of a batch apart"] == "pass"


@pytest.mark.parametrize(
    "arguments, message",
    [
        (
            ["nothing"],
            "quantiser 'nothing'; known: attention, merged_attention, rg_lru, short_convolution, gated, pool/attention, ",
        ),
        (["no_such:Thing"], "no module 'no_such' can be imported from here"),
        (["own_cheats:Nope"], "own_cheats has no class marked @mixer, @ffn, @pool, @cross or @quantiser named Nope"),
        (["own_cheats:"], "classes marked @mixer; expected one"),
        (["own_objective:WithAccuracy"], "own_objective has no class marked @mixer, @ffn, @pool, @cross or @quantiser"),
        (["broken:Thing"], "broken cannot be imported: SyntaxError"),
        (["attention", "--set", "heads=3"], "attention with heads=3, kv_heads=3 cannot be built in width 64: heads: 3 does not"),
        (["attention", "--set", "heds=3"], "--set heds=3: heds: unknown key; did you mean 'heads'"),
        (["attention", "--set", "heads"], "--set heads: expected KEY=VALUE"),
        (["needy:Needy"], "needy:Needy: width: missing; this key is required; say --set KEY=VALUE"),
    ],
)
def test_check_of_what_is_not_there_is_bad_input(arguments, message, folder, archbench_):
    (folder / "broken.py").write_text("def f(:\n")
    (folder / "needy.py").write_text(NEEDY)
    code, shown, said = archbench_("check", *arguments)
    assert code == 2 and not shown and message in said, said
