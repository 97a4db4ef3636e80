"""Study folders with planted effects, as `sweeps` and `experiments` would write them, but without training."""

import math
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from arch.contracts import Metric
from experiments.metrics import NEXT_TOKEN
from experiments.record import Failure, RunRecord
from sweeps.record import ArmRecord, StudyRecord, TrialRecord

sys.path.insert(0, str(Path(__file__).parent))  # tests import the makers of studies by name

LONG = 131072
PATTERNS = {"1:1": ["local", "global"], "3:1": ["3*local", "global"], "5:1": ["5*local", "global"], "local-only": ["local"]}


def cost_of(global_share):
    """A cost like arch.cost's, for a model whose cache grows with its share of global layers."""
    cache = int(12 * 2 * 2 * 64 * (global_share * LONG + (1 - global_share) * 64))
    flops = {"train": 1.1e7 + 1e6 * global_share, "prefill": 3.6e6, "decode": 3.8e6}
    return {
        "parameters": {"total": 1_803_264, "embedding": 524_288, "non_embedding": 1_278_976},
        "flops_per_token": {"ideal": flops, "executed": flops},
        "cache_bytes": {"total": 393216, "layers": [32768] * 12},
        "layers": ["local"] * 12,
        "context": 256,
        "long": {"context": LONG, "cache_bytes": cache},
    }


@pytest.fixture
def make_study(tmp_path, plant):
    """`make_study(effects={arm: nats}, seeds=5, spread=0.002, ...)` writes a study's folder and returns it."""
    return lambda **planted: plant(tmp_path / "study", **planted)


@pytest.fixture(scope="session")
def plant():
    """`plant(folder, ...)`: like `make_study`, but in the given folder."""

    def make(
        folder,
        effects=None,
        seeds=5,
        spread=0.002,
        known_worse=("local-only",),
        margin=0.01,
        question="Does perplexity suffer when most layers see only a short window?",
        failed=(),
        missing=(),
        trials=(),
        accuracy=False,
        **record,
    ):
        effects = {"1:1": 0.0, "3:1": 0.0, "5:1": 0.0, "local-only": 0.06} if effects is None else effects
        folder.mkdir(parents=True, exist_ok=True)
        random, arms = np.random.default_rng(0), {}
        shared = random.normal(0, 0.02, seeds)
        for i, (arm, effect) in enumerate(effects.items()):
            paths = {}
            for seed in range(seeds):
                paths[str(seed)] = f"arm{i}-0123/seed-{seed}"
                loss = 4.1 + shared[seed] + effect + random.normal(0, spread)
                if (arm, seed) not in missing:
                    write_run(folder / paths[str(seed)], arm, seed, loss, random, failed=(arm, seed) in failed, accuracy=accuracy)
            changes = {} if i == 0 else {"model.pattern": [PATTERNS["1:1"], PATTERNS.get(arm, [arm])]}
            share = {"1:1": 0.5, "3:1": 0.25, "5:1": 1 / 6, "7:1": 1 / 12, "local-only": 0.0}.get(arm, 0.3)
            arms[arm] = ArmRecord(changes=changes, cost=cost_of(share), identity=f"identity of {arm}", runs=paths)
        StudyRecord(
            **{
                "name": "gemma3/local_global",
                "scale": "demo",
                "question": question,
                "arms": arms,
                "seeds": list(range(seeds)),
                "spec": {"question": question, "seeds": seeds},
                "claims": {
                    "quality": claim(
                        "report/accuracy" if accuracy else "report/loss", margin, [arm for arm in known_worse if arm in effects]
                    )
                },
                "long_context": LONG,
                "larger_scale": "laptop",
                "trials": list(trials),
                "command": "archbench study run gemma3/local_global --scale demo",
            }
            | record
        ).write(folder)
        return folder

    return make


def claim(metric, margin, known_worse):
    """A resolved claim against the baseline."""
    return {"type": "equivalent", "metric": metric, "margin": margin, "known_worse": list(known_worse)}


ACCURACY = Metric(unit="points", better="higher", compare="difference")


def write_run(folder, arm, seed, loss, random, failed=False, steps=400, every=20, accuracy=False):
    """A run's folder with record.json and history.parquet; a failed run stops half-way.

    accuracy: the run has `loss` and `accuracy` (4.6 - loss), says what they are, and has no perplexity.
    """
    folder.mkdir(parents=True, exist_ok=True)
    done = steps // 2 if failed else steps
    step = np.arange(10, done + 1, 10)
    curve = loss + 4.5 * np.exp(-step / 60) + 0.3 * (1 - step / steps)
    evaluated = np.where(step % every == 0, curve + random.normal(0, 0.002, len(step)), np.nan)
    quality = {"select/perplexity": np.exp(evaluated), "select/bits_per_byte": evaluated / math.log(2) / 3}
    metrics = {"report/loss": loss, "report/perplexity": math.exp(loss), "select/loss": loss}
    if accuracy:
        quality = {"select/accuracy": 4.6 - evaluated}
        metrics = {"report/loss": loss, "report/accuracy": 4.6 - loss, "select/loss": loss}
    pd.DataFrame(
        {
            "step": step,
            "tokens": step * 2048,
            "seconds": step * 0.3,
            "train/loss": curve + random.normal(0, 0.05, len(step)),
            "lr": 1e-3 * np.minimum(1, step / 40),
            "grad_norm": 1.0,
            "tokens_per_second": 6800.0,
            "select/loss": evaluated,
            **quality,
        }
    ).to_parquet(folder / "history.parquet")
    failure = Failure(step=done, error="NonFiniteLoss", message="the loss is nan", parameters=["blocks.3.mixer"])
    RunRecord(
        status="failed" if failed else "finished",
        identity=f"identity of {arm}",
        seed=seed,
        spec={"seed": "no experiment"},
        versions={"torch": "2.13.0", "python": "3.11.7"},
        git={"commit": "cb826d1", "dirty": False},
        hardware={"cpu": "a synthetic CPU", "cores": 2},
        threads=1,
        data={"source": "python_stdlib", "fingerprint": "0f3a"},
        started=f"2025-11-21T08:{seed:02d}:00+00:00",
        ended=f"2025-11-21T08:{seed:02d}:59+00:00",
        wall_seconds=120.0,
        steps=done,
        tokens=done * 2048,
        metrics={} if failed else metrics,
        metric_info={"report/loss": NEXT_TOKEN["loss"], "report/accuracy": ACCURACY} if accuracy and not failed else {},
        timing={"tokens_per_second": 6800.0},
        sample="" if failed else "def f(x):\n    return <x>",
        failure=failure if failed else None,
    ).write(folder)


@pytest.fixture
def plant_run():
    """`write_run`: plants the folder of one run."""
    return write_run


@pytest.fixture
def tuning_trials():
    """`tuning_trials(arms, best=1)` gives TrialRecords of a grid over the learning rate."""
    return trials_of


def trials_of(arms, best=1):
    """Five learning rates per arm, the best at index `best` (one later for the last arm), and one pruned trial."""
    rates = [1e-4, 3e-4, 1e-3, 3e-3, 1e-2]
    made = [
        TrialRecord(
            arm=arm,
            values={"optimizer.lr": rate},
            seed=1000,
            value=4.2 + 0.02 * len(arm) + 0.05 * (i - best - (arm == arms[-1])) ** 2,
            state="finished",
            run=f"t/{arm}/{i}",
        )
        for arm in arms
        for i, rate in enumerate(rates)
    ]
    return [*made, TrialRecord(arm=arms[0], values={"optimizer.lr": 0.05}, seed=1000, value=None, state="pruned", run="t/p")]
