"""The spec of a study: a question, the arms that differ, the seeds, and the scales at which the study can run."""

import math
from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from arch import document, registry
from arch.errors import SpecError, nearest, unknown_key
from arch.spec import Component, Count, FirstSeed, Inner, Kind, List, Spec, later
from experiments.metrics import canonical, cost, unknown_cost
from experiments.spec import ExperimentSpec
from sweeps import first_seeds
from sweeps.comparisons import claims_on_ladder, with_contrasts
from sweeps.grid import with_cells
from sweeps.ladder import LadderSpec, sized, with_sizes
from sweeps.looks import looks
from sweeps.search.spec import SearchSpec, with_winners

Seeds = Annotated[int, Field(ge=1, le=1000)]


class Range(Spec):
    """Values of one dotted key to try.

    low, high: the ends, both included. log: whether the scale is logarithmic. points: of the grid, the ends among them. beyond:
    at most so many points more beyond each end, as far apart as those of the grid: an arm tries the next one as long as its best
    lies at that end (`sweeps.beyond`).
    """

    low: float
    high: float
    log: bool = True
    points: Annotated[int, Field(ge=2)] = 5
    beyond: int = later(0, ge=0)

    @model_validator(mode="after")
    def _is_a_range(self):
        if self.low >= self.high:
            raise ValueError(f"low = {self.low:g} must be below high = {self.high:g}")
        if self.log and self.low <= 0:
            raise ValueError(f"low = {self.low:g} must be above 0 on a log scale")
        try:
            ends = self._at(-self.beyond), self._at(self.points - 1 + self.beyond)
        except OverflowError:
            ends = 0.0, math.inf
        if not all(map(math.isfinite, ends)) or (self.log and not ends[0]):
            raise ValueError(f"beyond = {self.beyond}: the values there would be 0 or infinite; expected fewer points")
        return self

    def values(self, below: int = 0, above: int = 0) -> list[float]:
        """The grid, ascending, with so many points more on either side."""
        steps = range(-below, self.points + above)
        return [min(max(self._at(i), self.low), self.high) if 0 <= i < self.points else self._at(i) for i in steps]

    def _at(self, step: int) -> float:
        part = step / (self.points - 1)
        if self.log:
            return self.low * (self.high / self.low) ** part
        return self.low + (self.high - self.low) * part

    def widened(self, below: int, above: int, whole: bool = False) -> "Range":
        """The range with so many points more on either side. whole: whether its ends are to be whole numbers."""
        if not below and not above:
            return self
        values = self.values(below, above)
        low, high = values[0], values[-1]
        if whole:
            low, high = max(1, round(low)) if self.log else round(low), round(high)
        return Widened(low=low, high=high, log=self.log, points=len(values), base=self, below=below, above=above)


class Widened(Range):
    """A Range with points `below` and `above` another, `base`. The values that are of `base` too are the same, bit for bit."""

    base: Range
    below: int
    above: int

    def values(self, below: int = 0, above: int = 0) -> list[float]:
        """The grid, ascending, with so many points more on either side."""
        return self.base.values(self.below + below, self.above + above)


class TuneSpec(Spec):
    """One search per arm before its reported runs, on the select split and with separate seeds.

    space: {dotted key: its range}. sampler: `grid`, or Optuna's `tpe`. trials: of `tpe`. seeds: runs per point. first_seed: the
    runs' seeds count from it. metric: what is lowest, or highest, at the best point.

    Trials are never reported. The grid runs every point with every tuning seed. Each tuning seed chooses for itself, by
    the vertex of a parabola (`sweeps.vertex`), and the reported seed s uses what tuning seed s mod `seeds` chose: so the
    luck of the search is among what varies over the reported seeds. With `seeds: 1`, all use one value. `trials` is the
    number of TPE trials; all reported seeds use the best one.
    """

    space: dict[str, Range]
    sampler: Literal["grid", "tpe"] = "grid"
    trials: Count | None = None
    seeds: Count = 1
    first_seed: FirstSeed = 1000
    metric: str = "select/loss"

    @property
    def tuning_seeds(self) -> list[int]:
        """The seeds of a trial's runs."""
        return [self.first_seed + i for i in range(self.seeds)]

    def most_further_points(self, size: Callable[[str, Range], int] = lambda key, span: span.points) -> int:
        """At most how many points an arm may try beyond the ends of its ranges. size: how many points a range of a key has."""
        # With one seed and one key there is one best, and it is at one end.
        below = 0 if self.seeds == 1 and len(self.space) == 1 else 1
        now, then = 1, 1
        for key, span in self.space.items():
            now, then = now * size(key, span), then * size(key, span.widened(below * span.beyond, span.beyond))
        return then - now

    @field_validator("metric")
    @classmethod
    def _is_of_the_select_split(cls, metric: str) -> str:
        if not metric.startswith("select/"):
            raise ValueError("expected select/METRIC: the report split is not for choosing values")
        return metric

    @model_validator(mode="after")
    def _bounded(self):
        if not self.space:
            raise ValueError("space: expected at least one dotted key")
        if (self.sampler == "tpe") != (self.trials is not None):
            raise ValueError("`tpe` needs `trials`; the grid takes none")
        if self.sampler == "tpe" and any(span.beyond for span in self.space.values()):
            raise ValueError("space: only a grid has points `beyond` its ends; leave it out, or take `sampler: grid`")
        return self


