"""The README is true: its commands, targets and links exist, and its examples run from start to end."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import archbench
from arch import registry
from arch.errors import SpecError

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
# A spec that extends the README's study, as a user would write it, and makes it small.
SMALL = """\
extends: with_ema.yaml
model:
  dim: 16
  vocab_size: 320
  layers: 6
  blocks: {local: {mixer: {heads: 1, head_dim: 16}, ffn: {hidden: 16}}}
data: {tokenizer: {vocab_size: 320}, context: 32, rows: 2}
train: {steps: 3}
evaluate: {every: 3, select_rows: 2, report_rows: 2, sample_tokens: 4}
seeds: 2
"""


def test_every_command_of_the_readme_exists():
    commands = set(re.findall(r"archbench (study )?([a-z][a-z-]*)", README))
    assert len(commands) >= 12
    own, study = (
        {each.name or each.callback.__name__ for each in app.registered_commands} for app in (archbench.app, archbench.study)
    )
    for group, command in commands:
        assert command in (study if group else own | {"study"}), f"archbench {group}{command}"


def test_every_make_target_of_the_readme_exists():
    makefile = (ROOT / "Makefile").read_text()
    for target in set(re.findall(r"make ([a-z-]+)", README)):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_every_file_the_readme_links_to_exists():
    for link in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / link).exists(), link


@pytest.mark.parametrize("decay", [0, 1])
def test_the_readmes_mixer_refuses_a_decay_that_it_cannot_take_the_logarithm_of(decay, tmp_path, monkeypatch):
    section = README[README.index("## A mixer of your own") :]
    (tmp_path / "readme_mixer.py").write_text(re.search(r"```python\n(.*?)```", section, re.DOTALL)[1])
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(SpecError, match="decay: should be"):
        registry.component("mixer", "readme_mixer:MovingAverage").Config.parse({"decay": decay})


@pytest.mark.slow
def test_the_readmes_mixer_gets_a_study_and_a_row_in_its_table(tmp_path):
    section = README[README.index("## A mixer of your own") :]
    mixer = re.search(r"```python\n(.*?)```", section, re.DOTALL)[1]
    study = re.search(r"```yaml\n# with_ema.yaml\n(.*?)```", section, re.DOTALL)[1]
    assert len(mixer.splitlines()) <= 40
    (tmp_path / "my_mixers.py").write_text(mixer)
    (tmp_path / "with_ema.yaml").write_text(study)
    (tmp_path / "small.yaml").write_text(SMALL)

    def run(*arguments):
        command = [sys.executable, "-m", *arguments]
        return subprocess.run(
            command, cwd=tmp_path, check=False, capture_output=True, text=True, env={**os.environ, "COLUMNS": "200"}
        )

    shown = run("sweeps", "show", "with_ema.yaml")
    assert shown.returncode == 0 and "10 ema, 2 global" in shown.stdout, shown.stdout + shown.stderr
    done = run("sweeps", "run", "small.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    table = run("analysis", "table", "runs/small/base", "--format", "csv")
    assert [line.split(",")[0] for line in table.stdout.splitlines()[1:]] == ["window", "ema"], table.stdout
    again = run("sweeps", "run", "small.yaml")
    assert again.returncode == 0 and "all 4 runs are finished already" in again.stdout


def block(text, language, first):
    """The fenced block of `text` whose first line is `# first`."""
    return re.search(rf"```{language}\n(# {re.escape(first)}\n.*?)```", text, re.DOTALL)[1]


def _fine_tuned(place, spec):
    """Run the README's fine-tuning for two steps on two hundred notes."""
    (place / "notes").mkdir()
    for i in range(200):
        (place / "notes" / f"{i}.txt").write_text(f"Note {i}. " + README[40 * i :][:600])
    (place / "finetune.yaml").write_text(spec)
    smaller = ("train.steps=2", "data.rows=2", "data.context=64", "evaluate.report_rows=2", "evaluate.select_rows=2")
    words = [word for change in smaller for word in ("--set", change)]
    command = [sys.executable, str(ROOT / "archbench.py"), "run", "finetune.yaml", *words]
    done = subprocess.run(command, cwd=place, check=False, capture_output=True, text=True)
    assert done.returncode == 0 and "report/loss" in done.stdout, done.stdout + done.stderr


@pytest.mark.slow
def test_the_readmes_random_gemma_comes_in_writes_and_goes_out(tmp_path):
    """Run the README's commands unchanged, one after the other."""
    section = README[README.index("## Real weights") : README.index("## What is where")]
    commands = re.search(r"```\n(.*?)```", section, re.DOTALL)[1].splitlines()
    assert len(commands) == 5
    bin_folder = str(Path(sys.executable).parent)
    for command in commands:
        environment = {**os.environ, "PATH": f"{bin_folder}:{os.environ['PATH']}"}
        done = subprocess.run(command, shell=True, cwd=tmp_path, check=False, capture_output=True, text=True, env=environment)
        assert done.returncode == 0, f"{command}\n{done.stderr}"
    _fine_tuned(tmp_path, block(section, "yaml", "finetune.yaml"))
    assert sorted(path.name for path in (tmp_path / "mine").iterdir()) == [
        "generation_config.json",
        "model.safetensors",
        "model.sha256",
        "spec.yaml",
        "tokenizer.json",
    ]
    from transformers import AutoModelForCausalLM

    assert AutoModelForCausalLM.from_pretrained(tmp_path / "back").config.sliding_window == 32


def test_the_documents_new_family_is_a_table_and_a_spec(tmp_path, monkeypatch):
    """A small Gemma 1, made by the code in docs/checkpoints.md, gives the logits of `transformers`."""
    import torch
    from transformers import GemmaConfig, GemmaForCausalLM

    from arch import hf

    text = (ROOT / "docs" / "checkpoints.md").read_text()
    (tmp_path / "my_families.py").write_text(block(text, "python", "my_families.py"))
    (tmp_path / "gemma1.yaml").write_text(block(text, "yaml", "gemma1.yaml"))
    blocks = "blocks: {layer: {mixer: {heads: 4, head_dim: 8}, ffn: {hidden: 48}}}"
    (tmp_path / "small.yaml").write_text(f"extends: gemma1.yaml\ndim: 32\nvocab_size: 61\nlayers: 3\n{blocks}\n")
    monkeypatch.syspath_prepend(tmp_path)
    sizes = {"hidden_size": 32, "vocab_size": 61, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 1}
    theirs = GemmaForCausalLM(GemmaConfig(**sizes, head_dim=8, intermediate_size=48)).eval()
    with torch.no_grad():
        for weight in theirs.parameters():
            weight.normal_(0, 0.4)
    theirs.save_pretrained(tmp_path / "gemma1")
    with pytest.raises(ValueError, match="no family knows the model_type 'gemma'"):
        hf.find(tmp_path / "gemma1", str(tmp_path / "small.yaml"))
    mine = hf.load(tmp_path / "gemma1", str(tmp_path / "small.yaml"), family="my_families")
    tokens = torch.arange(40).view(2, 20)
    with torch.no_grad():
        torch.testing.assert_close(mine(tokens), theirs(tokens).logits, rtol=1e-4, atol=1e-4)
