"""A callback that runs after every step: it adds to the history, evaluates, saves checkpoints, reports progress."""

import statistics
import time

import pytorch_lightning as pl

from experiments import checkpoint, evaluations, ranks
from experiments.evaluate import explained
from experiments.history import Events, History
from experiments.memory import Peak
from experiments.orders import ABANDON, PRUNE

EVENTS_A_RUN = 200
# The first steps of a process are slower than the others: programs are compiled, memory is fetched, caches are filled.
WARM_UP = 3
SECONDS_BETWEEN_REPORTS = 1.0


class Interrupted(Exception):
    """The run was asked to stop, and its checkpoint is on disk."""


class Pruned(Exception):
    """The run was told that it does not pay to go on; its history is on disk."""


class Abandoned(Exception):
    """The run was told that it is somebody else's now; nothing was written since."""


class Watch(pl.Callback):
    """Keeps the run's history. The history is also in the checkpoint, so a resumed run's curves have no gap."""

    def __init__(self, dataset, spec, run, folder, progress=None, stop=None):
        """run: (identity, seed). stop: returns a word of `experiments.orders`, or nothing."""
        self.dataset, self.spec, self.run, self.folder = dataset, spec, run, folder
        self.select = [each for each in evaluations.planned(spec) if each.split == "select"]
        self.progress, self.stop = progress or (lambda _: None), stop or (lambda: None)
        self.history, self.events = History(), None
        self.evaluate_seconds = self.reported = 0.0
        self.memory, self.earlier_peak = None, 0.0

    def state_dict(self):
        about = {"run": list(self.run), "evaluate_seconds": self.evaluate_seconds, "peak_bytes": self.peak_bytes}
        return {"rows": self.history.rows, **about}

    def load_state_dict(self, state):
        self.history = History(state["rows"])
        self.evaluate_seconds = state["evaluate_seconds"]
        self.earlier_peak = state.get("peak_bytes") or 0.0

    @property
    def peak_bytes(self):
        """The most memory that a process of this run held while it trained, also before an interruption; None if unknown."""
        now = self.memory and self.memory.bytes()
        return max(now, self.earlier_peak) if now else None

    @property
    def tokens_per_second(self):
        """Tokens of a step over the median of the steps' seconds; None if no step counts."""
        seconds = [row["step_seconds"] for row in self.history.rows if "step_seconds" in row]
        return self.spec.data.rows * self.spec.data.context / statistics.median(seconds) if seconds else None

    def on_train_start(self, trainer, module):
        self.events = Events(self.folder if trainer.is_global_zero else None, trainer.global_step)
        self.before, self.warm = self.history.seconds, 0
        self.memory = Peak(module.device)
        self.select_loss = None
        self.started = self.step_began = time.perf_counter()

    def on_train_batch_end(self, trainer, module, outputs, batch, index):
        now, step = time.perf_counter(), trainer.global_step
        seconds = self.before + now - self.started
        tokens = step * self.spec.data.rows * self.spec.data.context
        values = module.last | {"tokens_per_second": tokens / max(1e-9, seconds - self.evaluate_seconds)}
        self.warm += 1
        if self.warm > WARM_UP:
            values["step_seconds"] = now - self.step_began
        self._after(trainer, module, step, tokens, seconds, values)
        self.step_began = time.perf_counter()

    def on_train_end(self, trainer, module):
        self.earlier_peak = ranks.most(self.peak_bytes) or 0.0

    def _after(self, trainer, module, step, tokens, seconds, values):
        """Everything after a step that is not training: evaluate, log, save."""
        train = self.spec.train
        evaluated = step % self.spec.evaluate.every == 0 or step == train.steps
        if evaluated:
            values |= self._select(trainer, module)
        self.history.add(step=step, tokens=tokens, seconds=seconds, **values)
        if evaluated or step % max(1, train.steps // EVENTS_A_RUN) == 0:
            self.memory.note()
            peak = self.peak_bytes
            self.events.scalars(step, values | ({"memory/peak_bytes": peak} if peak else {}))
        self._tell(step, values, {name: value for name, value in values.items() if name.startswith("select/")})
        word = ranks.word(self.stop(), module.device)
        if word == ABANDON:
            raise Abandoned
        if step == train.steps:
            return  # Little work is left. Without a checkpoint at the last step, a resumed run always has a step to do.
        if word == PRUNE:
            self.history.write(self.folder)
            raise Pruned
        if word or step % train.checkpoint_every == 0:
            checkpoint.save(trainer, self.folder)
            self.history.write(self.folder)
        if word:
            raise Interrupted

    def _select(self, trainer, module):
        started, model = time.perf_counter(), module.whole()
        values = ranks.agreed(lambda: self._measured(model, trainer, module))
        self.evaluate_seconds += time.perf_counter() - started
        self.select_loss = values.get("select/loss")
        return values

    def _measured(self, model, trainer, module):
        values = {}
        with trainer.precision_plugin.forward_context():
            for each in self.select:
                about = module.objective, self.dataset, self.spec, self.run, module.device
                values |= explained(trainer.global_step, module.origin, each, model, *about).values
        return values

    def _tell(self, step, values, selected):
        now = time.perf_counter()
        if selected or now - self.reported > SECONDS_BETWEEN_REPORTS:
            self.reported = now
            self.progress(
                {
                    "step": step,
                    "steps": self.spec.train.steps,
                    "loss": values["train/loss"],
                    "select_loss": self.select_loss,
                    "tokens_per_second": values["tokens_per_second"],
                    "selected": selected,
                }
            )
