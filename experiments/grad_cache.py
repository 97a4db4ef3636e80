"""GradCache (Gao et al. 2021, arXiv 2101.06983): the gradient of a loss over all vectors of a step, with the memory of a few texts.

A contrastive loss depends on all rows of a step at once, those of other micro-batches and other ranks too. So a step has two
passes. `fill`, once a step: all rows are embedded, micro-batch by micro-batch; the vectors of all ranks are gathered; the loss is
computed on them, term by term, and its gradient for each vector of this rank is kept beside its row. Then each micro-batch is
embedded again, with a graph (`again`), and `pulled` by its gradients: a number whose gradient for the weights is that of the loss,
by the chain rule. A model that draws random numbers draws the same ones in both passes.

The second pass holds the graph of one micro-batch at a time, so the first pass may hold one too: that of the first micro-batch is
kept and not made again, and the loss's terms stand beside it. A rank with a single micro-batch, of several ranks, pays no second
pass at all.

Shapes: B rows of this rank, G rows of all ranks, E width of the vectors.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from arch.model import Model
from experiments import ranks, sharded
from experiments.data.batch import Batch

Vectors = dict[str, Tensor]  # {kind of rows: (B, E)}
# Names in `Rows.extra`. The seed is of the micro-batch that a row is in, and stays on the CPU.
GRADIENT, SEED = "gradient", "seed"
SEEDS = 2**62


def vectors(model: Model, batch: Batch) -> Vectors:
    """The vectors of a batch's rows, kind by kind: texts of different kinds have different lengths."""
    return {kind: model.vectors(rows.tokens_BT, rows.layout) for kind, rows in batch.items()}


class GradCache:
    """Both passes of the steps of one objective."""

    def __init__(self) -> None:
        self._kept: tuple[int, Vectors] | None = None  # the seed of a micro-batch, and its vectors with their graph

    def fill(self, model: Model, batch: Batch, losses: Callable[[Vectors], Iterable[Tensor]]) -> None:
        """The first pass. Keeps d loss / d vector of this rank's rows in `extra`.

        losses: called once; the numbers that the loss is the sum of, from the vectors {kind: (G, E)} of all ranks; what they add
        up must cover everything that depends on rows of this rank. Each is passed back before the next is made, as each holds
        G x G numbers beside the kept graph. All ranks must call this, with as many rows each. `batch.parts` says into how many
        micro-batches it is split.
        """
        seeds = torch.randint(SEEDS, (batch.parts,))
        for rows in batch.values():
            rows.extra[SEED] = seeds.repeat_interleave(batch.rows // batch.parts)
        self._kept, found = None, []
        for number, part in enumerate(batch.in_turn(batch.parts)):
            with torch.set_grad_enabled(number == 0 and not sharded.is_sharded(model)):
                found.append(self.again(model, part))
        if found[0][next(iter(batch))].requires_grad:
            self._kept = int(seeds[0]), found[0]
        every = {kind: ranks.stacked(torch.cat([each[kind].detach() for each in found])) for kind in batch}
        with torch.enable_grad():
            leaves = {kind: x_GE.requires_grad_() for kind, x_GE in every.items()}
            for loss in losses(leaves):
                loss.backward()
        own = ranks.share(batch.rows)
        for kind, x_GE in leaves.items():
            batch[kind].extra[GRADIENT] = (torch.zeros_like(x_GE) if x_GE.grad is None else x_GE.grad)[own]

    def again(self, model: Model, batch: Batch) -> Vectors:
        """The vectors of a micro-batch with the random numbers that are its own; those with a graph are given out once."""
        rows = next(iter(batch.values()))
        seed, kept = int(rows.extra[SEED][0]), self._kept
        if kept and kept[0] == seed:
            self._kept = None
            return kept[1]
        with _replayed(seed, rows.tokens_BT.device):
            return vectors(model, batch)


def is_filled(batch: Batch) -> bool:
    """Whether these rows have had their first pass."""
    return all(GRADIENT in rows.extra for rows in batch.values())


def pulled(found: Vectors, batch: Batch) -> Tensor:
    """The sum over rows and kinds of vector . gradient: a number whose gradient for the weights is the loss's."""
    products = [(found[kind] * rows.extra[GRADIENT]).sum() for kind, rows in batch.items()]
    return torch.stack(products).sum()


def valued(number: Tensor, pull: Tensor) -> Tensor:
    """That number with the gradient of `pull`."""
    return pull + (number - pull).detach()


@contextmanager
def _replayed(seed: int, device: torch.device) -> Iterator[None]:
    """Context manager: torch draws from this seed. Afterwards it goes on as if nothing had been drawn."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
