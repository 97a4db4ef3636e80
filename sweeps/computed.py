"""The verdicts of claims of costs alone, which need no run: what the cost model says of the sizes as they are written."""

from collections.abc import Mapping
from typing import Any

from arch.contracts import Evidence, Measured, Metric
from experiments.metrics import cost
from sweeps import compare, judge
from sweeps.costs import exact_cost
from sweeps.looks import ALPHA
from sweeps.spec import StudySpec


def verdicts(spec: StudySpec, specs: Mapping[str, Any], objectives: Mapping[str, Any]) -> list[dict[str, str]]:
    """[{claim, statement, verdict, value}] in words, of every question of a claim that reads costs alone.

    specs: {label: resolved ExperimentSpec} of the arms that are known: the winners of a search that was not run are not.
    objectives: {label: what its objective costs}.

    value: how far from what is stated, where the claim says that of its subject; else empty.
    """
    claims = {name: judge.built(each) for name, each in spec.claims.items()}
    claims = {name: claim for name, claim in claims.items() if judge.is_exact(claim)}
    names = dict.fromkeys(name for claim in claims.values() for name in judge.read_metrics(claim))
    measured = {name: Measured(cost(name) or Metric(), _values(name, specs, objectives), exact=True) for name in names}
    asked = judge.questions({name: spec.claims[name] for name in claims}, list(spec.arms))
    asked = {name: [each for each in every if {*each.arms} <= specs.keys()] for name, every in asked.items()}
    shown = []
    for name, claim in claims.items():
        read = judge.read_metrics(claim)[0]
        metric = measured[read].metric
        if not asked[name]:
            continue
        found = claim.judge(Evidence(measured, ALPHA, ALPHA))
        for subject, verdict in ((each.subject, found[each.subject]) for each in asked[name] if each.subject in found):
            away = "" if verdict.difference is None else f" ({compare.effect_text(verdict.difference, metric)})"
            statement = claim.statement(subject, verdict, metric) if hasattr(claim, "statement") else subject
            statement = statement if read in statement else f"{statement}, in {read}"
            shown.append({"claim": name, "statement": statement, "verdict": verdict.word, "value": away})
    return shown


def _values(name, specs, objectives):
    """{arm: {0: its cost}}, empty for an arm without it."""
    found = {label: exact_cost(name, spec, objectives.get(label)) for label, spec in specs.items()}
    return {label: {} if value is None else {0: value} for label, value in found.items()}
