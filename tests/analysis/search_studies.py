"""Records of made-up searches, in which the loss depends on two of the five dimensions."""

import math

import numpy as np
import pandas as pd

from experiments.record import HISTORY_NAME, RunRecord
from sweeps.record import TrialRecord

CACHE = "cost/cache_bytes@32768"
SPACE = {
    "pattern": {"choices": {"1:1": {"set": {}}, "5:1": {"set": {}}}},
    "between": {
        "choices": {
            "window": {"space": {"model.blocks.local.mixer.window": {"choices": [4, 16, 64]}}},
            "recurrence": {"space": {"model.blocks.local.mixer.width": {"low": 32.0, "high": 128.0, "step": 16.0}}},
        }
    },
    "model.blocks.global.mixer.kv_heads": {"choices": [1, 2, 4]},
    "optimizer.lr": {"low": 1e-3, "high": 1e-1},
}


def search_of(trials, objectives=("select/loss", CACHE), winners=2, **more):
    """`StudyRecord.search` of these trials: the true front, the best ones as winners."""
    done = [trial for trial in trials if trial.state == "finished"]
    points = {trial.number: tuple(trial.objectives[name] for name in objectives) for trial in done}
    beaten = lambda a: any(all(x <= y for x, y in zip(b, a, strict=True)) and b != a for b in points.values())  # noqa: E731
    front = sorted((number for number in points if not beaten(points[number])), key=points.get)
    return {
        "objectives": dict.fromkeys(objectives, "minimise"),
        "constraints": {"cost/parameters": {"most": 4e5}},
        "space": SPACE,
        "sampler": {"type": "nsgaii"},
        "pruner": None,
        "trials": len(trials),
        "seeds": 1,
        "front": front,
        "winners": {f"best {i + 1}": number for i, number in enumerate(sorted(points, key=points.get)[:winners])},
        "study": "quality_vs_cache/demo/search-0123",
    } | more


def trials_of(count=60, seed=0, objectives=("select/loss", CACHE), dead=0.2):
    """TrialRecords whose loss depends on the rate and on the kv heads; some infeasible, pruned and failed."""
    draw, made = np.random.default_rng(seed), []
    for number in range(count):
        between = str(draw.choice(["window", "recurrence"]))
        values = {
            "pattern": str(draw.choice(["1:1", "5:1"])),
            "between": between,
            "model.blocks.global.mixer.kv_heads": float(draw.choice([1, 2, 4])),
            "optimizer.lr": float(10 ** draw.uniform(-3, -1)),
        }
        if between == "window":
            values["model.blocks.local.mixer.window"] = float(draw.choice([4, 16, 64]))
        else:
            values["model.blocks.local.mixer.width"] = float(draw.choice(range(32, 129, 16)))
        heads = values["model.blocks.global.mixer.kv_heads"]
        loss = 3.5 + 0.25 * (math.log10(values["optimizer.lr"]) + 2) ** 2 + 0.1 / heads + float(draw.normal(0, 0.01))
        cache = 4e6 * heads * (3 if values["pattern"] == "1:1" else 1)
        state = str(draw.choice(["finished", "infeasible", "pruned", "failed"], p=[1 - dead, dead / 2, dead / 4, dead / 4]))
        measured = {"select/loss": loss, CACHE: cache} if state == "finished" else {CACHE: cache}
        measured = {name: measured[name] for name in objectives if name in measured}
        made.append(
            TrialRecord(
                arm="",
                values=values,
                seed=None if state == "infeasible" else 1000,
                value=measured.get("select/loss"),
                state=state,
                run="" if state == "infeasible" else f"tune/trial-{number}/seed-1000",
                number=number,
                objectives=measured,
                constraints={"cost/parameters": 5e4 if state == "infeasible" else -1e4},
                why=WHY.get(state, ""),
            )
        )
    return made


WHY = {
    "infeasible": "cost/parameters = 450,000 is above 400,000",
    "pruned": "pruned at step 100 of 400",
    "failed": "seed 1000: loss not finite at step 3, first in blocks.0.mixer",
}


def plant_runs(folder, trials, steps=400):
    """The runs of trials: curves that end at their loss; those that were pruned or failed end early."""
    for trial in trials:
        if not trial.run:
            continue
        place, done = folder / trial.run, steps if trial.state == "finished" else steps // 4
        place.mkdir(parents=True)
        step = np.arange(1, done + 1)
        loss = (trial.value or 4.2) + 3 * np.exp(-step / 60) + 0.3 * (1 - step / steps)
        columns = {"step": step, "tokens": 2048 * step, "train/loss": loss, "select/loss": np.where(step % 20, np.nan, loss)}
        pd.DataFrame(columns).to_parquet(place / HISTORY_NAME)
        RunRecord(
            status=trial.state,
            identity=f"trial {trial.number}",
            seed=trial.seed,
            spec={},
            steps=done,
            tokens=2048 * done,
            wall_seconds=10.0,
            metrics={"select/loss": trial.value, "report/loss": trial.value} if trial.value else {},
        ).write(place)
