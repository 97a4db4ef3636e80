"""The spec of a study's search: what it may vary, what is good, what is allowed, and how its trials are chosen."""

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from arch import document
from arch.spec import Component, Count, FirstSeed, List, Spec, spelt

Name = str | bool | int | float | None
# So much may a range grow at once, and so often may it grow.
Growth = Annotated[float, Field(gt=1, le=100)]


class Numbers(Spec):
    """Numbers of a range; whole numbers where the key holds whole numbers.

    low, high: the ends, both included. log: on a log scale, which is the default without a `step`. step: between neighbours.
    points: how many of them a grid has.
    """

    low: float
    high: float
    log: bool | None = None
    step: Annotated[float, Field(gt=0)] | None = None
    points: Annotated[int, Field(ge=2)] | None = None

    @model_validator(mode="after")
    def _is_a_range(self):
        if self.low >= self.high:
            raise ValueError(f"low = {self.low:g} must be below high = {self.high:g}")
        if self.is_log and self.low <= 0:
            raise ValueError(f"low = {self.low:g} must be above 0 on a log scale (or say `log: false`)")
        if self.log and self.step is not None:
            raise ValueError("a log scale has no `step`; drop one of the two")
        if self.step is not None and self.points is not None:
            raise ValueError("`step` and `points` say the same; drop one of the two")
        if self.step is not None and abs((steps := (self.high - self.low) / self.step) - round(steps)) > 1e-9 * steps:
            raise ValueError(f"high = {self.high:g} is not a whole number of steps of {self.step:g} above low = {self.low:g}")
        return self

    @property
    def is_log(self) -> bool:
        """Whether the scale is logarithmic."""
        return self.step is None if self.log is None else self.log


class Simplex(Spec):
    """Weights of several keys that together are 1: a mixture, as of the parts of `data.source`.

    simplex: the dotted keys of the weights. concentration: of the Dirichlet distribution from which mixtures are drawn: 1 makes
    all mixtures equally likely, more draws them towards equal weights, less towards few parts. first: mixtures that are tried
    before any is drawn, a weight for each key; of each, only the shares count.
    """

    simplex: List[Annotated[str, Field(min_length=1)]]
    concentration: Annotated[float, Field(gt=0, le=1000)] = 1.0
    first: List[List[Annotated[float, Field(ge=0)]]] = ()

    @model_validator(mode="after")
    def _is_a_mixture(self):
        if len(self.simplex) < 2:
            raise ValueError(f"simplex: expected at least two keys, got {len(self.simplex)}: a single weight is always 1")
        if twice := next((key for key in self.simplex if self.simplex.count(key) > 1), None):
            raise ValueError(f"simplex: {twice} is named twice")
        for given in self.first:
            if len(given) != len(self.simplex) or not sum(given):
                have = f"{len(given)} weights" if sum(given) or not given else "weights of 0 alone"
                raise ValueError(f"first: expected {len(self.simplex)} weights, one for each key and one above 0, got {have}")
        return self


def _dimension(value):
    if isinstance(value, dict):
        return "Numbers" if {"low", "high"} & value.keys() else "Simplex" if "simplex" in value else "Choices"
    return type(value).__name__ if isinstance(value, (Choices, Simplex)) else "Numbers"


def _choices(value):
    return "Named" if isinstance(value, dict) else "List"


class Choice(Spec):
    """A named choice. set: dotted overrides that it makes. space: what is searched only where it is taken."""

    set: dict[str, Any] = {}
    space: "dict[str, Dimension]" = {}


class Choices(Spec):
    """choices: several values of a key (a list), or several named choices (a mapping), of which a trial takes one."""

    choices: Annotated[Annotated[dict[str, Choice], Tag("Named")] | Annotated[List[Name], Tag("List")], Discriminator(_choices)]

    @model_validator(mode="after")
    def _is_a_choice(self):
        names = [spelt(each) for each in self.choices]
        if len(names) < 2:
            raise ValueError("choices: expected at least two")
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"choices: {twice} is named twice")
        return self

    @property
    def named(self) -> dict[str, Choice]:
        """{name: Choice} of named choices; empty for a list of values."""
        return self.choices if isinstance(self.choices, dict) else {}


Dimension = Annotated[
    Annotated[Choices, Tag("Choices")] | Annotated[Numbers, Tag("Numbers")] | Annotated[Simplex, Tag("Simplex")],
    Discriminator(_dimension),
]
Space = dict[str, Dimension]
Choice.model_rebuild()


