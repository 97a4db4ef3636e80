"""A run that is killed at any step and resumed ends like an uninterrupted one: same weights, metrics and curves."""

import json
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.orders import ABANDON, PRUNE
from experiments.record import RunRecord

# This mixer adds noise from torch, numpy and Python, so the test fails if any random state is not restored.
NOISY = """
import random
import numpy
import torch
from torch import nn
from arch.registry import mixer
from arch.spec import Spec

@mixer
class Noisy(nn.Module):
    class Config(Spec):
        std: float = 0.1

    causal, state_size = True, "constant"

    def __init__(self, config, context):
        super().__init__()
        self.config = config
        self.scale = nn.Parameter(torch.ones(context.dim))
        self.scale.kind, self.scale.draw = "vector", lambda tensor, generator: tensor.fill_(1.0)

    def init_state(self, batch, capacity, dtype=torch.float32, device=None):
        return ()

    def forward(self, x_BTD, layout, state=None):
        if not self.training or x_BTD.is_meta:
            return x_BTD * self.scale, state
        noise = torch.randn_like(x_BTD) + random.random() + numpy.random.rand()
        return x_BTD * self.scale + self.config.std * noise, state
"""

RUN = """
import json, os, signal, sys
from pathlib import Path
from experiments import device
device.setup(1)
from experiments.plan import plan
from experiments.train import train

spec, folder, kill_at = json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]), int(sys.argv[3])
steps = [0]
def stop():
    steps[0] += 1
    if steps[0] == kill_at:
        os.kill(os.getpid(), signal.SIGKILL)
    return False
record = train(plan(spec), 7, folder, stop=stop)
sys.exit(record.status != "finished")
"""


@pytest.mark.slow
def test_killed_run_resumes_bit_for_bit(tiny, tmp_path):
    (tmp_path / "noisy_mixer.py").write_text(NOISY)
    (tmp_path / "run.py").write_text(RUN)
    tiny["model"]["blocks"]["noise"] = {"mixer": {"type": "noisy_mixer:Noisy"}}
    tiny["model"]["pattern"].append("noise")
    tiny["model"]["layers"] = 4
    (tmp_path / "spec.json").write_text(json.dumps(tiny))

    def run(folder, kill_at=-1):
        command = [sys.executable, "run.py", "spec.json", folder, str(kill_at)]
        return subprocess.run(command, cwd=tmp_path, check=False, capture_output=True, text=True)

    alone = run("alone")
    assert alone.returncode == 0, alone.stderr
    kill_at = random.Random(tmp_path.name).randint(4, 11)
    assert run("killed", kill_at).returncode == -9
    assert RunRecord.read(tmp_path / "killed").status == "running"
    assert run("killed").returncode == 0

    one, two = (RunRecord.read(tmp_path / name) for name in ("alone", "killed"))
    assert (tmp_path / "alone/model.safetensors").read_bytes() == (tmp_path / "killed/model.safetensors").read_bytes()
    assert one.metrics == two.metrics and one.identity == two.identity and one.sample == two.sample

    from pandas import read_parquet
    from pandas.testing import assert_frame_equal

    timed = ["seconds", "tokens_per_second", "step_seconds"]
    curves = [
        read_parquet(tmp_path / name / "history.parquet").drop(columns=timed, errors="ignore") for name in ("alone", "killed")
    ]
    assert_frame_equal(*curves, check_exact=True)
    assert not (tmp_path / "killed/checkpoint.ckpt").exists()


CONTRIBUTING = (Path(__file__).parent.parent.parent / "CONTRIBUTING.md").read_text()


def test_an_optimizer_and_a_schedule_of_ones_own_train_and_resume_bit_for_bit(tiny, tmp_path, monkeypatch):
    """Those of CONTRIBUTING.md, in one file of the user's folder. Their source is part of the run's identity."""
    from experiments.plan import plan
    from experiments.train import train

    source = re.search(r"```python\n# my_training.py\n(.*?)```", CONTRIBUTING, re.DOTALL)[1]
    (tmp_path / "my_training.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    tiny["optimizer"] = {"type": "my_training:Lion", "lr": 1e-3}
    tiny["schedule"] = {"type": "my_training:InverseSquareRoot", "warmup_steps": 3}
    planned, stops = plan(tiny), []
    assert set(planned.plugins) == {"my_training"} and planned.spec.optimizer["clip"] == 1.0

    alone = train(planned, 0, tmp_path / "alone")
    halted = train(planned, 0, tmp_path / "run", stop=lambda: stops.append(1) or len(stops) == 7)
    assert alone.status == "finished", alone.failure
    assert (halted.status, halted.steps) == ("interrupted", 7)
    resumed = train(planned, 0, tmp_path / "run")
    assert resumed.metrics == alone.metrics
    weights, others = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("run", "alone"))
    assert weights == others

    from pandas import read_parquet

    rates = read_parquet(tmp_path / "run" / "history.parquet")["lr"]
    assert rates.argmax() == 2 and rates.max() == 1e-3 and rates.iloc[11] == pytest.approx(0.5e-3)
    (tmp_path / "my_training.py").write_text(source + "# changed\n")
    assert plan(tiny).identity != planned.identity


