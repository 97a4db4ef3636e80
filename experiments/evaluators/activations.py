"""How large the numbers inside a model get.

Shapes: B rows, T tokens, N tokens in a row, D model width, V vocabulary.
"""

import math
import weakref
from collections.abc import Iterator
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn

from arch.contracts import Chart, Dataset, Findings, Given, Metric
from arch.kernels import products
from arch.model import Model
from arch.registry import evaluator
from arch.spec import Count, Spec, later
from experiments import inside, split_rows

# The largest finite number of float16.
FLOAT16 = 65504.0
# The most logits that are held at once.
LOGITS = 2**22


@evaluator
class Activations:
    """Scale (rms) and largest absolute value of what flows through each layer, so that a float16 overflow is foreseen.

    | place | what is looked at |
    |---|---|
    | `embedding` | the stream before the first layer |
    | `mixer`, `ffn` | the component's output; `mixer added`, `ffn added`: after the norm behind it, where there is one |
    | `mixer hidden`, `ffn hidden` | what its last map reads: the heads' outputs; the ffn's hidden units |
    | `mixer inside`, `ffn inside` | the largest value that another module inside gives, and which one (`at`) |
    | `stream` | the residual stream after the layer |
    | `final norm`, `logits` | what the head reads; the logits before their softcap |

    Padding does not count. Attention scores are looked at by the evaluator `attention`. The numbers are those of the
    precision that the model runs in: run a model in float32 or bfloat16 to learn whether it would fit into float16.
    """

    class Config(Spec):
        """rows: how many; all rows of the split if it has fewer. context: tokens per row, by default `data.context`."""

        rows: Count = 16
        context: Annotated[int, Field(ge=2)] | None = later(None)

    needs: frozenset[str] = frozenset()
    metrics = {
        "largest_activation": Metric(compare="ratio"),
        "float16_headroom": Metric(better="higher", compare="ratio"),
        "stream_rms": Metric(better="neither", compare="ratio"),
    }
    charts = (
        Chart(
            kind="curve",
            x="layer",
            y="rms",
            by="place",
            title="Scale of activations",
            labels={"layer": "layer", "rms": "root mean square"},
            log=("rms",),
        ),
        Chart(
            kind="curve",
            x="layer",
            y="largest",
            by="place",
            title="Largest activations (float16 ends at 65,504)",
            labels={"layer": "layer", "largest": "largest absolute value"},
            log=("largest",),
        ),
    )

    def __init__(self, config: Config):
        self.config = config

    def check(self, dataset: Dataset, split: str) -> None:
        """Raises SpecError where the split has no row of this context."""
        split_rows.check(dataset, split, self.config.context)

    def __call__(self, model: Model, dataset: Dataset, given: Given) -> Findings:
        """`float16_headroom` is 65,504 / largest_activation: below 1, float16 overflows on these rows."""
        watch = _Watch(model)
        with inside.removed(watch.hooks()):
            for batch in split_rows.read(dataset, given, self.config.rows, self.config.context):
                for rows in batch.values():
                    watch.real_BT = rows.layout.doc_BT >= 0
                    hidden_BTD, _ = model.trunk(rows.tokens_BT, rows.layout)
                    watch.see((None, "final norm"), hidden_BTD)
                    for part_ND in _parts(hidden_BTD[watch.real_BT], len(model.head_weight)):
                        watch.see((None, "logits"), products.linear(part_ND, model.head_weight, wide=True))
        blocks = model.spec.layer_blocks()
        table = [
            {"layer": layer, "block": None if layer is None else blocks[layer], "place": place} | scale.row()
            for (layer, place), scale in sorted(watch.scales.items(), key=lambda item: _order(item[0], model))
        ]
        largest = max((scale.largest for scale in watch.scales.values()), default=0.0)
        values = {"largest_activation": largest}
        if largest:
            values["float16_headroom"] = FLOAT16 / largest
        if stream := watch.scales.get((len(blocks) - 1, "stream")):
            values["stream_rms"] = stream.row()["rms"]
        return Findings(values, table)


def _order(key, model):
    """The order of execution: the stream's places within a layer, the head's last."""
    layer, place = key
    if layer is None:
        return (-1 if place == "embedding" else len(model.blocks), 0, place)
    kinds = [*(kind for kind, _ in _sublayers(model.blocks[layer])), "stream"]
    return (layer, kinds.index(place.split()[0]), ("hidden", "inside", "", "added").index(place.partition(" ")[2]))


