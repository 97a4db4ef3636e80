"""A callback that runs after every step: it adds to the history, evaluates, saves checkpoints, reports progress."""

import time

import pytorch_lightning as pl

from experiments import checkpoint, evaluations
from experiments.device import peak_memory_bytes
from experiments.evaluate import NotFinite, evaluate
from experiments.history import Events, History
from experiments.module import NonFinite

EVENTS_A_RUN = 200
SECONDS_BETWEEN_REPORTS = 1.0


class Interrupted(Exception):
    """The run was asked to stop, and its checkpoint is on disk."""


class Watch(pl.Callback):
    """Keeps the run's history. The history is also in the checkpoint, so a resumed run's curves have no gap."""

    def __init__(self, dataset, spec, run, folder, progress=None, stop=None):
        """run: (identity, seed)."""
        self.dataset, self.spec, self.run, self.folder = dataset, spec, run, folder
        self.select = [each for each in evaluations.planned(spec) if each.split == "select"]
        self.progress, self.stop = progress or (lambda _: None), stop or (lambda: False)
        self.history, self.events = History(), None
        self.evaluate_seconds = self.reported = 0.0

    def state_dict(self):
        return {"rows": self.history.rows, "evaluate_seconds": self.evaluate_seconds}

    def load_state_dict(self, state):
        self.history = History(state["rows"])
        self.evaluate_seconds = state["evaluate_seconds"]

    def on_train_start(self, trainer, module):
        self.events = Events(self.folder if trainer.is_global_zero else None, trainer.global_step)
        self.before = self.history.seconds
        self.started = time.perf_counter()
        self.select_loss = None

    def on_train_batch_end(self, trainer, module, outputs, batch, index):
        step, train = trainer.global_step, self.spec.train
        seconds = self.before + time.perf_counter() - self.started
        tokens = step * self.spec.data.rows * self.spec.data.context
        values = module.last | {"tokens_per_second": tokens / max(1e-9, seconds - self.evaluate_seconds)}
        evaluated = step % self.spec.evaluate.every == 0 or step == train.steps
        if evaluated:
            values |= self._select(trainer, module)
        self.history.add(step=step, tokens=tokens, seconds=seconds, **values)
        if evaluated or step % max(1, train.steps // EVENTS_A_RUN) == 0:
            memory = peak_memory_bytes(module.device)
            self.events.scalars(step, values | {"memory/peak_bytes": memory})
        self._tell(step, values, evaluated)
        stopping = self.stop()
        if step == train.steps:
            return  # Little work is left. Without a checkpoint at the last step, a resumed run always has a step to do.
        if stopping or step % train.checkpoint_every == 0:
            trainer.save_checkpoint(self.folder / checkpoint.NAME)
            self.history.write(self.folder)
        if stopping:
            raise Interrupted

    def _select(self, trainer, module):
        started, values = time.perf_counter(), {}
        with trainer.precision_plugin.forward_context():
            for each in self.select:
                try:
                    record = evaluate(each, module.model, module.objective, self.dataset, self.spec, self.run, module.device)
                except NotFinite as error:
                    raise NonFinite(trainer.global_step, str(error), module.bad_groups()) from None
                values |= record.values
        self.evaluate_seconds += time.perf_counter() - started
        self.select_loss = values.get("select/loss")
        return values

    def _tell(self, step, values, evaluated):
        now = time.perf_counter()
        if evaluated or now - self.reported > SECONDS_BETWEEN_REPORTS:
            self.reported = now
            self.progress(
                {
                    "step": step,
                    "steps": self.spec.train.steps,
                    "loss": values["train/loss"],
                    "select_loss": self.select_loss,
                    "tokens_per_second": values["tokens_per_second"],
                }
            )
