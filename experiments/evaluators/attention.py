"""What attention does, layer by layer and head by head: how spread it is, how far it looks, how large its scores get.

Shapes: B rows, T tokens, t queries of a chunk, S keys that a chunk sees, H query heads, K key/value heads, G = H / K, C
channels per head.
"""

import math
from collections.abc import Iterator
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from arch.contracts import Attending, Chart, Dataset, Findings, Given, Metric
from arch.kernels.attention.reference import visible
from arch.layout import TokenLayout
from arch.model import Model
from arch.registry import evaluator
from arch.spec import Count, Spec, later
from experiments import inside, split_rows

# The most scores that are held at once.
SCORES = 2**21
# The fewest queries of a chunk where the window is shorter.
LEAST = 32
# What is measured of each head, as a column of the table; of a layer it is the mean or the largest over its heads.
MEANS = ("entropy", "entropy_share", "first_token", "distance")
LARGEST = ("largest_logit", "largest_logit_capped")


@evaluator
class AttentionWeights:
    """Per layer and head: entropy of the attention weights, share on the first token, distance, largest logit.

    Computed from the layer's own queries and keys on rows of the split, a chunk of queries at a time. Layers whose mixer
    has no attention weights are left out. Means are over the queries that are no padding, each with the same weight.

    | column | what it is |
    |---|---|
    | `entropy` | -sum p log p over the visible keys, in nats; log n if all n keys get the same |
    | `entropy_share` | entropy / log n, of the queries that see n > 1 keys: 1 is uniform, 0 is a single key |
    | `first_token` | weight on the document's first token, of later queries that see it; `uniform`: the mean 1 / n of the same |
    | `distance` | sum p |query - key|, in tokens |
    | `largest_logit` | the largest score q k before the softmax and before the softcap; `largest_logit_capped`: after it |
    """

    class Config(Spec):
        """rows: how many; all rows of the split if it has fewer. context: tokens per row, by default `data.context`."""

        rows: Count = 16
        context: Annotated[int, Field(ge=2)] | None = later(None)

    needs = frozenset({"attends"})
    metrics = {
        "attention_entropy": Metric(unit="nats", better="neither"),
        "attention_entropy_share": Metric(better="neither"),
        "attention_first_token": Metric(better="neither"),
        "attention_distance": Metric(unit="tokens", better="neither", compare="ratio"),
        "attention_largest_logit": Metric(),
        "attention_largest_logit_capped": Metric(),
    }
    charts = (
        Chart(
            kind="curve",
            x="layer",
            y="entropy_share",
            by="block",
            title="How spread attention is",
            labels={"layer": "layer", "entropy_share": "entropy / log(visible keys)"},
            bounds={"entropy_share": (0.0, 1.0)},
        ),
        Chart(
            kind="grid",
            x="head",
            y="layer",
            value="head_entropy_share",
            title="How spread each head is",
            labels={"layer": "layer", "head": "head", "head_entropy_share": "entropy / log(visible keys)"},
            bounds={"head_entropy_share": (0.0, 1.0)},
        ),
        Chart(
            kind="curve",
            x="layer",
            y="first_token",
            by="block",
            title="Attention on the document's first token",
            labels={"layer": "layer", "first_token": "share of the weights"},
            bounds={"first_token": (0.0, 1.0)},
        ),
        Chart(
            kind="curve",
            x="layer",
            y="largest_logit",
            by="block",
            title="Largest attention logit, before the softcap",
            labels={"layer": "layer", "largest_logit": "logit"},
        ),
        Chart(
            kind="curve",
            x="layer",
            y="distance",
            by="block",
            title="How far attention looks",
            labels={"layer": "layer", "distance": "mean distance, tokens"},
        ),
    )

    def __init__(self, config: Config):
        self.config = config

    def check(self, dataset: Dataset, split: str) -> None:
        """Raises SpecError where the split has no row of this context."""
        split_rows.check(dataset, split, self.config.context)

    def __call__(self, model: Model, dataset: Dataset, given: Given) -> Findings:
        """One row per layer, and one per head of each; the metrics are means over layers, or the largest of all."""
        batches = split_rows.read(dataset, given, self.config.rows, self.config.context)
        layers: dict[int, _Layer] = inside.looked(model, "attending", batches, _Layer)
        blocks = model.spec.layer_blocks()
        seen = {layer: each for layer, each in layers.items() if each.queries}
        whole = {layer: each.row() for layer, each in seen.items()}
        values = {name: [row[name] for row in whole.values() if row[name] is not None] for name in (*MEANS, *LARGEST)}
        metrics = {f"attention_{name}": max(each) if name in LARGEST else _mean(each) for name, each in values.items() if each}
        table = [
            {"layer": layer, "block": blocks[layer], "head": head} | dict.fromkeys(COLUMNS) | row
            for layer, each in seen.items()
            for head, row in ((None, whole[layer]), *enumerate(each.heads()))
        ]
        return Findings(metrics, table)


COLUMNS = ("visible_keys", "uniform", *MEANS, *LARGEST, *(f"head_{name}" for name in (*MEANS, *LARGEST)))


