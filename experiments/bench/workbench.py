"""The overhead of the workbench: Lightning per step, the start of a warm worker's next run, and `--help`."""

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback

from arch import document
from arch.model import new_model
from experiments import train
from experiments.bench.child import in_child
from experiments.bench.record import Measurement
from experiments.data.corpus import prepare
from experiments.module import TrainingModule
from experiments.objectives.next_token import NextToken
from experiments.plan import plan

# A model so small that the overhead per step is not lost in the noise of the step itself.
TRIVIAL: dict[str, Any] = {
    "model": {
        "dim": 16,
        "vocab_size": 300,
        "layers": 1,
        "pattern": ["f"],
        "blocks": {"f": {"ffn": {"type": "gated", "hidden": 16}}},
    },
    "data": {"source": {"type": "text"}, "tokenizer": {"type": "byte"}, "context": 32, "rows": 1},
    "optimizer": {"lr": 1e-3},
    "train": {"steps": 200},
    "evaluate": {"every": 1000, "select_rows": 1, "report_rows": 1, "sample_tokens": 0},
}
NEXT_RUNS = 3


def lightning(journal, bench_spec):
    """Time, in turns, steps of a trivial model under Lightning's Trainer and the same steps in a bare loop."""
    sides: dict[str, list[float]] = {"lightning": [], "bare": []}
    with tempfile.TemporaryDirectory(prefix="archbench-") as folder:
        text = Path(folder) / "text.txt"
        text.write_text("\n".join(f"a line of text, number {i}, for a model that learns nothing" for i in range(4000)))
        data = TRIVIAL["data"] | {"source": {"type": "text", "files": [str(text)], "separator": "\n"}}
        spec = plan(TRIVIAL | {"data": data}).spec
        corpus = prepare(spec.data, spec.model.vocab_size)

        def module():
            objective = NextToken(NextToken.Config(), corpus)
            return TrainingModule(new_model(spec.model, 0), objective, spec, corpus, seed=0)

        for _ in range(bench_spec.repeats + 1):
            clock = _Clock()
            train.new_trainer(spec.train, [clock], folder).fit(module())
            sides["lightning"].append(clock.seconds)
            sides["bare"].append(_bare_seconds(module()))
    for side, seconds in sides.items():
        case, steps = {"model": "trivial"}, float(spec.train.steps - 1)
        journal.add(Measurement(what="lightning", side=side, case=case, values=seconds[1:], work=steps, of="steps"))


class _Clock(Callback):
    """Measures the seconds from the end of the first step to the end of the last."""

    def on_train_batch_end(self, trainer, module, outputs, batch, index):
        if index == 0:
            self.started = time.perf_counter()
        self.seconds = time.perf_counter() - self.started


def _bare_seconds(module):
    """Seconds of the same steps without Lightning."""
    optimizer, weights = module.configure_optimizers(), list(module.parameters())
    for index, batch in enumerate(module.train_dataloader()):
        optimizer.zero_grad()
        loss_sum, weight = module.objective(module.model, batch)["loss"]
        (loss_sum / weight).backward()
        norm = torch.nn.utils.clip_grad_norm_(weights, module.optimizer.config.clip, foreach=True)
        float(loss_sum.detach()), float(norm)
        optimizer.step()
        if index == 0:
            started = time.perf_counter()
    return time.perf_counter() - started


def start(journal, bench_spec):
    """Time until the first optimizer step is done, for a worker's first run and its next runs; and time `--help`."""
    root = document.load("experiments/tiny_gemma3", "experiments")
    changes = {"train.steps": 2, "evaluate.every": 2, "evaluate.select_rows": 1, "evaluate.report_rows": 1}
    planned = plan(document.overridden(root, document.node(changes | {"evaluate.sample_tokens": 0})))
    first, *later = in_child(first_steps, planned, 1 + NEXT_RUNS, threads=planned.spec.train.threads)
    case = {"experiment": "experiments/tiny_gemma3"}
    journal.add(
        Measurement(what="first step", side="first run", case=case, values=[first]),
        Measurement(what="first step", side="next run", case=case, values=later),
    )
    seconds = []
    for _ in range(bench_spec.repeats):
        started = time.perf_counter()
        subprocess.run([sys.executable, "-m", "arch", "--help"], cwd=document.ROOT, capture_output=True, check=True)
        seconds.append(time.perf_counter() - started)
    journal.add(Measurement(what="help", side="ours", case={"command": "python -m arch --help"}, values=seconds))


def first_steps(planned, runs):
    """Seconds from the start of each run to the end of its first optimizer step.

    The runs follow each other in this process and use the function that a sweep's worker calls. Raises RuntimeError if
    a run fails.
    """
    seconds = []
    for seed in range(runs):
        with tempfile.TemporaryDirectory(prefix="archbench-") as folder:
            step_ends: list[float] = []
            started = time.perf_counter()
            record = train.train(planned, seed, folder, lambda told, ends=step_ends: ends.append(time.perf_counter()))
            if record.status != "finished":
                raise RuntimeError(f"the run {record.status}: {record.failure.message if record.failure else ''}")
            seconds.append(step_ends[0] - started)
    return seconds
