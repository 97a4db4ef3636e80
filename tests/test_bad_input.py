"""Mistakes in a study or a checkpoint: exit code 2, one message that says where and what, no traceback, no files.

The cases are written as a user would write them and go through the entry point of `python -m sweeps`. For speed they
run in this process; `test_a_real_process` shows that a real process behaves the same. Mistakes inside a model's spec
are tested in tests/arch/test_bad_spec.py.
"""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from arch import cli

STUDY = """\
schema: 1
question: Is it?
model:
  dim: 16
  vocab_size: 300
  layers: 2
  pattern: [local, global]
  blocks:
    local:
      mixer: {type: attention, heads: 2, kv_heads: 1, head_dim: 8, window: 4}
      ffn: {type: gated, hidden: 8}
    global: {like: local, mixer: {window: null}}
data:
  source: {type: text, files: [texts.jsonl], field: text}
  tokenizer: {type: byte}
  context: 32
  rows: 2
optimizer: {lr: 1e-3}
train: {steps: 2}
evaluate: {every: 1, select_rows: 1, report_rows: 1, sample_tokens: 0}
arms:
  both: {}
  local-only: {model.pattern: [local]}
seeds: 1
scales:
  tiny: {train.steps: 1}
"""
MIXER = "{type: attention, heads: 2, kv_heads: 1, head_dim: 8, window: 4}"


def line(number, text, more=""):
    """STUDY with line `number` replaced by `text`, and `more` added at the end."""
    lines = STUDY.splitlines()
    lines[number - 1] = text
    return "\n".join(lines) + "\n" + more


def mixer(text):
    """STUDY with the local mixer (line 10) replaced."""
    return STUDY.replace(MIXER, text)


TUNE = "tune: {space: {optimizer.lr: {low: %s, high: %s, points: 2}}}\n"

