"""The spec of a study: a question, the arms that differ, the seeds, and the scales at which the study can run."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from arch import document
from arch.errors import SpecError, nearest
from arch.spec import Count, List, Positive, Spec, later
from experiments.spec import ExperimentSpec

Seeds = Annotated[int, Field(ge=1, le=1000)]


class Range(Spec):
    """Values of one dotted key to try: `points` on a grid between `low` and `high`, both included."""

    low: float
    high: float
    log: bool = True
    points: Annotated[int, Field(ge=2)] = 5

    @model_validator(mode="after")
    def _is_a_range(self):
        if self.low >= self.high:
            raise ValueError(f"low = {self.low:g} must be below high = {self.high:g}")
        if self.log and self.low <= 0:
            raise ValueError(f"low = {self.low:g} must be above 0 on a log scale")
        return self

    def values(self):
        """The grid, ascending."""
        if self.log:
            return [self.low * (self.high / self.low) ** (i / (self.points - 1)) for i in range(self.points)]
        return [self.low + (self.high - self.low) * i / (self.points - 1) for i in range(self.points)]


class TuneSpec(Spec):
    """One search per arm before its reported runs, on the select split and with separate seeds (from `first_seed` up).

    Trials are never reported. `trials` limits the number of TPE trials; the grid runs every point.
    """

    space: dict[str, Range]
    sampler: Literal["grid", "tpe"] = "grid"
    trials: Count | None = None
    seeds: Count = 1
    first_seed: Count = 1000
    metric: Literal["select/loss", "select/perplexity", "select/bits_per_byte"] = "select/loss"

    @model_validator(mode="after")
    def _bounded(self):
        if not self.space:
            raise ValueError("space: expected at least one dotted key")
        if (self.sampler == "tpe") != (self.trials is not None):
            raise ValueError("`tpe` needs `trials`; the grid takes none")
        return self


class ClaimSpec(Spec):
    """What counts as an answer, stated before the study runs.

    margin: the relative difference in `metric`'s perplexity that is too small to matter (0.01 is 1 %).
    known_worse: arms known to be worse than the baseline. A study that does not find them worse could not have detected
    a difference.
    """

    metric: Literal["report/loss", "report/perplexity"] = "report/loss"
    margin: Positive = 0.01
    known_worse: List[str] = ()


class StudySpec(Spec):
    """The study's own keys. Every other key of the file belongs to the base experiment.

    arms: label -> dotted overrides; the first is the baseline. runs: the same for helper runs, which are made only because
    an arm needs them (`init_from`) and are not reported. seeds: the number of seeds, which count from 0.
    scales: name -> dotted overrides of the study or its experiment. long_context: tokens at which the cache is costed.
    laptop_scale: the scale that a report of a smaller scale suggests.
    """

    question: str
    arms: dict[str, dict[str, Any]]
    seeds: Seeds = 5
    scales: dict[str, dict[str, Any]] = {}
    runs: dict[str, dict[str, Any]] = later({})
    tune: TuneSpec | None = None
    claim: ClaimSpec = ClaimSpec()
    long_context: Count = 131072
    laptop_scale: str = "laptop"

    @model_validator(mode="after")
    def _has_arms(self):
        if not self.arms:
            raise ValueError("arms: expected at least one; the first is the baseline")
        if both := sorted(self.arms.keys() & self.runs.keys()):
            raise ValueError(f"runs: {both[0]!r} is the name of an arm; expected another name")
        for name in self.claim.known_worse:
            if name not in self.arms:
                raise ValueError(f"claim.known_worse: no arm {name!r}{nearest(name, self.arms)}")
        return self


def split(source, scale=None):
    """(StudySpec, study node, base experiment node) of a study document at a scale.

    Raises SpecError for an unknown scale or key (with the nearest names) and for invalid values.
    """
    root = document.node(source)
    if scale is not None:
        scales = root.value.get("scales", document.node({}))
        if not isinstance(scales.value, dict) or scale not in scales.value:
            raise SpecError(f"no scale {scale!r}{nearest(scale, scales.value or ())}", ("scales",), scales.file, scales.line)
        chosen = scales.value[scale]
        if not isinstance(chosen.value, dict):
            raise root.error("expected a mapping of dotted keys", ("scales", scale))
        root = document.overridden(root, chosen)
    own = StudySpec.keys()
    known = {*own, *ExperimentSpec.keys()}
    for key in root.value:
        if key not in known:
            raise root.error(f"unknown key{nearest(key, known)}", (key,))
    study = document.Node({k: v for k, v in root.value.items() if k in own}, root.file, root.line)
    base = document.Node({k: v for k, v in root.value.items() if k not in own}, root.file, root.line)
    return StudySpec.parse(study), study, base


def arm_document(study, base, label):
    """The experiment document of an arm or a helper run: the base experiment with its dotted overrides applied."""
    arms, helpers = study.value["arms"], study.value.get("runs")
    if helpers and label in helpers.value:
        return document.overridden(base, helpers.value[label])
    if label not in arms.value:
        raise SpecError(f"no arm {label!r}{nearest(label, arms.value)}", ("arms",), arms.file, arms.line)
    return document.overridden(base, arms.value[label])