class Limits(Spec):
    """How much of a quantity is allowed. most, least: the limits; at least one of them."""

    most: float | None = None
    least: float | None = None

    @model_validator(mode="after")
    def _limits(self):
        if self.most is None and self.least is None:
            raise ValueError("expected `most`, `least` or both")
        if self.most is not None and self.least is not None and self.least > self.most:
            raise ValueError(f"least = {self.least:g} must not be above most = {self.most:g}")
        return self

    def excess(self, value: float) -> float:
        """How far a value lies beyond its limits; at most 0 if it is allowed."""
        over = [] if self.most is None else [value - self.most]
        return max(over + ([] if self.least is None else [self.least - value]))


class SearchSpec(Spec):
    """A search over anything a spec can say, before the reported runs. Trials are never reported.

    base: the arm that the space overrides, by default the first. space: dotted key, or the name of a dimension with named
    choices or of a mixture -> its values. minimise, maximise: the objectives: metrics of the select split, costs, speed or memory.
    subject_to: {cost: limits}; a trial beyond them trains nothing. sampler: Optuna's, by name, or `{type: NAME, OPTION: ...}`:
    tpe, gp, nsgaii, nsgaiii, qmc, grid, brute_force, random, cmaes. pruner: with a single objective, one of median, percentile,
    hyperband, successive_halving, wilcoxon, patient, threshold, nop. trials: how many points are tried (grid and
    brute_force: all, by default). seeds: runs per trial; a trial counts by their mean. first_seed: their seeds count from
    it. judge: so many
    winners become the arms `best 1`, `best 2`, ..., which train on the reported seeds. widen: a range of numbers whose best
    lies at an end grows by this factor.
    """

    base: str | None = None
    space: Space
    minimise: List[str] = ()
    maximise: List[str] = ()
    subject_to: dict[str, Limits] = {}
    sampler: Component = {"type": "tpe"}
    pruner: Component | None = None
    trials: Count | None = None
    seeds: Count = 1
    first_seed: FirstSeed = 1000
    judge: Annotated[int, Field(ge=0, le=100)] = 1
    widen: Growth | None = None

    @field_validator("minimise", "maximise", mode="before")
    @classmethod
    def _one_or_several(cls, value):
        return [value] if isinstance(value, str) else value

    @field_validator("sampler", "pruner", mode="before")
    @classmethod
    def _by_name(cls, value):
        return {"type": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _complete(self):
        if not self.space:
            raise ValueError("space: expected at least one dimension")
        if not self.objectives:
            raise ValueError("expected `minimise` or `maximise`: what makes a trial good")
        names = [*self.minimise, *self.maximise]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"{twice} is an objective twice")
        if self.trials is None and self.sampler["type"] not in ("grid", "brute_force"):
            raise ValueError(f"trials: missing; the sampler {self.sampler['type']!r} needs a number of trials")
        return self

    @property
    def objectives(self) -> dict[str, Literal["minimise", "maximise"]]:
        """{metric: which way is better}."""
        return {**dict.fromkeys(self.minimise, "minimise"), **dict.fromkeys(self.maximise, "maximise")}

    @property
    def winners(self) -> list[str]:
        """The labels of the arms that the winners become."""
        return [f"best {i + 1}" for i in range(self.judge)]

    @property
    def tuning_seeds(self) -> list[int]:
        """The seeds of a trial's runs."""
        return [self.first_seed + i for i in range(self.seeds)]


def with_winners(study: document.Node) -> document.Node:
    """The study node with an arm for each winner of its search; until the search is done they are like its base.

    So all that counts or names arms knows them from the start. Raises SpecError.
    """
    dropped = document.node(None)
    if study.value.get("search", dropped).value is None or not isinstance(study.value.get("arms", dropped).value, dict):
        return study
    search, arms = SearchSpec.parse(study, ("search",)), study.value["arms"]
    base = next(iter(arms.value), None) if search.base is None else search.base
    if base not in arms.value:
        return study  # the check of a study says so
    for label in search.winners:
        if label in arms.value:
            raise study.error(
                "the arms `best 1`, `best 2`, ... are the winners of the search; expected another name", ("arms", label)
            )
    winners = dict.fromkeys(search.winners, arms.value[base])
    return document.Node(
        {**study.value, "arms": document.Node({**arms.value, **winners}, arms.file, arms.line)}, study.file, study.line
    )
