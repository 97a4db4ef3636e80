"""A coordinate check: how the scale of activations depends on width after a few steps, at a learning rate.

If a learning rate that suits a narrow model suits a wide one too, then every sub-layer's output and the logits have the same
scale at every width, also after training has moved the weights (Yang et al. 2022, arXiv 2203.03466, appendix D.1). Where a
scale grows as a power of the width, each step of the wide model changes it by more: the rate is too high there.

Width is varied in `model.dim` and, by the same factor, in what components call `heads`, `kv_heads` (at least 1), `hidden`,
`width` and `blocks` (of block-diagonal gates); `head_dim` stays. The rate is the peak rate in every step, without a warm-up.
"""

import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pytorch_lightning as pl

from arch import registry
from arch.contracts import Given
from arch.document import node
from arch.errors import SpecError
from arch.model import new_model
from arch.spec import Spec
from arch.words import listed
from experiments import references
from experiments.data.dataset import prepare
from experiments.evaluate import evaluating
from experiments.module import TrainingModule
from experiments.plan import resolve
from experiments.spec import ExperimentSpec
from experiments.train import new_trainer

# What grows with the width of the model in a component of ours.
SCALED = ("heads", "kv_heads", "hidden", "width", "blocks")
PLACES = ("mixer", "ffn", "stream", "logits")
# A slope of log scale against log width within this is flat: four times the width changes the scale by less than a third.
FLAT = 0.2
SEED, ROWS = 0, 8
CONSTANT = {"type": "cosine", "warmup": 0.0, "final": 1.0}


class Coordinate(Spec):
    """The scale of one activation. rate: the peak learning rate of the study's own width. scaled_rate: the one it was trained
    with at this width. layer: None for the logits. rms: over tokens and channels.
    """

    rate: float
    scaled_rate: float
    width: int
    step: int
    layer: int | None
    place: str
    rms: float


@dataclass(frozen=True)
class Slope:
    """How the scale of one activation depends on width. first, last: the slope of log scale against log width at step 0 and
    after the last step. scales: {width: scale after the last step}.
    """

    place: str
    layer: int | None
    first: float
    last: float
    scales: Mapping[int, float]

    @property
    def name(self) -> str:
        """`ffn of layer 3`, `logits`."""
        return self.place if self.layer is None else f"{self.place} of layer {self.layer}"


def widened(spec: ExperimentSpec, width: int) -> ExperimentSpec:
    """A resolved experiment at another width. Raises SpecError where a number of heads or units would not be whole."""
    factor = width / spec.model.dim
    plain = spec.dump()
    plain["model"]["dim"] = width
    for name, block in plain["model"]["blocks"].items():
        for kind, component in block.items():
            for key in SCALED if isinstance(component, dict) else ():
                if isinstance(component.get(key), int):
                    wanted = component[key] * factor
                    if key == "kv_heads":
                        wanted = max(1, round(wanted))
                    if wanted != int(wanted) or wanted < 1:
                        what = f"model.blocks.{name}.{kind}.{key} = {component[key]}"
                        reason = f"width {width}: {what} times {width} / {spec.model.dim} is {wanted:g}; expected a whole number"
                        raise SpecError(f"{reason} (choose other --widths)")
                    component[key] = int(wanted)
    return resolve(node(plain))


