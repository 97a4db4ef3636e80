"""A user's own mixer: one file, named by its import path, without changes to Archbench."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
MIXER = '''\
"""An exponential moving average a channel, h_t = a h_{t-1} + (1 - a) x_t, then a linear map. R = D."""

import math

import torch
from torch import nn

from arch.kernels.linear_scan import linear_scan
from arch.layers import Linear, constant, parameter
from arch.registry import mixer
from arch.spec import Fraction, Spec


@mixer
class MovingAverage(nn.Module):
    class Config(Spec):
        decay: Fraction = 0.9

        @classmethod
        def examples(cls):
            return [cls(), cls(decay=0.5)]

    causal, state_size = True, "constant"

    def __init__(self, config, context):
        super().__init__()
        self.decay = parameter((context.dim,), "vector", constant(math.log(config.decay / (1 - config.decay))), recurrent=True)
        self.o = Linear(context.dim, context.dim, context, kind="output")

    def init_state(self, batch, capacity, dtype=torch.float32, device=None):
        return torch.zeros(batch, len(self.decay), device=device)

    def mixing_flops(self, layout):
        return 2 * len(self.decay) * layout.doc_BT.numel()

    def forward(self, x_BTD, layout, state=None):
        state = self.init_state(len(x_BTD), 0, device=x_BTD.device) if state is None else state
        a_BTD = self.decay.float().sigmoid() * ~layout.reset_BT[..., None]
        h_BTD = linear_scan(a_BTD, (1 - a_BTD) * x_BTD.float(), state)
        return self.o(h_BTD.to(x_BTD.dtype)), h_BTD[:, -1]
'''
SPEC = """\
dim: 16
vocab_size: 40
layers: 3
pattern: [2*ema, attention]
blocks:
  ema: {mixer: {type: my_mixers.ema, decay: 0.8}, ffn: {type: gated, hidden: 8}}
  attention: {like: ema, mixer: {type: attention, heads: 2}}
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "my_mixers").mkdir()
    (tmp_path / "my_mixers" / "ema.py").write_text(MIXER)
    (tmp_path / "mine.yaml").write_text(SPEC)
    return tmp_path


def run(folder, *arguments, **variables):
    path = os.pathsep.join([str(folder), str(ROOT)])
    env = {**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1", **variables}
    return subprocess.run([sys.executable, "-m", *arguments], cwd=folder, check=False, capture_output=True, text=True, env=env)


def test_a_mixer_of_at_most_40_lines_is_shown_with_its_costs(folder):
    assert len(MIXER.splitlines()) <= 40
    shown = run(folder, "arch", "show", "mine.yaml", "--context", "64", "--json")
    assert shown.returncode == 0, shown.stderr
    cost = json.loads(shown.stdout)
    ema = 16 + 16 * 16 + 2 * 16 + 3 * 16 * 8  # decay, map, two norms, ffn
    assert cost["layers"] == ["ema", "ema", "attention"]
    assert cost["parameters"]["layers"][0] == ema
    assert cost["cache_bytes"]["layers"] == [64, 64, 64 * 2 * 16 * 4]
    forward = 2 * (16 * 16 + 3 * 16 * 8) + 2 * 16
    attention = 2 * (4 * 16 * 16 + 3 * 16 * 8) + 4 * 16 * 64
    assert cost["flops_per_token"]["ideal"]["decode"] == 2 * forward + attention + 2 * 16 * 40
    assert not cost["notes"]


@pytest.mark.slow
def test_the_battery_passes_on_it_and_finds_a_leak(folder):
    """The battery passes for the mixer, and fails for a copy without the reset, which leaks between documents."""
    leaky = MIXER.replace(" * ~layout.reset_BT[..., None]", " + torch.zeros_like(x_BTD.float())")
    (folder / "my_mixers" / "leaky.py").write_text(leaky)
    battery = str(ROOT / "tests" / "arch" / "test_battery.py")
    options = ("-p", "no:cacheprovider", "-c", str(ROOT / "pyproject.toml"), "--tb=no")
    tested = run(folder, "pytest", battery, *options, ARCHBENCH_MIXERS="my_mixers.ema,my_mixers.leaky")
    failed = [line for line in tested.stdout.splitlines() if line.startswith("FAILED")]
    assert failed and all("leaky" in line for line in failed), tested.stdout
    assert any("sees_its_document_only" in line for line in failed)
    assert int(re.search(r"(\d+) passed", tested.stdout)[1]) > 30, tested.stdout


def test_a_misspelt_option_of_it_is_refused(folder):
    (folder / "mine.yaml").write_text(SPEC.replace("decay", "decey"))
    shown = run(folder, "arch", "show", "mine.yaml")
    assert shown.returncode == 2 and shown.stdout == ""
    assert shown.stderr == "mine.yaml:6: blocks.ema.mixer.decey: unknown key; did you mean 'decay'? known: decay\n"
