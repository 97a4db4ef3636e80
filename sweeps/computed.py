"""The verdicts of claims of costs alone, which need no run: what the cost model says of the sizes as they are written."""

from collections.abc import Iterable
from typing import Any

from arch.contracts import Evidence, Measured, Metric
from experiments.metrics import cost
from sweeps import compare, judge
from sweeps.costs import exact_cost
from sweeps.looks import ALPHA
from sweeps.spec import StudySpec


def verdicts(spec: StudySpec, arms: Iterable[Any]) -> list[dict[str, str]]:
    """[{claim, statement, verdict, value}] in words, of every question of a claim that reads costs alone. arms: sweeps.study.Arm.

    value: how far from what is stated, where the claim says that of its subject; else empty.
    """
    claims = {name: judge.built(each) for name, each in spec.claims.items()}
    claims = {name: claim for name, claim in claims.items() if judge.is_exact(claim)}
    names = dict.fromkeys(name for claim in claims.values() for name in judge.read_metrics(claim))
    specs = {arm.label: arm.spec for arm in arms}
    measured = {name: Measured(cost(name) or Metric(), _values(name, specs), exact=True) for name in names}
    asked = judge.questions({name: spec.claims[name] for name in claims}, list(specs))
    shown = []
    for name, claim in claims.items():
        metric = measured[judge.read_metrics(claim)[0]].metric
        found = claim.judge(Evidence(measured, ALPHA, ALPHA))
        for subject, verdict in ((each.subject, found[each.subject]) for each in asked[name] if each.subject in found):
            away = "" if verdict.difference is None else f" ({compare.effect_text(verdict.difference, metric)})"
            statement = claim.statement(subject, verdict, metric) if hasattr(claim, "statement") else subject
            shown.append({"claim": name, "statement": statement, "verdict": verdict.word, "value": away})
    return shown


def _values(name, specs):
    """{arm: {0: its cost}}, empty for an arm without it."""
    found = {label: exact_cost(name, spec) for label, spec in specs.items()}
    return {label: {} if value is None else {0: value} for label, value in found.items()}