DEFAULT_CLAIM = "equivalent"
# Names that claims had before.
OLD_CLAIMS = {"against_baseline": "equivalent"}


def renamed(claim):
    """A claim as plain data, with its present name."""
    old = claim.get("type") if isinstance(claim, dict) else None
    return {**claim, "type": OLD_CLAIMS[old]} if old in OLD_CLAIMS else claim


class SeedsSpec(Spec):
    """Seeds until the claims are decided: the study is read at `min` seeds, and then each time half as many have been
    added, up to `max`. An arm that is decided gets no more. The looks are paid for (docs/statistics.md).

    min, max: the seeds of the first and of the last look. until: `decided`.
    """

    min: Seeds
    max: Seeds
    until: Literal["decided"]

    @model_validator(mode="after")
    def _is_a_range(self):
        if self.min > self.max:
            raise ValueError(f"min = {self.min} must not be above max = {self.max}")
        return self


def _form(value):
    """The branch of a union by the form of a value. Tags have a capital letter, as `arch.spec_errors` knows them."""
    if isinstance(value, (dict, Spec)):
        return "Mapping"
    return "List" if isinstance(value, (list, tuple)) else "Text" if isinstance(value, str) else "Number"


Key = Annotated[str, Field(min_length=1)]
_Text = Annotated[Key, Tag("Text")]
_Keys = Annotated[List[Key], Field(min_length=1), Tag("List")]
Keys = Annotated[_Text | _Keys, Discriminator(_form)]
Vary = Annotated[_Text | _Keys | Annotated[dict[str, Keys], Field(min_length=1), Tag("Mapping")], Discriminator(_form)]
# Whole costs are exact as floats up to 2^53.
_Cost = Annotated[float, Field(gt=0, le=2**53), Tag("Number")]
Target = Annotated[_Text | _Cost, Discriminator(_form)]
Targets = Annotated[_Text | _Cost | Annotated[dict[str, Target], Tag("Mapping")], Discriminator(_form)]
Multiple = Annotated[Annotated[Count, Tag("Number")] | Annotated[dict[str, Count], Tag("Mapping")], Discriminator(_form)]


class MatchSpec(Spec):
    """A cost that is made equal over the arms, by whole numbers that are solved on the cost model before anything is trained.

    quantity: `cost/parameters`, `cost/parameters_non_embedding` (or `cost/non_embedding`), `cost/flops_per_token` (or
    `cost/flops`), `cost/cache_bytes@N`, `cost/state_bytes`, `cost/decode_bytes`, or any other cost (docs/design.md).
    vary: the dotted key of a whole number, or several, which keep their ratio to each other. An arm varies those of them
    that it has and that its layers use. Or {ARM: its key or keys}: then the other arms stay as they are written.
    to: the arm that is matched and itself left alone (by default the first), a number, or {ARM: one of both}. On a ladder, the
    name of an arm means the arm of the same size.
    tolerance: the largest difference, as a fraction of the target. multiple_of: of what the values are multiples, or {key: of
    what}, for keys that it does not name 1.

    An arm that has the target's cost already stays as it is. What an arm or the base writes for a varied key is where the
    search starts; an arm that overrides exactly this key is refused. Helper runs (`runs`) stay as written, unless `vary`
    names them. The winners of a `search` have the values of the arm that it starts from.
    """

    quantity: str
    vary: Vary
    to: Targets | None = None
    tolerance: Inner = 0.005
    multiple_of: Multiple = 8

    @field_validator("quantity")
    @classmethod
    def _by_its_name(cls, quantity: str) -> str:
        return canonical(quantity)

    def multiple(self, path):
        """Of what a varied value is a multiple."""
        return self.multiple_of.get(path, 1) if isinstance(self.multiple_of, dict) else self.multiple_of


