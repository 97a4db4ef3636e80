"""Optuna's samplers and pruners by name, with options checked against the signatures of their constructors."""

from __future__ import annotations

import contextlib
import importlib.util
import inspect
import warnings
from collections.abc import Mapping
from typing import Any

import optuna

from arch.document import Node
from arch.errors import nearest
from arch.spec import digest
from sweeps.search import space as spaces
from sweeps.search.space import Axis

SAMPLERS = {
    "tpe": optuna.samplers.TPESampler,
    "gp": optuna.samplers.GPSampler,
    "nsgaii": optuna.samplers.NSGAIISampler,
    "nsgaiii": optuna.samplers.NSGAIIISampler,
    "qmc": optuna.samplers.QMCSampler,
    "grid": optuna.samplers.GridSampler,
    "brute_force": optuna.samplers.BruteForceSampler,
    "random": optuna.samplers.RandomSampler,
    "cmaes": optuna.samplers.CmaEsSampler,
}
PRUNERS = {
    "median": optuna.pruners.MedianPruner,
    "percentile": optuna.pruners.PercentilePruner,
    "hyperband": optuna.pruners.HyperbandPruner,
    "successive_halving": optuna.pruners.SuccessiveHalvingPruner,
    "wilcoxon": optuna.pruners.WilcoxonPruner,
    "patient": optuna.pruners.PatientPruner,
    "threshold": optuna.pruners.ThresholdPruner,
    "nop": optuna.pruners.NopPruner,
}
# Options that are no plain data, that Optuna dropped, or that the space itself says.
CODE = {
    *("constraints_func", "independent_sampler", "gamma", "weights", "mutation", "crossover", "reference_points", "x0"),
    *("elite_population_selection_strategy", "child_generation_strategy", "after_trial_strategy", "source_trials"),
    *("search_space", "wrapped_pruner", "consider_prior", "prior_weight", "consider_magic_clip", "consider_endpoints"),
    "warn_independent_sampling",
    "warn_asynchronous_seeding",
}
# What a sampler needs beside Optuna.
NEEDS = {"cmaes": "cmaes"}
# These walk through fixed points, so they need the same seed for every trial.
FIXED_SEED = ("qmc", "grid")
ALL_AT_ONCE = ("gp", "qmc", "cmaes")


