"""Which metrics an arm will have: of its runs, as far as components declare them before a run starts, and of its cost."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from arch import registry, units
from arch.contracts import Evaluator, Metric
from arch.document import Node
from arch.errors import SpecError, nearest
from experiments import evaluations
from experiments.evaluations import Evaluation
from experiments.metrics import OF_RUNS, cost, is_cost, known, unknown_cost
from experiments.spec import ExperimentSpec
from sweeps import comparable
from sweeps.compare import is_relative
from sweeps.judge import Question, alike, questions, read_metrics
from sweeps.spec import StudySpec

# A margin of more than a fifth is no margin; whoever writes `1` means 1 %.
LARGEST_MARGIN = 0.2


def declared(spec: ExperimentSpec) -> dict[str, Metric] | None:
    """{name: Metric} of a resolved experiment's runs; None if its objective declares nothing in its class.

    SPLIT/METRIC of its evaluators, and speed and memory (`experiments.metrics.OF_RUNS`) of a run that trains. Costs
    (`cost/NAME`) are not among them: they are of the spec.
    """
    metrics: dict[str, Metric] = dict(OF_RUNS) if spec.train.steps else {}
    for evaluation, measured in _measuring(spec):
        if measured is None:
            return None
        metrics |= {f"{evaluation.split}/{name}": metric for name, metric in measured.items()}
    return metrics


def _measuring(spec: ExperimentSpec) -> Iterator[tuple[Evaluation, Mapping[str, Metric] | None]]:
    """Yields each planned evaluation with the metrics that it measures; None if its objective declares nothing in its class."""
    from experiments import references  # it imports torch, and so does whoever builds an evaluator

    of_objective = getattr(registry.component("objective", references.measured_by(spec)["type"]), "metrics", None)
    for evaluation in evaluations.planned(spec):
        evaluator: Evaluator = registry.build("evaluator", evaluation.evaluator)
        yield evaluation, of_objective if evaluator.metrics is None else evaluator.metrics


def measured_by(spec: ExperimentSpec, names: Iterable[str]) -> dict[str, str]:
    """{SPLIT/METRIC: the name of the evaluator in `evaluate.SPLIT` that measures it} of the metrics `names`."""
    found: dict[str, str] = {}
    for evaluation, measured in _measuring(spec):
        for name in names:
            split, _, metric = name.rpartition("/")
            # An objective that declares nothing in its class may return any metric.
            if split == evaluation.split and (measured is None or metric in measured):
                found.setdefault(name, evaluation.name)
    return found


def metric_of(spec: ExperimentSpec, name: str) -> Metric | None:
    """What a metric is for a resolved experiment, `SPLIT/METRIC` or `cost/NAME`; None if that is not known before its run."""
    return cost(name) if is_cost(name) else (declared(spec) or {}).get(name) or known(name)


def times_claimed(spec: StudySpec, arms: Iterable[Any]) -> list[str]:
    """The metrics that a study claims or seeks and that are times of the machine, so that its runs go one at a time.

    arms: sweeps.study.Arm. What a study only draws or shows is not among them.
    """
    sought = [*(spec.search.objectives if spec.search else ()), *([spec.tune.metric] if spec.tune else ())]
    claimed = [name for claim in spec.claims.values() for _, name in _read(claim)]
    specs = [arm.spec for arm in arms]
    timed = lambda name: any((metric := metric_of(each, name)) and metric.varies == "machine" for each in specs)  # noqa: E731
    return [name for name in dict.fromkeys([*claimed, *sought]) if not is_cost(name) and timed(name)]


def check_metrics(study: Node, spec: StudySpec, arms: list[Any]) -> None:
    """Raise SpecError, at its line, for a claim, a search or a figure on a metric or a cost that an arm will not have.

    A search must know which way is better; a claim may learn it from the records of the runs. arms: sweeps.study.Arm.
    """
    for path, name in _metrics(spec):
        if is_cost(name) and cost(name) is None:
            raise study.error(unknown_cost(name), path)
        for arm in arms:
            names = declared(arm.spec)
            if names is not None and name not in names and not is_cost(name):
                raise study.error(f"no run of arm {arm.label!r} has the metric {name!r}{nearest(name, names)}", path)
            metric = metric_of(arm.spec, name)
            if metric is None and path[0] == "tune":
                kind = arm.spec.objective["type"]
                raise study.error(f"the objective {kind!r} does not declare {name!r}, so its better side is unknown", path)
            if metric is not None and metric.better == "neither" and path[0] != "figures":
                raise study.error(f"neither side of {name!r} is better; it is only shown", path)


def _metrics(spec: StudySpec) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """(path, metric) of everything in a study that names a metric."""
    if spec.tune:
        yield ("tune", "metric"), spec.tune.metric
    for name, claim in spec.claims.items():
        for path, metric in _read(claim):
            yield ("claims", name, *path), metric
    for i, name in enumerate(spec.figures.x):
        yield ("figures", "x", i), name


def check_claims(study: Node, spec: StudySpec, arms: list[Any]) -> None:
    """Raise SpecError, at its line, for a claim that its component refuses, or that compares what is not comparable.

    arms: sweeps.study.Arm. Whatever a claim compares must have been measured alike (see `sweeps.comparable`).
    """
    by_label = {arm.label: arm for arm in arms}
    plain = {label: arm.spec.dump() for label, arm in by_label.items()}
    asked: dict[str, list[Question]] = {}
    for name, resolved in spec.claims.items():
        claim = registry.build("claim", resolved)
        if hasattr(claim, "check"):
            try:
                claim.check(spec.arms)
            except SpecError as error:
                raise study.error(error.reason, ("claims", name, *error.path)) from None
        asked |= questions({name: resolved}, list(spec.arms))
    for name, resolved in spec.claims.items():
        for where, metric in _read(resolved):
            path = ("claims", name, *where)
            if metric.startswith("select/"):
                raise study.error("expected report/METRIC: the select split may have chosen values", path)
            kind = metric_of(arms[0].spec, metric) or Metric()
            _check_margins(study, ("claims", name), resolved, kind)
            claim = registry.build("claim", resolved)
            groups = [group for question in asked[name] for group in alike(claim, question, list(spec.arms))]
            for first, others in [] if is_cost(metric) else groups:
                by = measured_by(by_label[first].spec, [metric]).get(metric)
                for other in others:
                    why = comparable.obstacle(plain[first], plain[other], metric, kind, by)
                    if why:
                        raise study.error(f"cannot compare arm {other!r} with {first!r}: it {why}", path)


def _check_margins(study, path, resolved, metric):
    """Raise SpecError for a margin above LARGEST_MARGIN of a metric with relative differences: `1` is a slip for 1 %."""
    fields = registry.component("claim", resolved["type"]).Config.model_fields
    for key, field in fields.items():
        is_margin = isinstance(field.json_schema_extra, dict) and field.json_schema_extra.get("margin")
        if is_margin and is_relative(metric) and resolved[key] > LARGEST_MARGIN:
            reason = f"{resolved[key]:g} means {units.share(resolved[key])}; expected at most {LARGEST_MARGIN:g} (0.01 is 1 %)"
            raise study.error(reason, (*path, key))


def _read(resolved):
    """[(path in the claim, metric)] of every metric that a resolved claim reads: an option of the claim, or one of a list."""
    return [(_place(resolved, name), name) for name in read_metrics(registry.build("claim", resolved))]


def _place(resolved, name):
    for key, value in resolved.items():
        if value == name:
            return (key,)
        if isinstance(value, (list, tuple)) and name in value:
            return key, list(value).index(name)
    return ("metric",)