def measure(
    spec: ExperimentSpec,
    widths: Sequence[int],
    steps: int,
    rates: Iterable[float],
    scale: Callable[[ExperimentSpec, ExperimentSpec], float] = lambda here, base: 1.0,
    told: Callable[[str], None] = lambda text: None,
) -> list[Coordinate]:
    """The Coordinates of a resolved experiment at every width, rate and step from 0 to `steps`.

    scale: the factor of the rate at a width, given the experiment there and as written. told: is given a line per training.
    Raises SpecError for widths that the model cannot have, and for an experiment that needs another run.
    """
    if references.of(spec):
        raise SpecError("a coordinate check trains from the first weights on; the experiment needs another run")
    wide = {width: widened(spec, width) for width in widths}
    corpus = prepare(spec.data, spec.model.vocab_size)
    found = []
    for rate in rates:
        for width, here in wide.items():
            own = rate * scale(here, spec)
            told(f"width {width}, learning rate {own:.3g}")
            optimizer = {**here.optimizer, "lr": own}
            train = here.train.model_copy(update={"steps": steps})
            trained = here.model_copy(update={"optimizer": optimizer, "schedule": CONSTANT, "train": train})
            for step, layer, place, rms in _scales(trained, corpus):
                each = Coordinate(rate=rate, scaled_rate=own, width=width, step=step, layer=layer, place=place, rms=rms)
                found.append(each)
    return found


def _scales(spec, corpus):
    """[(step, layer, place, rms)] of a training run of `train.steps` steps."""
    pl.seed_everything(SEED, verbose=False)
    model = new_model(spec.model, SEED)
    objective = references.objective(spec, corpus, {})
    module = TrainingModule(model, objective, spec, corpus, SEED)
    watch = _Scales(spec, corpus)
    with tempfile.TemporaryDirectory(prefix="archbench-") as folder:
        new_trainer(spec.train, [watch], folder).fit(module)
    return watch.found


class _Scales(pl.Callback):
    """Measures the scale of every sub-layer's output and of the logits, before the first step and after each."""

    def __init__(self, spec, corpus):
        self.spec, self.corpus, self.found = spec, corpus, []
        self.evaluator = registry.build("evaluator", {"type": "activations", "rows": ROWS})

    def on_train_start(self, trainer, module):
        self._measure(module, 0)

    def on_train_batch_end(self, trainer, module, outputs, batch, index):
        self._measure(module, trainer.global_step)

    def _measure(self, module, step):
        data = self.spec.data
        given = Given(module.objective, module.objective, "select", data.context, data.rows, module.device, SEED)
        with evaluating(module.model, module.objective):
            table = self.evaluator(module.model, self.corpus, given).table
        self.found += [(step, row["layer"], row["place"], row["rms"]) for row in table if row["place"] in PLACES and row["rms"]]


def slopes(found: Sequence[Coordinate], rate: float) -> list[Slope]:
    """The Slopes of all activations at one rate, in the order of the model."""
    here = [each for each in found if each.rate == rate]
    last = max(each.step for each in here)
    made = []
    for layer, place in dict.fromkeys((each.layer, each.place) for each in here):
        mine = [each for each in here if (each.layer, each.place) == (layer, place)]
        ends = [{each.width: each.rms for each in mine if each.step == step} for step in (0, last)]
        made.append(Slope(place, layer, _slope(ends[0]), _slope(ends[1]), ends[1]))
    return made


def _slope(scales):
    if len(scales) < 2:
        return float("nan")
    return float(np.polyfit(np.log(list(scales)), np.log(list(scales.values())), 1)[0])


def verdict(found: Sequence[Slope], steps: int) -> str:
    """One line: whether every scale is flat in the width, or which grow or fall, the steepest first."""
    steep = sorted((each for each in found if not abs(each.last) <= FLAT), key=lambda each: -abs(each.last))
    after = f"after {steps} step{'' if steps == 1 else 's'}"
    if not steep:
        return f"{after}, all is flat: no activation changes with the width by more than width^±{FLAT:g}"
    kinds = {"grows": [each for each in steep if each.last > 0], "falls": [each for each in steep if not each.last > 0]}
    parts = []
    for kind, those in kinds.items():
        if those:
            first = those[0]
            verb = kind if len(those) == 1 else kind.removesuffix("s")
            most = f"most {first.name}, as width^{first.last:+.2f} (width^{first.first:+.2f} before the first step)"
            parts.append(f"{len(those)} of {len(found)} activations {verb} with the width, {most}")
    advice = "; this rate does not carry over to another width" if kinds["grows"] else ""
    return f"{after}, {listed(parts)}{advice}"
