"""Studies as large as nobody trains for a test: the committed records of a real run, copied to hundreds of arms and seeds.

Every arm has a resolved spec, a cost, curves of a thousand steps, and what evaluators measured, documents included. Only the
numbers are drawn anew, so files have the sizes of real ones.
"""

import json
from pathlib import Path

import numpy as np
import pandas as pd

from experiments.record import EVALUATIONS, HISTORY_NAME, RunRecord, content_of, evaluation_files
from sweeps.record import StudyRecord

RESULTS = Path(__file__).parents[2] / "results" / "gemma3-local_global" / "demo"
ARM = "5:1"
WINDOWS = 20
# What an experiment measures unless its spec asks for more; `None` is everything that the real run measured.
USUAL = ("select.loss", "report.loss", "report.sample")


def plant_large(folder, arms=300, seeds=5, steps=1000, failed=7, evaluators=USUAL):
    """Write a study's folder with arms x seeds runs. failed: how many of the runs ended half-way. evaluators: by SPLIT.NAME."""
    study = StudyRecord.read(RESULTS)
    template = study.arms[ARM]
    source = RESULTS / template.runs["0"]
    run = RunRecord.read(source)
    files = {name: json.dumps(content_of(path), indent=1) for name, path in evaluation_files(source).items()}
    assert files, "the committed run has been measured"
    if evaluators is not None:
        files = {name: text for name, text in files.items() if name.partition("-")[0] in evaluators}
        kept = {key: file for key, file in template.evaluations.items() if key in evaluators}
        template = template.model_copy(update={"evaluations": kept})
    curve = pd.read_parquet(source / HISTORY_NAME)
    random, planted = np.random.default_rng(0), {}
    shared, effects = random.normal(0, 0.02, seeds), np.r_[0, random.normal(0.02, 0.03, arms - 1)]
    broken = {
        (int(arm), int(seed)) for arm, seed in zip(random.integers(0, arms, failed), random.integers(0, seeds, failed), strict=True)
    }
    for i in range(arms):
        window, theta = 8 * (1 + i % WINDOWS), 1000.0 * (1 + i // WINDOWS)
        label, identity = f"window {window}, theta {theta:g}", f"{i:064x}"
        places = {str(seed): f"arm{i}-{identity[-12:]}/seed-{seed}" for seed in range(seeds)}
        for seed, place in enumerate(places.values()):
            shift = shared[seed] + effects[i] + random.normal(0, 0.004)
            _run(folder / place, run, files, _longer(curve, steps, shift, random), identity, seed, shift, (i, seed) in broken)
        changes = {"model.blocks.local.mixer.window": [8, window], "model.blocks.local.mixer.rope.theta": [1000.0, theta]}
        planted[label] = template.model_copy(
            update={
                "changes": {key: pair for key, pair in changes.items() if pair[0] != pair[1]},
                "identities": [identity],
                "runs": places,
                "cost": _cost(template.cost, window),
            }
        )
    claims = {"quality": {"type": "equivalent", "metric": "report/loss", "margin": 0.01, "known_worse": []}}
    changed = {"arms": planted, "seeds": list(range(seeds)), "claims": claims, "plan": None, "looks": []}
    changed |= {"spec": {**study.spec, "arms": {label: {} for label in planted}}, "question": "Which window and which base?"}
    StudyRecord(**study.model_copy(update=changed).dump()).write(folder)
    return folder


def _cost(cost, window):
    long = {**cost["long"], "cache_bytes": cost["long"]["cache_bytes"] + 5120 * window}
    return {**cost, "long": long}


def _longer(curve, steps, shift, random):
    """The curve over another number of steps, shifted by a loss."""
    at = np.minimum(np.arange(steps) * len(curve) // steps, len(curve) - 1)
    longer = curve.iloc[at].reset_index(drop=True)
    longer["step"] = np.arange(1, steps + 1)
    longer["tokens"] = 2048 * longer.step
    every = max(1, steps // 20)
    noise = random.normal(0, 0.05, steps)
    for name in ("train/loss", "select/loss"):
        longer[name] = 4.0 + 4.5 * np.exp(-10 * longer.step / steps) + shift + (noise if name == "train/loss" else noise / 20)
    longer.loc[longer.step % every != 0, "select/loss"] = np.nan
    for split in ("train", "select"):
        longer[f"{split}/perplexity"] = np.exp(longer[f"{split}/loss"])
        longer[f"{split}/bits_per_byte"] = longer[f"{split}/loss"] / 2
    return longer


def _run(folder, run, files, curve, identity, seed, shift, failed):
    (folder / EVALUATIONS).mkdir(parents=True)
    metrics = {name: value + (shift if name.endswith("loss") else 0) for name, value in run.metrics.items()}
    ended = {"status": "failed", "metrics": {}, "failure": FAILURE} if failed else {"metrics": metrics}
    changed = run.model_copy(update={"identity": identity, "seed": seed, **ended})
    RunRecord(**changed.dump()).write(folder)
    (curve[: len(curve) // 2] if failed else curve).to_parquet(folder / HISTORY_NAME)
    for name, text in {} if failed else files.items():
        data = json.loads(text)
        if "documents" not in name:
            values = {key: value + (shift if key.endswith("loss") else 0) for key, value in data["values"].items()}
            data |= {"identity": identity, "seed": seed, "values": values}
        (folder / EVALUATIONS / name).write_text(json.dumps(data))


FAILURE = {"step": 9, "error": "NonFiniteLoss", "message": "the loss is nan", "parameters": ["blocks.3.mixer"]}