# name: (text of study.yaml, what the message must contain: where the mistake is, then what it is)
BAD = {
    "unknown key at the top": (STUDY + "sedes: 3\n", "study.yaml:27: sedes: unknown key; did you mean 'seeds'"),
    "a dotted key at the top": (
        STUDY + "model.dim: 8\n",
        "study.yaml:27: model.dim: unknown key; write `model: {dim: ...}`: dots are for",
    ),
    "a comparison with an unknown arm": (
        STUDY + "compare: [[both, local]]\n",
        "study.yaml:27: compare.0.1: no arm 'local'; did you mean 'local-only'",
    ),
    "factors without a grid": (STUDY + "compare: factors\n", "study.yaml:27: compare: expected a `grid` of factors"),
    "a level that is no mapping": (STUDY + "grid: {W: {4: 4, 8: {}}}\n", "study.yaml:27: grid.W.4: expected a mapping"),
    "sizes that are no mapping": (STUDY + "ladder: {sizes: [s, m]}\n", "study.yaml:27: ladder.sizes: expected a mapping of sizes"),
    "a budget below one step": (
        STUDY + "ladder: {sizes: {s: {model.dim: 16}, m: {model.dim: 32}}, tokens_per_parameter: 0.001}\n",
        "study.yaml:27: ladder.tokens_per_parameter: 0.001 x ",
    ),
    "unknown key of training": (line(19, "train: {stpes: 2}"), "study.yaml:19: train.stpes: unknown key; did you mean 'steps'"),
    "unknown key of the model": (line(6, "  layres: 2"), "study.yaml:6: model.layres: unknown key; did you mean 'layers'"),
    "unknown key of a mixer": (
        mixer(MIXER.replace("window", "windw")),
        "study.yaml:10: model.blocks.local.mixer.windw: unknown key; did you mean 'window'",
    ),
    "unknown key of a source": (
        line(14, "  source: {type: text, fils: [texts.jsonl]}"),
        "study.yaml:14: data.source.fils: unknown key; did you mean 'files'",
    ),
    "unknown key through an arm": (
        line(23, "  local-only: {model.patern: [local]}"),
        "study.yaml:23: model.patern: unknown key; did you mean 'pattern'",
    ),
    "unknown key through a scale": (
        line(26, "  tiny: {trian.steps: 1}"),
        "study.yaml:26: trian: unknown key; did you mean 'train'",
    ),
    "unknown mixer": (mixer("{type: atention, heads: 2}"), "study.yaml:10: model.blocks.local.mixer.type: no mixer 'atention'"),
    "unknown source": (line(14, "  source: {type: txt}"), "study.yaml:14: data.source.type: no source 'txt'"),
    "unknown tokenizer": (line(15, "  tokenizer: {type: bytes}"), "study.yaml:15: data.tokenizer.type: no tokenizer 'bytes'"),
    "unknown objective": (STUDY + "objective: {type: nxt_token}\n", "study.yaml:27: objective.type: no objective 'nxt_token'"),
    "a pattern that names no block": (
        line(7, "  pattern: [lcal]"),
        "study.yaml:7: model.pattern: no block 'lcal'; did you mean 'local'",
    ),
    "a count as text": (line(24, "seeds: '3'"), "study.yaml:24: seeds: expected a whole number, got the text '3'"),
    "a count that is true": (line(17, "  rows: true"), "study.yaml:17: data.rows: expected a whole number, got true"),
    "a count that is NaN": (line(19, "train: {steps: .nan}"), "study.yaml:19: train.steps: .nan is not a finite number"),
    "a rate of 0": (line(18, "optimizer: {lr: 0}"), "study.yaml:18: optimizer.lr: should be greater than 0, got 0"),
    "a percentage for a fraction": (
        STUDY + "schedule: {warmup: 5 %}\n",
        "study.yaml:27: schedule.warmup: expected a number, got the text '5 %'; for 5 % write 0.05",
    ),
    "a percentage for a margin": (
        STUDY + "claims: {quality: {type: against_baseline, margin: 1%}}\n",
        "study.yaml:27: claims.quality.margin: expected a number, got the text '1%'; for 1% write 0.01",
    ),
    "a percentage in a range": (
        STUDY + "tune: {space: {schedule.warmup: {low: 2.5 %, high: 0.1}}}\n",
        "study.yaml:27: tune.space.schedule.warmup.low: expected a number, got the text '2.5 %'; for 2.5 % write 0.025",
    ),
    "a percentage for an optional number": (
        line(18, "optimizer: {lr: 1e-3, clip: 50 %}"),
        "study.yaml:18: optimizer.clip: expected a number, got the text '50 %'; for 50 % write 0.5",
    ),
    "text for a number": (line(18, "optimizer: {lr: fast %}"), "study.yaml:18: optimizer.lr: expected a number, got the text"),
    "a warm-up and a decay that overlap": (
        STUDY + "schedule: {type: wsd, warmup: 0.6, decay: 0.5}\n",
        "study.yaml:27: schedule.decay: warmup + decay = 1.1; expected at most 1",
    ),
    "a tuned whole number between fractions": (
        STUDY + "tune: {space: {model.layers: {low: 0.5, high: 2}}}\n",
        "study.yaml:27: tune.space.model.layers: model.layers holds whole numbers; expected whole numbers for low and high",
    ),
    "arms that differ only in what is tuned": (
        line(23, "  slow: {optimizer.lr: 1e-4}", TUNE % ("1e-3", "1e-2")),
        "study.yaml:23: arms.slow: differs from arm 'both' only in what `tune` chooses for both",
    ),
    "an option that the schedule does not have": (
        STUDY + "schedule: {type: cosine, decay: 0.2}\n",
        "study.yaml:27: schedule.decay: unknown key; known: final, warmup",
    ),
    "an option of a schedule without a type": (
        STUDY + "schedule:\n  warmup: 0.1\n  wramup: 0.1\n",
        "study.yaml:29: schedule.wramup: unknown key; did you mean 'warmup'",
    ),
    "unknown schedule": (
        STUDY + "schedule: {type: cosin}\n",
        "study.yaml:27: schedule.type: no schedule 'cosin'; did you mean 'cosine'",
    ),
    "unknown optimizer": (line(18, "optimizer: {type: adam, lr: 1e-3}"), "study.yaml:18: optimizer.type: no optimizer 'adam'"),
    "no rate": (line(18, "optimizer: {eps: 1e-8}"), "study.yaml:18: optimizer.lr: missing; this key is required"),
    "no optimizer": (line(18, ""), "optimizer.lr: missing; this key is required"),
    "one beta": (
        line(18, "optimizer: {lr: 1e-3, betas: [0.9]}"),
        "study.yaml:18: optimizer.betas: expected two numbers below 1",
    ),
    "kv_heads that does not divide": (
        mixer(MIXER.replace("kv_heads: 1", "kv_heads: 3")),
        "study.yaml:10: model.blocks.local.mixer.kv_heads: 3 does not divide heads = 2",
    ),
    "odd head width": (
        mixer(MIXER.replace("head_dim: 8", "head_dim: 7")),
        "study.yaml:10: model.blocks.local.mixer.head_dim: rotary needs an even number",
    ),
    "a window of 0": (mixer(MIXER.replace("window: 4", "window: 0")), "study.yaml:10: model.blocks.local.mixer.window: should be"),
    "zero layers": (line(6, "  layers: 0"), "study.yaml:6: model.layers: should be greater than or equal to 1, got 0"),
    "extends nothing": (
        STUDY + "extends: experiments/tiny_gema3\n",
        "study.yaml:27: extends: no shipped spec 'experiments/tiny_gema3'",
    ),
    "extends itself": (STUDY + "extends: study.yaml\n", "circular extends: study.yaml -> study.yaml"),
    "like nothing": (
        line(12, "    global: {like: locl}"),
        "study.yaml:12: model.blocks.global.like: no block 'locl'; did you mean 'local'",
    ),
    "like in a circle": (
        line(12, "    global: {like: other}", "").replace("data:\n", "    other: {like: global}\ndata:\n", 1),
        "circular like: global -> other -> global",
    ),
    "no corpus": (
        line(14, "  source: {type: text, files: [nothing.txt]}"),
        "study.yaml:14: data.source: no file matches 'nothing.txt'",
    ),
    "an empty corpus": (
        line(14, "  source: {type: text, files: [empty.txt]}"),
        "study.yaml:14: data.source: the source text has no text at all (skipped: empty files: 1 (empty.txt))",
    ),
    "a binary corpus": (
        line(14, "  source: {type: text, files: [binary.txt]}"),
        "study.yaml:14: data.source: binary.txt: binary, expected UTF-8 text",
    ),
    "a context longer than the corpus": (
        line(16, "  context: 1000000"),
        "study.yaml:16: data.context: context 1,000,000 is longer than",
    ),
    "a vocabulary below the bytes": (
        line(15, "  tokenizer: {type: bpe, vocab_size: 200}"),
        "study.yaml:15: data.tokenizer.vocab_size:",
    ),
    "a model smaller than its tokenizer": (
        line(5, "  vocab_size: 100"),
        "study.yaml:5: model.vocab_size: the tokenizer byte has 259 tokens",
    ),
    "low above high": (
        STUDY + TUNE % ("1e-2", "1e-3"),
        "study.yaml:27: tune.space.optimizer.lr: low = 0.01 must be below high = 0.001",
    ),
    "low equal to high": (
        STUDY + TUNE % ("1e-2", "1e-2"),
        "study.yaml:27: tune.space.optimizer.lr: low = 0.01 must be below high = 0.01",
    ),
    "tuning an unknown key": (STUDY + TUNE.replace("optimizer.lr", "optimizer.rate") % ("1e-3", "1e-2"), "unknown key"),
    "several nodes in a study": (
        line(19, "train: {steps: 2, nodes: 2, strategy: ddp}"),
        "study.yaml:19: train.nodes: 2 nodes, but a run of a study uses one machine",
    ),
    "an unknown strategy": (
        line(19, "train: {steps: 2, strategy: fsdp}"),
        "study.yaml:19: train.strategy: 'fsdp' is not one of them; did you mean 'fsdp2' or 'ddp'",
    ),
    "an unknown accelerator": (line(19, "train: {steps: 2, accelerator: gpuu}"), "study.yaml:19: train.accelerator: 'gpuu' is not"),
    "an unknown metric in a claim": (STUDY + "claim: {metric: report/los}\n", "study.yaml:27: claims.claim.metric: no run of arm"),
    "tuning on the report split": (
        STUDY + TUNE.replace("tune: {", "tune: {metric: report/loss, ") % ("1e-3", "1e-2"),
        "study.yaml:27: tune.metric: expected select/METRIC",
    ),
    "no arms": (
        STUDY.replace("arms:\n  both: {}\n  local-only: {model.pattern: [local]}\n", "arms: {}\n"),
        "arms: expected at least one",
    ),
    "an arm without a name": (
        STUDY.replace("  local-only: {model.pattern", '  " ": {model.pattern'),
        "arms: ' ' cannot be a label; expected one line with letters",
    ),
    "unknown arm in a claim": (STUDY + "claim: {known_worse: [local-onyl]}\n", "no arm 'local-onyl'; did you mean 'local-only'"),
    "duplicate keys": (STUDY + "seeds: 2\n", "study.yaml:27: seeds: duplicate key; first given on line 24"),
    "a list": ("- question\n", "study.yaml:1: the file is a list; expected a mapping of keys"),
    "empty": ("", "study.yaml:1: the file is empty"),
    "broken": ("arms: {a: [1\n", "study.yaml:2: not valid YAML"),
    "over 1 MB": ("# " + "x" * 1_000_000 + "\n", "study.yaml:1: 1,000,003 bytes; a spec may have at most 1,000,000"),
    "nested over 64 deep": ("arms: " + "[" * 70 + "]" * 70 + "\n", "study.yaml:1: nested over 64 levels deep"),
}