class _Layer:
    """Sums over the queries of one layer, per head."""

    def __init__(self) -> None:
        self.queries = 0
        self.sums: dict[str, Tensor] = {}  # float64; (H,) of each of MEANS, else a number
        self.largest: dict[str, Tensor] = {}  # (H,)

    def add(self, shown: Attending, layout: TokenLayout) -> None:
        """Everything that is measured of the queries of some rows."""
        real_BT = layout.doc_BT >= 0
        self.queries += int(real_BT.sum())
        with torch.autocast(shown.q_BTHC.device.type, enabled=False):
            for part in _chunks(shown):
                self._add(shown, part, real_BT[:, part], layout.pos_BT[:, part])

    def _add(self, shown, part, real_Bt, pos_Bt):
        low_Bt, high_Bt = shown.low_BT[:, part], shown.high_BT[:, part]
        first, end = int(low_Bt.min()), int(high_Bt.max()) + 1
        z_BHtS = _scores(shown, part, first, end)
        index_S = torch.arange(first, end, device=z_BHtS.device)
        hidden_B1tS = ~(visible(low_Bt, high_Bt, index_S) & real_Bt[..., None])[:, None]
        self._keep("largest_logit", z_BHtS, hidden_B1tS)
        if shown.softcap is not None:
            z_BHtS = shown.softcap * torch.tanh(z_BHtS / shown.softcap)
        self._keep("largest_logit_capped", z_BHtS, hidden_B1tS)
        p_BHtS = z_BHtS.masked_fill_(hidden_B1tS, float("-inf")).softmax(-1)

        index_t = torch.arange(part.start, part.stop, device=index_S.device)
        visible_Bt = (high_Bt - low_Bt + 1).to(p_BHtS.dtype)
        several_Bt = real_Bt & (visible_Bt > 1)
        begin_Bt = index_t - pos_Bt
        later_Bt = real_Bt & (pos_Bt > 0) & (begin_Bt >= low_Bt)
        at_B1t1 = (begin_Bt - first).clamp(0, end - first - 1)[:, None, :, None]
        entropy_BHt = torch.special.entr(p_BHtS).sum(-1)
        self._sum("entropy", entropy_BHt, real_Bt)
        self._sum("entropy_share", entropy_BHt / visible_Bt.log()[:, None], several_Bt)
        self._sum("first_token", p_BHtS.gather(-1, at_B1t1.expand(-1, p_BHtS.shape[1], -1, -1))[..., 0], later_Bt)
        self._sum("uniform", (1 / visible_Bt)[:, None], later_Bt)
        self._sum("distance", (p_BHtS * (index_t[:, None] - index_S).abs()).sum(-1), real_Bt)
        self._sum("visible_keys", visible_Bt[:, None], real_Bt)

    def _sum(self, name, x_BHt, counted_Bt):
        """Add x where it counts; what does not count may be NaN."""
        sums_H = x_BHt.masked_fill(~counted_Bt[:, None], 0).sum((0, 2)).cpu().double()
        for key, value in ((name, sums_H), (f"{name} of", counted_Bt.sum().cpu().double())):
            self.sums[key] = self.sums.get(key, 0) + value

    def _keep(self, name, z_BHtS, hidden_B1tS):
        most_H = z_BHtS.masked_fill(hidden_B1tS, float("-inf")).amax((0, 2, 3)).cpu()
        self.largest[name] = torch.maximum(self.largest.get(name, most_H), most_H)

    def _by_head(self, name):
        """The mean per head as a list; None where no query counts."""
        count = float(self.sums[f"{name} of"])
        return (self.sums[name] / count).tolist() if count else None

    def row(self) -> dict[str, Any]:
        """The layer's means over its heads, and its largest logits."""
        by_head = {name: self._by_head(name) for name in ("visible_keys", "uniform", *MEANS)}
        means: dict[str, Any] = {name: values and _mean(values) for name, values in by_head.items()}
        return means | {name: float(self.largest[name].max()) for name in LARGEST}

    def heads(self) -> Iterator[dict[str, Any]]:
        """The same head by head, in columns of their own."""
        means = {name: self._by_head(name) for name in MEANS}
        for head in range(len(self.largest[LARGEST[0]])):
            row: dict[str, Any] = {f"head_{name}": values and values[head] for name, values in means.items()}
            yield row | {f"head_{name}": float(self.largest[name][head]) for name in LARGEST}


def _scores(shown, part, first, end):
    """scale q k^T of the queries `part` and the keys [first, end), (B, H, t, S), in float32 at least."""
    wide = torch.promote_types(shown.q_BTHC.dtype, torch.float32)
    q_BtKGC = shown.q_BTHC[:, part].to(wide).unflatten(2, (shown.k_BTKC.shape[2], -1))
    k_BSKC = shown.k_BTKC[:, first:end].to(wide)
    return torch.einsum("btkgc,bskc->bkgts", q_BtKGC * shown.scale, k_BSKC).flatten(1, 2)


def _chunks(shown):
    """Slices of the queries, so few at once that no more than SCORES scores are held, or one."""
    rows, tokens, heads, _ = shown.q_BTHC.shape
    window = int((shown.high_BT - shown.low_BT).max()) + 1
    most = max(window, LEAST)
    size = max(1, min(most, SCORES // (rows * heads * min(tokens, window + most))))
    for start in range(0, tokens, size):
        yield slice(start, min(start + size, tokens))


def _mean(values):
    return math.fsum(values) / len(values)
