"""How long the channels of a recurrent layer remember.

Shapes: B rows, T tokens, R channels.
"""

import math
from itertools import pairwise
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from arch.contracts import Chart, Dataset, Decaying, Findings, Given, Metric
from arch.layout import TokenLayout
from arch.model import Model
from arch.registry import evaluator
from arch.spec import Count, Spec, later
from experiments import inside, split_rows

# Bars of the histogram per factor of ten, and the factors of ten that it spans, from 1 token on. They are the same for every
# layer, seed and arm, so that bars can be compared; what lies outside is in the outermost bars.
BARS, DECADES = 4, 5
# The slowest decay per token that is told from none: a state whose a_t is nearer to 1 counts as this.
SLOWEST = 1e-9
QUANTILES = {"lowest_tenth": 0.1, "median": 0.5, "highest_tenth": 0.9}


@evaluator
class Decay:
    """Time constants -1 / log a of every channel, in tokens: after so many tokens, 1 / e of a state is left.

    | kind | log a is |
    |---|---|
    | `open gate` | that of the parameter alone, with an open gate: the fastest decay that the channel can have |
    | `measured` | the mean of log a_t over the tokens of real rows that begin no document: what the gate makes of it |

    So `measured` is never below `open gate`. Layers whose mixer has no such decay are left out. The table has a row per
    layer and kind, with the median and the outer tenths of its channels, and rows of a histogram with logarithmic bars from
    1 to 100,000 tokens; what lies outside is in the outermost bars.
    """

    class Config(Spec):
        """rows: how many; all rows of the split if it has fewer. context: tokens per row, by default `data.context`."""

        rows: Count = 16
        context: Annotated[int, Field(ge=2)] | None = later(None)

    needs = frozenset({"decays"})
    metrics = {
        "decay_time_constant": Metric(unit="tokens", better="neither", compare="ratio"),
        "decay_time_constant_open_gate": Metric(unit="tokens", better="neither", compare="ratio"),
        "decay_beyond_context": Metric(better="neither"),
    }
    charts = (
        Chart(
            kind="curve",
            x="layer",
            y="median",
            by="kind",
            title="Median time constant of a layer's channels",
            labels={"layer": "layer", "median": "tokens"},
            log=("median",),
        ),
        Chart(
            kind="histogram",
            x="from",
            to="to",
            y="channels",
            by="panel",
            title="Time constants of the channels",
            labels={"from": "time constant, tokens", "channels": "channels"},
            log=("from",),
        ),
    )

    def __init__(self, config: Config):
        self.config = config

    def check(self, dataset: Dataset, split: str) -> None:
        """Raises SpecError where the split has no row of this context."""
        split_rows.check(dataset, split, self.config.context)

    def __call__(self, model: Model, dataset: Dataset, given: Given) -> Findings:
        """Medians over all channels of all layers; `decay_beyond_context` is the share of channels beyond the row's length."""
        batches = split_rows.read(dataset, given, self.config.rows, self.config.context)
        layers: dict[int, _Layer] = inside.looked(model, "decaying", batches, _Layer)
        found = {layer: each.constants() for layer, each in layers.items() if each.tokens}
        blocks = model.spec.layer_blocks()
        if not found:
            return Findings({})
        table: list[dict[str, Any]] = []
        for layer, kinds in found.items():
            for kind, constants_R in kinds.items():
                row = dict.fromkeys(COLUMNS) | {"layer": layer, "block": blocks[layer], "kind": kind}
                table.append(row | _quantiles(constants_R) | {"gate": layers[layer].gate() if kind == "measured" else None})
                panel = {"panel": f"layer {layer}, {kind}"}
                table += [dict.fromkeys(COLUMNS) | {"layer": layer} | panel | bar for bar in _bars(constants_R)]
        measured, fastest = (torch.cat([kinds[kind] for kinds in found.values()]) for kind in ("measured", "open gate"))
        context = self.config.context or given.context
        values = {
            "decay_time_constant": float(measured.quantile(0.5)),
            "decay_time_constant_open_gate": float(fastest.quantile(0.5)),
            "decay_beyond_context": float((measured > context).double().mean()),
        }
        return Findings(values, table)


COLUMNS = ("layer", "block", "kind", *QUANTILES, "gate", "panel", "from", "to", "channels")


class _Layer:
    """The sum of log a_t over tokens, per channel, of one layer."""

    def __init__(self) -> None:
        self.tokens = 0
        self.log_a_R: Tensor = torch.zeros(())
        self.fastest_R: Tensor = torch.zeros(())

    def add(self, shown: Decaying, layout: TokenLayout) -> None:
        """The tokens that continue a document."""
        counted_BT1 = ~layout.reset_BT[..., None]
        self.tokens += int(counted_BT1.sum())
        self.log_a_R = self.log_a_R + shown.log_a_BTR.masked_fill(~counted_BT1, 0).sum((0, 1)).cpu().double()
        self.fastest_R = shown.log_a_R.cpu().double()

    def constants(self) -> dict[str, Tensor]:
        """{kind: time constants (R,) in tokens}."""
        kinds = {"open gate": self.fastest_R, "measured": self.log_a_R / self.tokens}
        return {kind: 1 / (-log_a_R).clamp(min=SLOWEST) for kind, log_a_R in kinds.items()}

    def gate(self) -> float:
        """The mean over channels of the mean gate: log a_t over that of an open gate."""
        return float((self.log_a_R / self.tokens / self.fastest_R.clamp(max=-SLOWEST)).mean())


def _quantiles(constants_R):
    return {name: float(constants_R.quantile(share)) for name, share in QUANTILES.items()}


def _bars(constants_R):
    """{from, to, channels} of every bar."""
    last = BARS * DECADES - 1
    bar_R = (constants_R.log10() * BARS).floor().long().clamp(0, last)
    counts = torch.bincount(bar_R, minlength=last + 1).tolist()
    edges = [math.pow(10, i / BARS) for i in range(last + 2)]
    return [{"from": low, "to": high, "channels": n} for (low, high), n in zip(pairwise(edges), counts, strict=True)]