BAD |= {
    "a checkpoint that is not there": (STUDY + "init_from: nowhere\n", "study.yaml:27: init_from: nowhere: no checkpoint"),
    "a tokenizer that is not there": (
        line(15, "  tokenizer: {type: file, path: none.json}"),
        "study.yaml:15: data.tokenizer.path: none.json: No such file",
    ),
}

# name: (arguments of `python -m arch`, what the message must contain)
BAD_CHECKPOINTS = {
    "import of nothing": (["import", "nowhere", "out"], "nowhere: no such file or folder"),
    "import of a hub's name": (["import", "google/gemma-3-1b-pt", "out"], "hf download google/gemma-3-1b-pt"),
    "import of a folder without weights": (["import", ".", "out"], "no .safetensors file in it"),
    "import of what is no weights file": (["import", "binary.txt", "out"], "binary.txt: refused"),
    "import with a misspelt spec": (["import", "w.safetensors", "out", "--spec", "gemma3/1c"], "no shipped spec 'gemma3/1c'"),
    "import with a misspelt family": (["import", "w.safetensors", "out", "--family", "gema3"], "did you mean 'gemma3'"),
    "import without a spec": (["import", "w.safetensors", "out"], "no family knows the names of its tensors"),
    "export of nothing": (["export", "nowhere", "out"], "nowhere: no checkpoint"),
    "generate from nothing": (["generate", "nowhere", "--prompt", "a"], "nowhere: no tokenizer.json in it"),
    "generate without a prompt": (["generate", "nowhere"], "--prompt"),
}