@contextlib.contextmanager
def quiet():
    """Context manager: Optuna does not warn that what we use of it may change (constraints.txt pins its version), nor that
    a parameter is drawn without the others."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        warnings.filterwarnings("ignore", message=".*independent", category=UserWarning)
        yield


def options(component: type) -> dict[str, inspect.Parameter]:
    """{option: parameter} of a sampler or a pruner that a spec may set."""
    parameters = inspect.signature(component.__init__).parameters  # type: ignore[misc]
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {name: each for name, each in parameters.items() if each.kind in kinds and name not in {*CODE, "self"}}


def check(study: Node, key: str, written: Mapping[str, Any], known: Mapping[str, type]) -> None:
    """Raise SpecError, at its line, for a sampler or pruner (`key`) that is none, or an option that it has not."""
    kind = written["type"]
    if kind not in known:
        raise study.error(f"no {key} {kind!r}{nearest(kind, known)}", ("search", key))
    if kind in NEEDS and importlib.util.find_spec(NEEDS[kind]) is None:
        raise study.error(f"the {key} {kind!r} needs the package {NEEDS[kind]!r}, which is not installed", ("search", key))
    _check_options(study, ("search", key), known[kind], {name: each for name, each in written.items() if name != "type"})


def _check_options(study, path, component, given):
    allowed: dict[str, Any] = {**options(component), **({"wrapped": None} if component is PRUNERS["patient"] else {})}
    for name, value in given.items():
        if name not in allowed:
            raise study.error(f"{component.__name__} has no option {name!r}{nearest(name, allowed)}", (*path, name))
        if name == "wrapped":
            kind = value.get("type") if isinstance(value, dict) else value
            if kind not in PRUNERS or kind == "patient":
                raise study.error(f"no pruner {kind!r}{nearest(kind, PRUNERS)}", (*path, name))
            inner = {key: each for key, each in value.items() if key != "type"} if isinstance(value, dict) else {}
            _check_options(study, (*path, name), PRUNERS[kind], inner)
        elif not _fits(value, str(allowed[name].annotation)):
            raise study.error(f"expected {allowed[name].annotation}, got {value!r}", (*path, name))
    required = [name for name, each in allowed.items() if each is not None and each.default is inspect.Parameter.empty]
    for name in required:
        if name not in given:
            raise study.error(f"missing; {component.__name__} needs it", (*path, name))


def _fits(value, annotation):
    """Whether a plain value has a type that an annotation of Optuna names, in text."""
    names = [
        each.strip().strip("'\"") for each in annotation.removeprefix("<class '").removesuffix("'>").replace("'", "").split("|")
    ]
    if value is None:
        return "None" in names
    if isinstance(value, bool):
        return "bool" in names
    if isinstance(value, int):
        return "int" in names or "float" in names
    if isinstance(value, float):
        return "float" in names
    return isinstance(value, str) and "str" in names


def check_sampler(study: Node, search: Any, axes: tuple[Axis, ...]) -> None:
    """Raise SpecError, at its line, for a sampler that cannot search this space or these objectives."""
    check(study, "sampler", search.sampler, SAMPLERS)
    kind, where = search.sampler["type"], ("search", "sampler")
    conditional = next((axis.name for axis, given in spaces.every(axes) if given), None)
    if conditional and kind in (*ALL_AT_ONCE, "grid"):
        other = "`brute_force`" if kind == "grid" else "`tpe`, `nsgaii` or `random`"
        raise study.error(f"{kind!r} cannot search {conditional}, which exists only where a choice is taken; use {other}", where)
    category = next((axis.name for axis in axes if axis.numbers is None), None)
    if category and kind in ("cmaes", "qmc"):
        raise study.error(f"{kind!r} cannot search {category}, whose values are choices; use `tpe`", where)
    if kind == "cmaes" and len(search.objectives) > 1:
        raise study.error("'cmaes' has a single objective; use `tpe` or `nsgaii`", where)
    for axis, _ in spaces.every(axes):
        if kind in ("grid", "brute_force") and axis.mixture is not None:
            name = axis.mixture.name
            raise study.error(f"{kind!r} tries every value, and {name} is a mixture; use `tpe`, `gp` or `random`", axis.path)
        if kind in ("grid", "brute_force") and axis.grid() is None:
            more = "`step` or `points`" if kind == "grid" else "`step`"
            raise study.error(f"{kind!r} tries every value of {axis.name}; expected {more}, or another sampler", axis.path)
        if kind == "brute_force" and axis.numbers is not None and axis.numbers.points:
            raise study.error("`points` are for the grid; 'brute_force' tries every value: expected `step`", axis.path)
        if kind == "brute_force" and axis.numbers is not None and axis.numbers.step is None and axis.numbers.is_log and axis.whole:
            raise study.error("'brute_force' tries every whole number; expected `log: false`", axis.path)
    if search.widen and kind not in ("tpe", "random"):
        raise study.error(f"{kind!r} cannot follow a range that grows; use `tpe` or `random`", ("search", "widen"))
    try:
        sampler(search, axes, 0)
    except (ValueError, TypeError) as error:
        raise study.error(f"Optuna refuses it: {_first_line(error)}", where) from None


def _first_line(error):
    return str(error).strip().splitlines()[0]


def sampler(search: Any, axes: tuple[Axis, ...], number: int) -> optuna.samplers.BaseSampler:
    """The sampler for the trial with this number, seeded by it: whoever asks, and after any start, draws the same then.

    What it proposes also depends on the trials that are known by then, as Optuna's samplers do.
    """
    kind = search.sampler["type"]
    given = {name: value for name, value in search.sampler.items() if name != "type"}
    component = SAMPLERS[kind]
    seed = given.pop("seed", None) or 0
    given["seed"] = seed % 2**32 if kind in FIXED_SEED else int(digest([seed, number])[:8], 16)
    parameters = inspect.signature(component.__init__).parameters  # type: ignore[misc]
    for warns in ("warn_independent_sampling", "warn_asynchronous_seeding"):
        if warns in parameters and kind != "tpe":  # there it is deprecated, and `ask` is quiet
            given[warns] = False
    if kind == "grid":
        given["search_space"] = {axis.name: axis.grid() for axis in axes}
    if kind == "tpe" and spaces.is_conditional(axes) and "group" not in given and given.get("multivariate") is not False:
        # Otherwise dimensions that not every trial has would be drawn one by one, without the others.
        given |= {"multivariate": True, "group": True}
    with quiet():
        return component(**given)


def check_pruner(study: Node, search: Any, spec: Any) -> None:
    """Raise SpecError, at its line, for a pruner that is none or that has nothing to decide by. spec: of the base arm."""
    if search.pruner is None:
        return
    where = ("search", "pruner")
    check(study, "pruner", search.pruner, PRUNERS)
    kind = search.pruner["type"]
    if kind == "nop":
        return
    if len(search.objectives) > 1:
        raise study.error("a search with several objectives has no pruner: which run is worse is not known before its end", where)
    (name,) = search.objectives
    if kind == "wilcoxon":
        if search.seeds < 2:
            raise study.error("'wilcoxon' compares trials seed by seed; expected `seeds` of at least 2", where)
    elif not name.startswith("select/"):
        raise study.error(f"{name} is not measured while a run trains; a pruner needs select/METRIC", where)
    elif spec.evaluate.every >= spec.train.steps:
        raise study.error(
            f"a run is evaluated every {spec.evaluate.every} steps, and so only at its end ({spec.train.steps} steps); "
            "expected a smaller evaluate.every",
            where,
        )
    inner = search.pruner.get("wrapped")
    try:
        for written in filter(None, (search.pruner, {"type": inner} if isinstance(inner, str) else inner)):
            least = written.get("min_resource")
            if isinstance(least, int) and least > spec.train.steps:
                reason = f"min_resource = {least}, and a run has {spec.train.steps} steps: it would never prune"
                raise study.error(reason, where)
            _tried(_pruner(written, spec))
    except (ValueError, TypeError) as error:
        raise study.error(f"Optuna refuses it: {_first_line(error)}", where) from None
    except (ArithmeticError, AssertionError, IndexError):
        reason = "expected 1 <= min_resource <= max_resource, which are optimizer steps, and a reduction_factor of at least 2"
        raise study.error(f"Optuna cannot use these options; {reason}", where) from None


def _tried(made):
    """Ask a pruner about a trial of its own: some look at their options only then."""
    with quiet():
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(), pruner=made)
        trial = study.ask()
        trial.report(0.0, 1)
        trial.should_prune()


def pruner(search: Any, spec: Any) -> optuna.pruners.BasePruner | None:
    """The pruner of a search, or None. Its resource is the optimizer step; a run has no step beyond the last one."""
    if search.pruner is None or search.pruner["type"] == "nop":
        return None
    return _pruner(search.pruner, spec)


def _pruner(written, spec):
    kind = written["type"]
    given = {name: value for name, value in written.items() if name not in ("type", "wrapped")}
    if kind == "hyperband":
        given = {"min_resource": spec.evaluate.every, "max_resource": spec.train.steps} | given
    if kind == "successive_halving":
        given = {"min_resource": spec.evaluate.every} | given
    if kind == "patient":
        inner = written.get("wrapped")
        inner = {"type": inner} if isinstance(inner, str) else inner
        given["wrapped_pruner"] = _pruner(inner, spec) if inner else None
    with quiet():
        return PRUNERS[kind](**given)


def only_first_seed(search: Any) -> bool:
    """Whether the further seeds of a trial wait until its first run is through."""
    return search.pruner is not None and search.pruner["type"] != "nop"


def by_seed(search: Any) -> bool:
    """Whether the pruner compares trials seed by seed, so that they run one after the other."""
    return search.pruner is not None and search.pruner["type"] == "wilcoxon"