Matches = Annotated[
    Annotated[MatchSpec, Tag("Mapping")] | Annotated[List[MatchSpec], Field(min_length=1), Tag("List")], Discriminator(_form)
]


class BudgetSpec(Spec):
    """What every arm may spend on training, in place of equal steps: a number, or the name of the arm whose own steps say it.

    flops: `cost/train_flops`, ideal FLOPs with those that the objective adds (a teacher reads every row in every step).
    tokens: of the training rows. seconds: of training steps alone on this machine, as a few steps of every distinct arm
    measure it before the study starts; the study's record keeps the measurement, so that it never changes its mind.

    Each arm gets the nearest whole number of `train.steps`. An arm that writes `train.steps` itself is refused, but for the
    arm that the budget names and for `train.steps: 0`. Helper runs (`runs`) keep their steps; the winners of a `search` have
    those of the arm that it starts from.
    """

    flops: Target | None = None
    tokens: Target | None = None
    seconds: Target | None = None

    @model_validator(mode="after")
    def _one_of_them(self):
        if len(self.dump(neutral=True)) - [self.flops, self.tokens, self.seconds].count(None) != 1:
            raise ValueError("expected one of `flops`, `tokens` and `seconds`")
        return self

    @property
    def kind(self):
        """`flops`, `tokens` or `seconds`."""
        return next(key for key in self.keys() if getattr(self, key) is not None)

    @property
    def amount(self):
        """The number, or the name of an arm."""
        return getattr(self, self.kind)


class FiguresSpec(Spec):
    """What the report draws. x: the axes against which quality is drawn, a figure each.

    Any metric of a run or of the cost: `cost/cache_bytes@131072`, `speed/tokens_per_second`, `memory/peak_bytes`. By
    default the cache at `long_context` and the training speed.
    """

    x: List[str] = ()


class PublishedSpec(Spec):
    """What a paper publishes of what a claim states, in the paper's own units and words; judged by nobody, shown beside what was
    found (`archbench findings`).

    source: paper and table or figure; by default the claim's own `source`. value: its numbers, or that it has none.
    """

    source: str = ""
    value: str = ""