# name: (arguments of `python -m sweeps`, what the message must contain)
BAD_COMMANDS = {
    "unknown study": (["run", "gemma3/local_globl"], "did you mean 'gemma3/local_global'"),
    "missing file": (["run", "nowhere.yaml"], "no such file: nowhere.yaml"),
    "unknown scale": (["run", "study.yaml", "--scale", "tny"], "study.yaml:25: scales: no scale 'tny'; did you mean 'tiny'"),
    "too many workers": (["run", "study.yaml", "--workers", "999"], "--workers 999: at most"),
    "unknown option": (["run", "study.yaml", "--worker", "2"], "--worker"),
    "show of an unknown scale": (["show", "study.yaml", "--scale", "big"], "no scale 'big'"),
}


@pytest.fixture
def folder(tmp_path, monkeypatch, corpus_file):
    """A working folder that contains the study and its corpus."""
    (tmp_path / "texts.jsonl").write_bytes(corpus_file.read_bytes())
    (tmp_path / "empty.txt").write_bytes(b"")
    (tmp_path / "binary.txt").write_bytes(bytes(range(256)) * 40)
    (tmp_path / "study.yaml").write_text(STUDY)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def sweeps(arguments, capsys, monkeypatch, package="sweeps"):
    """(exit code, stderr) of `python -m PACKAGE ARGUMENTS` in this process."""
    app = importlib.import_module(f"{package}.__main__").app
    monkeypatch.setattr(sys, "argv", [package, *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main(app, package)
    return ended.value.code, capsys.readouterr().err


def refused(arguments, message, folder, capsys, monkeypatch, package="sweeps"):
    """Assert that a command ends with code 2 and this message, and writes nothing."""
    before = sorted(folder.rglob("*"))
    code, said = sweeps(arguments, capsys, monkeypatch, package)
    assert code == 2, said
    assert message in said, said
    assert "Traceback" not in said and len(said.splitlines()) <= 8, said
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize("name", BAD)
def test_a_bad_study_is_refused(name, folder, capsys, monkeypatch):
    text, message = BAD[name]
    (folder / "study.yaml").write_text(text)
    refused(["run", "study.yaml"], message, folder, capsys, monkeypatch)


@pytest.mark.parametrize("name", BAD_COMMANDS)
def test_a_bad_command_is_refused(name, folder, capsys, monkeypatch):
    arguments, message = BAD_COMMANDS[name]
    refused(arguments, message, folder, capsys, monkeypatch)


@pytest.mark.parametrize("name", BAD_CHECKPOINTS)
def test_a_bad_checkpoint_is_refused(name, folder, capsys, monkeypatch):
    import torch
    from safetensors.torch import save_file

    save_file({"a": torch.ones(2)}, folder / "w.safetensors")
    arguments, message = BAD_CHECKPOINTS[name]
    if name == "import of a folder without weights":
        (folder / "w.safetensors").unlink()
    refused(arguments, message, folder, capsys, monkeypatch, "arch")


def test_the_good_study_is_good(folder, capsys, monkeypatch):
    code, said = sweeps(["show", "study.yaml", "--json"], capsys, monkeypatch)
    assert code == 0, said


def test_a_real_process(folder):
    (folder / "study.yaml").write_text(line(24, "seeds: zero"))
    run = subprocess.run([sys.executable, "-m", "sweeps", "run", "study.yaml"], check=False, capture_output=True, text=True)
    assert run.returncode == 2 and run.stdout == ""
    assert run.stderr == "study.yaml:24: seeds: expected a whole number, got the text 'zero'\n"


# An error during a run ends that run, and its record says why if a record can be written.


def train_until(tiny, folder, break_it, **kwargs):
    from experiments.plan import plan
    from experiments.train import train

    calls = []

    def stop():
        calls.append(1)
        if len(calls) == 2:
            break_it()
        return False

    return train(plan(tiny), 0, folder, stop=stop, **kwargs)


def test_a_full_disk_ends_the_run_as_failed(tiny, tmp_path, monkeypatch):
    from experiments import checkpoint

    def full(*_):
        raise OSError(28, "No space left on device")

    record = train_until(tiny, tmp_path / "run", lambda: monkeypatch.setattr(checkpoint, "durably", full))
    on_disk = json.loads((tmp_path / "run/record.json").read_text())
    assert record.status == on_disk["status"] == "failed"
    assert "No space left" in on_disk["failure"]["message"] and on_disk["failure"]["step"] >= 2


def test_where_no_record_can_be_written_there_is_a_message(tiny, tmp_path):
    (tmp_path / "runs").write_text("a file where a folder should be")
    record = train_until(tiny, tmp_path / "runs" / "run", lambda: None)
    assert record.status == "failed" and "no record could be written" in record.notes[-1]
    assert (tmp_path / "runs").read_text().startswith("a file")


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes into read-only folders")
def test_a_read_only_folder_ends_the_run_as_failed(tiny, tmp_path):
    (tmp_path / "run").mkdir(mode=0o500)
    record = train_until(tiny, tmp_path / "run", lambda: None)
    assert record.status == "failed" and "no record could be written" in record.notes[-1]


def test_a_corpus_that_vanishes_ends_the_run_as_failed(tiny, tmp_path, corpus_file):
    from experiments.plan import plan
    from experiments.train import train

    own = tmp_path / "own.jsonl"
    own.write_bytes(corpus_file.read_bytes())
    tiny["data"]["source"]["files"] = [str(own)]
    planned = plan(tiny)
    finished = train(planned, 0, tmp_path / "first")
    own.unlink()
    failed = train(planned, 1, tmp_path / "second")
    assert failed.status == "failed" and "own.jsonl" in failed.failure.message
    assert json.loads((tmp_path / "second/record.json").read_text())["status"] == "failed"
    assert train(planned, 0, tmp_path / "first") == finished, "what was finished before is intact"


def test_a_loss_that_is_not_finite_names_step_and_parameters(tiny, tmp_path):
    import torch

    from experiments.module import TrainingModule

    def poison(module, step):
        if step == 3:
            with torch.no_grad():
                module.model.blocks[1].ffn.component.up.weight.fill_(float("nan"))

    original = TrainingModule.training_step

    def step(self, batch, index):
        poison(self, self.global_step)
        return original(self, batch, index)

    from experiments.plan import plan
    from experiments.train import train

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainingModule, "training_step", step)
        record = train(plan(tiny), 0, tmp_path / "run")
    assert record.status == "failed" and record.failure.error == "NonFinite"
    assert record.failure.step == 3 and record.failure.where == "blocks.1.ffn"
    assert record.failure.parameters == ["blocks.1.ffn.component.up.weight"]
    assert Path(tmp_path / "run/record.json").is_file()


def test_weights_that_are_not_finite_after_the_last_step_fail_the_run(tiny, tmp_path):
    from experiments.plan import plan
    from experiments.train import train

    tiny["optimizer"] |= {"lr": 1e36, "weight_decay": 10.0}
    tiny["train"]["steps"] = 1
    tiny["evaluate"] |= {"every": 5, "sample_tokens": 0}
    record = train(plan(tiny), 0, tmp_path / "run")
    assert record.status == "failed" and record.failure.error == "NonFinite" and record.failure.parameters
    assert json.loads((tmp_path / "run/record.json").read_text())["status"] == "failed"


def test_a_broken_record_is_replaced(tiny, tmp_path):
    from experiments.plan import plan
    from experiments.train import train

    (tmp_path / "run").mkdir()
    (tmp_path / "run/record.json").write_text('{"schema": 1, "stat')
    assert train(plan(tiny), 0, tmp_path / "run").status == "finished"
