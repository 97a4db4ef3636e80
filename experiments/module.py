"""One optimizer step, as Lightning calls it, and the batches it is given.

Shapes: B rows, T tokens.
"""

import logging
import math
import warnings
from contextlib import nullcontext

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, IterableDataset

from arch import blame, registry
from arch.contracts import Mean
from arch.kernels import products
from experiments import nonfinite, ranks, sharded
from experiments.checkpoint import kept_random_state, random_state, restore_random_state
from experiments.means import Means, prepared

logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
logging.getLogger("lightning_fabric").setLevel(logging.ERROR)
# A batch is a pure function of the step and cheap to compute, so data loader workers would only add processes.
warnings.filterwarnings("ignore", message=".*does not have many workers.*")
warnings.filterwarnings("ignore", message=".*LeafSpec.*", category=FutureWarning)


class Batches(IterableDataset):
    """The batches of the steps from `first` on. Each is a pure function of (corpus, seed, step)."""

    def __init__(self, corpus, data, seed, steps):
        self.corpus, self.data, self.seed, self.steps, self.first = corpus, data, seed, steps, 0

    def __iter__(self):
        for step in range(self.first, self.steps):
            yield self.corpus.batch("train", step, self.seed, self.data.rows, self.data.context)


class TrainingModule(pl.LightningModule):
    """A model, an objective and the training step.

    A step's gradient is that of the loss's sum / weight, both summed over all its micro-batches and devices, however
    many there are. `last` holds the metrics, learning rate and gradient norm of the latest step.

    The objective is held outside of the registered modules: only the model is trained, and only the model is in a
    checkpoint. Raises ValueError for an objective with trainable parameters: these belong to the model and its spec.
    origin: where the model's weights come from, if not from the seed, in words for an error.
    """

    def __init__(self, model, objective, spec, corpus, seed, origin=""):
        super().__init__()
        self.automatic_optimization = False
        if trained := [name for name, weight in objective.named_parameters() if weight.requires_grad]:
            raise ValueError(
                f"the objective has trainable parameters ({', '.join(trained)}); they belong to the model and its spec"
            )
        self.model, self.spec, self.origin = model, spec, origin
        self._unregistered = [objective, None]
        self.optimizer, self.schedule = (registry.build(kind, getattr(spec, kind)) for kind in ("optimizer", "schedule"))
        self.batches = Batches(corpus, spec.data, seed, spec.train.steps)
        self.last, self.random_state = {}, None

    @property
    def objective(self):
        """The objective, on this module's device once training begins."""
        return self._unregistered[0]

    @property
    def root(self):
        """What the passes run in where the model is sharded, else None."""
        return self._unregistered[1]

    def configure_model(self):
        if self.spec.train.sharded and self.root is None:
            self._unregistered[1] = sharded.shard(self.model, self.device_mesh["data_parallel"])

    def whole(self):
        """The model with all of its weights: where it is sharded, a copy on the first rank and None on the others."""
        if self.root is None:
            return self.model
        with kept_random_state():
            return sharded.whole(self.model, self.trainer.precision_plugin.convert_module)

    def on_fit_start(self):
        self.objective.to(self.device)
        ranks.own_seed()

    def on_train_end(self):
        if self.root:  # while all ranks are there to give their parts
            self.trained = self.whole()

    def train_dataloader(self):
        return DataLoader(self.batches, batch_size=None)

    def configure_optimizers(self):
        return self.optimizer.build(self.root.named_weights() if self.root else self.model.named_parameters())

    def training_step(self, batch, index):
        optimizer, step, world = self.optimizers(), self.global_step, self.trainer.world_size
        rate = self.schedule(step, self.spec.train.steps, self.optimizer.config.lr)
        if not hasattr(rate, "__float__"):
            raise TypeError(blame.gives(self.schedule, "__call__", rate, "a number"))
        for group in optimizer.param_groups:
            group["lr"] = rate

        optimizer.zero_grad()
        given, drawn = batch, self._random_state()
        batch = self._prepared(given)
        weight, means = max(1, self._total(batch.weight)), Means(self.objective)
        loss = torch.zeros((), device=self.device)
        for number, micro_batch in enumerate(batch.in_turn(self.spec.train.accumulate), 1):
            with self._synchronised(number == self.spec.train.accumulate):
                returned = self._within(self.objective, self.model, micro_batch)
                if not (isinstance(returned, dict) and isinstance(returned.get("loss"), Mean)):
                    raise TypeError(blame.gives(self.objective, "forward", returned, "{metric: Mean} with a `loss`"))
                self.manual_backward(returned["loss"].sum * (world / weight))  # data parallelism averages; we want the sum
            loss += returned["loss"].sum.detach() / weight
            means.include(returned)
        if (counted := float(means.totals["loss"].weight)) != batch.weight:
            raise ValueError(f"the weights of the objective's loss add up to {counted:g}, those of its batch to {batch.weight}")
        weights, clip = [each for each in self.model.parameters() if each.grad is not None], self.optimizer.config.clip
        norm = self._norm([sharded.local(each.grad) for each in weights])
        loss, norm = float(self.trainer.strategy.reduce(loss, reduce_op="sum")), float(norm)
        if not math.isfinite(loss):
            again = lambda: self._again(given, drawn, 1 / weight)  # noqa: E731
            raise nonfinite.agreed(nonfinite.error(step, "loss", self.model, again, self.origin))
        if not math.isfinite(norm):
            again = lambda: self._again(given, drawn, world / weight, backward=True)  # noqa: E731
            raise nonfinite.agreed(nonfinite.error(step, "gradient", self.model, again, self.origin))
        if clip and norm > clip and self.root:
            torch._foreach_mul_([sharded.local(each.grad) for each in weights], clip / (norm + 1e-6))
        elif clip and norm > clip:  # otherwise clipping would multiply all gradients by one
            torch.nn.utils.clip_grads_with_norm_(weights, clip, torch.tensor(norm, device=self.device), foreach=True)
        optimizer.step()
        products.forget()
        metrics = {f"train/{name}": value for name, value in self._reduced(means).items()}
        self.last = metrics | {"train/loss": loss, "lr": rate, "grad_norm": norm}

    def _within(self, compute, *inputs):
        """Do what uses the model. Where it is sharded, its weights are whole only then."""
        return self.root(compute, *inputs) if self.root else compute(*inputs)

    def _synchronised(self, last):
        """Context manager: whole copies add up their gradients in the last micro-batch only; shards have no room to wait."""
        if last or self.trainer.world_size == 1 or self.root:
            return nullcontext()
        return self.trainer.strategy.block_backward_sync()

    def _norm(self, gradients):
        """The norm of the whole gradient, from what this rank holds of it."""
        norm = torch.nn.utils.get_total_norm(gradients, foreach=True)
        return self.trainer.strategy.reduce(norm.square(), reduce_op="sum").sqrt() if self.root else norm

    def _prepared(self, batch):
        """This rank's rows of a batch, after what the objective does first with a step's rows."""
        with torch.no_grad():
            mine = batch.split(self.trainer.world_size)[self.trainer.global_rank]
            mine.drawn = (self.batches.seed, self.global_step)
            return self._within(prepared, self.objective, self.model, mine, self.spec.train.accumulate)

    def _random_state(self):
        """The states of torch's generators that a step may use: little beside a step, unlike `checkpoint.random_state`."""
        return torch.get_rng_state(), torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None

    def _again(self, batch, drawn, factor, backward=False):
        """Do a step's passes once more. Returns the loss times `factor`, and the gradients' norm if `backward`, of this rank."""
        torch.set_rng_state(drawn[0])
        if drawn[1] is not None:
            torch.cuda.set_rng_state(drawn[1], self.device)
        self.model.zero_grad()
        found = []
        for micro_batch in self._prepared(batch).in_turn(self.spec.train.accumulate):
            loss = self._within(self.objective, self.model, micro_batch)["loss"].sum * factor
            found.append(loss.detach())
            if backward:
                loss.backward()
        gradients = [sharded.local(each.grad) for each in self.model.parameters() if each.grad is not None]
        return [*found, torch.nn.utils.get_total_norm(gradients)] if backward else found

    def _total(self, number):
        """A number summed over all devices."""
        if self.trainer.world_size == 1:
            return number
        return float(self.trainer.strategy.reduce(torch.tensor(float(number), device=self.device), reduce_op="sum"))

    def _reduced(self, means):
        """{metric: number} over the rows of all devices."""
        if self.trainer.world_size > 1:
            # Lightning reduces in place, and metrics may share a sum: each gets one of its own.
            means.totals = {
                name: Mean(self.trainer.strategy.reduce(mean.sum.clone(), reduce_op="sum"), self._total(mean.weight))
                for name, mean in means.totals.items()
            }
        return means.values(empty=0.0)

    def on_save_checkpoint(self, checkpoint):
        checkpoint["random_state"] = ranks.gathered(random_state()) if self.trainer.world_size > 1 else random_state()
        if hasattr(self.objective, "kept"):
            checkpoint["objective"] = self.objective.kept()

    def on_load_checkpoint(self, checkpoint):
        state = checkpoint["random_state"]
        self.batches.first = checkpoint["global_step"]
        if hasattr(self.objective, "restore"):
            self.objective.restore(checkpoint["objective"])
        self.random_state = state[self.trainer.global_rank] if isinstance(state, list) else state

    def on_train_batch_start(self, batch, index):
        """Restore the random state only now, because a data loader draws a random number when it starts."""
        if self.random_state is not None:
            restore_random_state(self.random_state)
            self.random_state = None