class StudySpec(Spec):
    """The study's own keys. Every other key of the file belongs to the base experiment.

    question: what the study asks, in a sentence.
    arms: label -> dotted overrides; the first is the baseline. An arm's `first_seed` is no override: its seeds count from it
    and not from 0, so it is compared with arms of another first seed without pairing (`sweeps.first_seeds`).
    grid: factor -> level -> dotted overrides; every combination becomes an arm, `W=4 cap=on`, before those of `arms`.
    ladder: sizes at which every arm is run. compare: what claims
    compare instead of every arm with the first: `factors` (main effects and two-factor interactions of `grid`), or pairs
    [A, B] of arms, where B is compared with A. runs: the same as arms for helper runs, which are made only because
    an arm needs them (`init_from`) and are not reported. seeds: the number of seeds, which count from 0 or from an arm's
    `first_seed`; or SeedsSpec.
    claims: name -> a component that judges; the first decides what the report's main table shows.
    scales: name -> dotted overrides of the study or its experiment; `arms: {LABEL: null}` drops an arm.
    long_context: tokens at which the cache is costed. laptop_scale: the scale that a report of a smaller scale suggests.
    figures: what the report draws. match: a cost that is made equal over the arms, or several.
    search: a search whose winners become further arms (`best 1`, `best 2`, ...).
    tune: a search of each arm for its own values, such as the learning rate, before the reported runs.
    budget: what every arm may spend on training, in place of equal steps.
    published: {claim: what a paper publishes of it}.
    """

    question: str
    arms: dict[str, dict[str, Any]]
    seeds: Annotated[
        Annotated[Seeds, Tag("Number")] | Annotated[SeedsSpec, Tag("Plan")],
        Discriminator(lambda value: "Plan" if isinstance(value, (dict, SeedsSpec)) else "Number"),
    ] = 5
    scales: dict[str, dict[str, Any]] = {}
    grid: dict[str, dict[str, dict[str, Any]]] = later({})
    compare: (
        Annotated[
            Annotated[Literal["factors"], Tag("Factors")] | Annotated[List[List[str]], Tag("Pairs")],
            Discriminator(lambda value: "Factors" if isinstance(value, str) else "Pairs"),
        ]
        | None
    ) = later(None)
    ladder: LadderSpec | None = later(None)
    runs: dict[str, dict[str, Any]] = later({})
    tune: TuneSpec | None = None
    claims: dict[str, Annotated[Component, Kind("claim")]] = {"quality": {"type": DEFAULT_CLAIM}}
    long_context: Annotated[int, Field(ge=1, le=10**12)] = 131072
    laptop_scale: str = "laptop"
    figures: FiguresSpec = later(FiguresSpec())
    match: Matches | None = later(None)
    search: SearchSpec | None = later(None)
    budget: BudgetSpec | None = later(None)
    published: dict[str, PublishedSpec] = later({})

    @model_validator(mode="after")
    def _has_arms(self):
        if not self.arms:
            raise ValueError("arms: expected at least one; the first is the baseline")
        if not self.claims:
            raise ValueError("claims: expected at least one")
        if wrong := [label for label in (*self.arms, *self.runs) if not label.strip() or len(label.splitlines()) > 1]:
            raise ValueError(f"arms: {wrong[0]!r} cannot be a label; expected one line with letters")
        if both := sorted(self.arms.keys() & self.runs.keys()):
            raise ValueError(f"runs: {both[0]!r} is the name of an arm; expected another name")
        return self

    @property
    def looks(self):
        """The numbers of seeds at which the verdicts may be read, ascending."""
        return looks(self.seeds.min, self.seeds.max) if isinstance(self.seeds, SeedsSpec) else (self.seeds,)

    @property
    def matches(self):
        """[(its place in the study, MatchSpec)] of `match`."""
        if isinstance(self.match, MatchSpec):
            return [(("match",), self.match)]
        return [(("match", i), each) for i, each in enumerate(self.match or ())]

    def first_seed(self, label):
        """The seed from which an arm's seeds count; those of a helper run count from 0."""
        return first_seeds.of(self.arms).get(label, 0)

    def seeds_of(self, label, count=None):
        """The seeds of an arm, a range: the first `count`, by default all that it can have."""
        first = self.first_seed(label)
        return range(first, first + (self.most_seeds if count is None else count))

    @property
    def controls(self):
        """The arms that a claim knows to be worse."""
        return {arm for claim in self.claims.values() for arm in claim.get("known_worse") or ()}

    @property
    def winners(self):
        """{label of an arm that a winner of the search becomes: the arm that the search starts from}."""
        base = self.search and (self.search.base or next(iter(self.arms)))
        return dict.fromkeys(self.search.winners, base) if self.search else {}

    def without_size(self, label):
        """An arm's name without the size that a ladder gave it."""
        return sized(label, self.ladder.sizes)[0] if self.ladder else label

    def beside(self, name, label):
        """The arm that a name means for another arm: on a ladder, `griffin` is `griffin s` for `global s`."""
        size = label.removeprefix(self.without_size(label))
        return name if name in self.arms else f"{name}{size}"

    def varied(self, match, label):
        """The dotted keys that a MatchSpec lets an arm vary; none if it stays as it is written."""
        vary = match.vary
        if isinstance(vary, dict):
            vary = vary.get(label) or vary.get(self.without_size(label), ())
        return (vary,) if isinstance(vary, str) else tuple(vary)

    def matched_to(self, match, label):
        """What a MatchSpec matches an arm to: the label of another arm, or a number. None if it is not matched to anything."""
        to = self.without_size(next(iter(self.arms))) if match.to is None else match.to
        if isinstance(to, dict):
            to = to.get(label) or to.get(self.without_size(label))
        to = self.beside(to, label) if isinstance(to, str) else to
        return None if to == label else to

    @property
    def most_seeds(self):
        """The most seeds that an arm can have."""
        return self.looks[-1]


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
    root = _without_dropped_arms(with_sizes(with_cells(root)))
    own = [*StudySpec.keys(), "claim"]
    known = {*own, *ExperimentSpec.keys()}
    for key in root.value:
        if key not in known:
            raise root.error(unknown_key(key, known), (key,))
    study = document.Node({k: v for k, v in root.value.items() if k in own}, root.file, root.line)
    base = document.Node({k: v for k, v in root.value.items() if k not in own}, root.file, root.line)
    study = with_winners(_with_claims(study))
    spec = StudySpec.parse(study)
    first_seeds.check(spec, study)
    study = claims_on_ladder(study, spec.ladder)
    claims = {name: registry.resolve_component("claim", study, ("claims", name)) for name in spec.claims}
    for name, claim in claims.items():
        if not isinstance(claim.get("metric"), str):
            raise study.error(f"the claim {claim['type']!r} has no option `metric`", ("claims", name, "type"))
    first_seeds.check_groups(spec, claims, study)
    for name in spec.published:
        if name not in claims:
            raise study.error(f"no claim {name!r}{nearest(name, claims)}", ("published", name))
    _check_costs(spec, study)
    return spec.model_copy(update={"claims": with_contrasts(claims, spec, study)}), study, base