def _parts(hidden_ND: Tensor, vocabulary: int) -> Iterator[Tensor]:
    """Some tokens at a time, so that no more than LOGITS logits are held."""
    return iter(hidden_ND.split(max(1, LOGITS // vocabulary)))


class _Scale:
    """Root mean square and largest absolute value of everything that was added. at: the name of what was largest."""

    def __init__(self) -> None:
        self.squares, self.count, self.largest, self.at = 0.0, 0, 0.0, ""

    def add(self, x: Tensor) -> None:
        if x.numel():
            self.squares += float(torch.linalg.vector_norm(x, dtype=torch.promote_types(x.dtype, torch.float32))) ** 2
            self.count += x.numel()
            self.keep(_largest(x))

    def keep(self, largest: float, at: str = "") -> None:
        """Only the largest value; at: where it is."""
        if not largest <= self.largest:  # also where it is not a number
            self.largest, self.at = largest, at

    def row(self) -> dict[str, Any]:
        rms = math.sqrt(self.squares / self.count) if self.count else None
        headroom = FLOAT16 / self.largest if self.largest else None
        return {"rms": rms, "largest": self.largest, "float16_headroom": headroom, "at": self.at or None}


class _Watch:
    """Hooks that add up the scale of each place, (layer or None, place)."""

    def __init__(self, model: Model):
        self.model = model
        self.scales: dict[tuple[int | None, str], _Scale] = {}
        self.real_BT: Tensor = torch.zeros(0)

    def see(self, key: tuple[int | None, str], x: Tensor) -> None:
        """Add a tensor, without the padding if it has the batch's rows and tokens in front."""
        self.scales.setdefault(key, _Scale()).add(self._real(x))

    def _real(self, x):
        return x[self.real_BT] if x.shape[:2] == self.real_BT.shape and not self.real_BT.all() else x

    def hooks(self) -> Iterator[Any]:
        """Registers hooks on every part of the model."""
        blocks: Any = self.model.blocks
        yield blocks[0].register_forward_pre_hook(lambda block, args: self.see((None, "embedding"), args[0]))
        for layer, block in enumerate(blocks):
            for kind, sublayer in _sublayers(block):
                yield from self._component(layer, kind, sublayer.component)
                if not isinstance(sublayer.after, nn.Identity):
                    yield self._output(sublayer.after, (layer, f"{kind} added"))
            yield self._output(block, (layer, "stream"))

    def _output(self, module, key):
        return module.register_forward_hook(lambda module, args, output: self.see(key, _first(output)))

    def _component(self, layer, kind, component):
        """Of a component: its output, what its last module reads, and the largest value that a module inside gives."""
        last: list[Tensor] = []
        given: list[tuple[Any, str, float]] = []  # (weak reference to a tensor, its module, its largest value)

        def inner(name):
            def hook(module, args, output):
                made = output if isinstance(output, tuple | list) else (output,)
                given.extend((weakref.ref(each), name, _largest(self._real(each))) for each in made if _is_number(each))
                last[:] = filter(_is_number, args[:1])

            return hook

        def outer(module, args, output):
            self.see((layer, kind), _first(output))
            for each in last:
                self.see((layer, f"{kind} hidden"), each)
            for tensor, name, largest in given:
                if tensor() is not _first(output):
                    self.scales.setdefault((layer, f"{kind} inside"), _Scale()).keep(largest, name)
            last.clear()
            given.clear()

        for name, module in component.named_modules():
            if name and not isinstance(module, nn.ModuleList):
                yield module.register_forward_hook(inner(name))
        yield component.register_forward_hook(outer)


def _is_number(value):
    return isinstance(value, Tensor) and value.is_floating_point()


def _largest(x):
    """The largest absolute value of a tensor."""
    return float(torch.linalg.vector_norm(x, float("inf"))) if x.numel() else 0.0


def _sublayers(block):
    """(kind, sublayer) of a block, in the order of execution."""
    return [(kind, sublayer) for kind, sublayer in block.named_children() if sublayer is not None]


def _first(output):
    return output[0] if isinstance(output, tuple) else output
