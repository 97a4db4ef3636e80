"""What the state of a stream takes, counted on states that were filled, against the number of its tokens (Gemma 3, figure 6)."""

from typing import Annotated, Any

import torch
from pydantic import Field

from arch import cost
from arch.contracts import Chart, Dataset, Findings, Given, Metric
from arch.generate import prefill
from arch.model import Model
from arch.model_spec import ModelSpec
from arch.registry import evaluator
from arch.spec import Count, List, Spec
from experiments import state_size

BYTES = Metric(unit="B", compare="ratio", any_tokenizer=True, varies="never")


@evaluator
class StateBytes:
    """Bytes of real states: for each length one is made with room for so many tokens, and filled by reading drawn tokens.

    Counted are its tensors after the last token, and the memory behind them. These are counts: every seed has the same. The
    picture has the curve of the paper's figure 6 for any model.

    | column | what it is |
    |---|---|
    | `length` | tokens of each stream |
    | `state_bytes` | the tensors of the state, per stream; `foreseen_bytes`: what `archbench show` says; their ratio |
    | `held_bytes` | the memory behind these tensors, per stream; `allocated_bytes`: on CUDA, what the allocator counts for it |
    | `over_weights` | `held_bytes` over the bytes of the weights: the overhead of one stream |
    """

    class Config(Spec):
        """lengths: tokens of a stream. streams: how many are in a state."""

        lengths: Annotated[List[Count], Field(min_length=1)]
        streams: Count = 1

    needs = frozenset({"decodes"})
    reads_images = True  # it reads no rows of the data
    charts = (
        Chart(
            kind="curve",
            x="length",
            y="held_bytes",
            title="Memory of the state of one stream",
            labels={"length": "tokens", "held_bytes": "bytes"},
            log=("length", "held_bytes"),
        ),
        Chart(
            kind="curve",
            x="length",
            y="over_weights",
            title="Memory of one stream over that of the weights",
            labels={"length": "tokens", "over_weights": "state over weights"},
            log=("length",),
        ),
    )

    def __init__(self, config: Config):
        self.config = config
        self.lengths = sorted(set(config.lengths))
        ratio = Metric(compare="ratio", any_tokenizer=True, varies="never")
        self.metrics = {f"state_bytes@{length}": BYTES for length in self.lengths}
        self.metrics |= {f"state_over_weights@{length}": ratio for length in self.lengths}
        self.metrics |= {"state_over_foreseen": ratio, "state_held_over_foreseen": ratio}

    def flops(self, model: ModelSpec, rows: int, context: int) -> float:
        """Those of reading the tokens of every state."""
        prefill = {each: cost.outline(model, each)["flops_per_token"]["ideal"]["prefill"] for each in self.lengths}
        return self.config.streams * sum(length * each for length, each in prefill.items())

    def __call__(self, model: Model, dataset: Dataset, given: Given) -> Findings:
        """`state_bytes@LENGTH`: the memory behind the tensors of one stream. `state_over_weights@LENGTH`: that, over the weights'.

        `state_over_foreseen`: the tensors' bytes over what is foreseen; `state_held_over_foreseen`: the memory behind them. Both
        are of the length at which they are farthest from 1.
        """
        weights = sum(weight.nbytes for weight in model.parameters())
        table = [self._row(model, dataset, given, length, weights) for length in self.lengths]
        values = {f"state_bytes@{row['length']}": row["held_bytes"] for row in table}
        values |= {f"state_over_weights@{row['length']}": row["over_weights"] for row in table}
        for name, column in (("state_over_foreseen", "state_bytes"), ("state_held_over_foreseen", "held_bytes")):
            if ratios := [row[column] / row["foreseen_bytes"] for row in table if row["foreseen_bytes"]]:
                values[name] = max(ratios, key=lambda ratio: abs(ratio - 1))
        return Findings(values, table)

    def _row(self, model, dataset, given, length, weights) -> dict[str, Any]:
        streams, device = self.config.streams, model.embedding.device
        drawn = torch.randint(dataset.vocabulary, (streams, length), generator=torch.Generator().manual_seed(given.seed))
        before = torch.cuda.memory_allocated(device) if device.type == "cuda" else 0
        tokens_BT = drawn.to(device)
        scores_BV, state = prefill(model, tokens_BT, model.init_state(streams, length))
        del scores_BV, tokens_BT
        tensors, held = (state_size.each(total, streams) for total in state_size.held(state))
        allocated = torch.cuda.memory_allocated(device) - before if device.type == "cuda" else None
        foreseen = state_size.foreseen(model, length)
        return {
            "length": length,
            "state_bytes": tensors,
            "foreseen_bytes": foreseen,
            "state_over_foreseen": tensors / foreseen if foreseen else None,
            "held_bytes": held,
            "allocated_bytes": None if allocated is None else state_size.each(allocated, streams),
            "over_weights": held / weights,
        }