def _check_costs(spec, study):
    """Raise SpecError, at its line, for a match or a budget with a cost or an arm that does not exist."""
    arms = {*spec.arms, *(spec.without_size(label) for label in spec.arms)}

    def check(name, known, path):
        if isinstance(name, str) and name not in known:
            raise study.error(f"no arm {name!r}{nearest(name, known)}", path)

    for where, match in spec.matches:
        if cost(match.quantity) is None:
            raise study.error(unknown_cost(match.quantity), (*where, "quantity"))
        if spec.budget and match.quantity == "cost/train_flops":
            reason = "`budget` decides the steps after this; expected cost/flops_per_token"
            raise study.error(reason, (*where, "quantity"))
        for label, to in match.to.items() if isinstance(match.to, dict) else ():
            check(label, arms, (*where, "to", label))
            check(to, arms, (*where, "to", label))
            if to in match.to:
                raise study.error(f"{to!r} is matched itself; expected an arm that is not", (*where, "to", label))
        check(None if isinstance(match.to, dict) else match.to, arms, (*where, "to"))
        for name in match.vary if isinstance(match.vary, dict) else ():
            check(name, [*arms, *spec.runs], (*where, "vary", name))
            labels = [label for label in (*spec.arms, *spec.runs) if name in (label, spec.without_size(label))]
            if all(spec.matched_to(match, label) is None for label in labels):
                raise study.error(f"{name!r} is matched to nothing (`to`), so it varies nothing", (*where, "vary", name))
    if spec.budget:
        check(spec.budget.amount, arms, ("budget", spec.budget.kind))


def _without_dropped_arms(root):
    """The study without the arms that are null: a scale drops an arm of the study so."""
    arms = root.value.get("arms")
    if arms is None or not isinstance(arms.value, dict):
        return root
    kept = {label: arm for label, arm in arms.value.items() if arm.value is not None}
    return document.Node({**root.value, "arms": document.Node(kept, arms.file, arms.line)}, root.file, root.line)


def _with_claims(study):
    """The study node with `claims`: the default, or the old spelling `claim: {...}` as the only one. Raises SpecError."""
    if "claim" not in study.value:
        default = document.node({"claims": StudySpec.model_fields["claims"].default})
        return _with_new_names(study) if "claims" in study.value else document.lay(default, study)
    if "claims" in study.value:
        raise study.error("an older spelling of `claims`; use one of the two", ("claim",))
    old = study.value["claim"]
    claim = document.lay(document.node({"type": DEFAULT_CLAIM}), old)
    value = {key: each for key, each in study.value.items() if key != "claim"}
    claims = document.Node({"claim": claim}, old.file, old.line)
    return document.Node(value | {"claims": claims}, study.file, study.line)


def _with_new_name(claim):
    kind = claim.value.get("type") if isinstance(claim.value, dict) else None
    if kind is None or kind.value not in OLD_CLAIMS:
        return claim
    named = document.node(OLD_CLAIMS[kind.value], kind.file, kind.line)
    return document.Node({**claim.value, "type": named}, claim.file, claim.line)


def _with_new_names(study):
    """The study node in which claims have their present names; each keeps its line."""
    claims = study.value["claims"]
    if not isinstance(claims.value, dict):
        return study
    new = {name: _with_new_name(claim) for name, claim in claims.value.items()}
    return document.Node({**study.value, "claims": document.Node(new, claims.file, claims.line)}, study.file, study.line)


def arm_document(study, base, label):
    """The experiment document of an arm or a helper run: the base experiment with its dotted overrides applied.

    Its `first_seed` is none of them: it makes no other experiment.
    """
    arms, helpers = study.value["arms"], study.value.get("runs")
    if helpers and label in helpers.value:
        return document.overridden(base, helpers.value[label])
    if label not in arms.value:
        raise SpecError(f"no arm {label!r}{nearest(label, arms.value)}", ("arms",), arms.file, arms.line)
    return document.overridden(base, first_seeds.without(arms.value[label]))