def test_the_study_of_contributing_md_is_planned(tmp_path, monkeypatch, capsys):
    import archbench

    for language, name in (("python", "my_training.py"), ("yaml", "with_lion.yaml")):
        (tmp_path / name).write_text(re.search(rf"```{language}\n# {name}\n(.*?)```", CONTRIBUTING, re.DOTALL)[1])
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    archbench.show("with_lion.yaml")
    assert "lion" in capsys.readouterr().out


def test_an_optimizer_without_a_rate_or_a_clip_is_refused():
    from arch.registry import optimizer
    from arch.spec import Spec

    with pytest.raises(TypeError, match=r"Steady\.Config needs the option `clip`"):

        @optimizer
        class Steady:
            class Config(Spec):
                lr: float


def test_killed_before_its_first_checkpoint_starts_over(tiny, tmp_path):
    from experiments.plan import plan
    from experiments.train import train

    planned, asked = plan(tiny), []
    record = train(planned, 0, tmp_path / "run", stop=lambda: asked.append(1) or len(asked) == 2)
    assert record.status == "interrupted" and record.steps == 2
    (tmp_path / "run/checkpoint.ckpt").unlink()
    again = train(planned, 0, tmp_path / "run")
    alone = train(planned, 0, tmp_path / "alone")
    assert again.status == "finished" and again.metrics == alone.metrics


def test_finished_run_is_returned_and_another_identity_never_resumed(tiny, tmp_path):
    from experiments.plan import plan
    from experiments.train import train

    first = train(plan(tiny), 0, tmp_path / "run")
    assert train(plan(tiny), 0, tmp_path / "run") == first
    tiny["optimizer"]["lr"] = 1e-3
    other = plan(tiny)
    asked = []
    train(other, 0, tmp_path / "other", stop=lambda: asked.append(1) or len(asked) == 4)
    (tmp_path / "other/checkpoint.identity").write_text("something else")
    assert train(other, 0, tmp_path / "other").metrics == train(other, 0, tmp_path / "clean").metrics


def test_a_run_that_dies_while_it_is_measured_resumes(tiny, tmp_path, monkeypatch):
    """The process dies in the final evaluation; the resumed run repeats the steps after the last checkpoint."""
    from experiments import train as trained
    from experiments.plan import plan

    planned = plan(tiny)

    class Killed(BaseException):
        """Nothing catches it, as nothing catches a kill."""

    def die(*_):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(trained, "explained", die)
        with pytest.raises(Killed):
            trained.train(planned, 0, tmp_path / "run", stop=lambda: False)
    again = trained.train(planned, 0, tmp_path / "run")
    assert again.status == "finished" and again.metrics == trained.train(planned, 0, tmp_path / "alone").metrics


def test_a_stop_at_the_last_step_is_too_late(tiny, tmp_path):
    from experiments.plan import plan
    from experiments.train import train

    asked = []
    record = train(plan(tiny), 0, tmp_path / "run", stop=lambda: asked.append(1) or len(asked) == tiny["train"]["steps"])
    assert record.status == "finished"


@pytest.mark.parametrize("word", [PRUNE, ABANDON])
def test_a_run_that_is_pruned_keeps_its_curve_and_one_that_is_abandoned_writes_nothing_more(word, tiny, tmp_path):
    """PRUNE ends a run for good: a record, a curve, no weights. ABANDON leaves every file as it was at that moment."""
    from experiments.plan import plan
    from experiments.train import train

    folder, seen, calls = tmp_path / "run", {}, []

    def stop():
        calls.append(1)
        if len(calls) == 3:
            seen.update({path.name: path.read_bytes() for path in folder.iterdir() if not path.name.startswith("events.")})
            return word
        return None

    record = train(plan(tiny), 0, folder, stop=stop)
    after = {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.startswith("events.")}
    if word == PRUNE:
        assert (record.status, record.steps) == ("pruned", 3) and record == RunRecord.read(folder)
        assert {"history.parquet"} <= after.keys() and not {"model.safetensors", "checkpoint.ckpt"} & after.keys()
    else:
        assert record.status == "interrupted" and after == seen
