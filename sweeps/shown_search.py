"""How a search looks in a terminal: its space and its cost before it runs, and how far it is."""

from collections.abc import Callable
from typing import Any

from arch import units
from arch.spec import spelt
from arch.words import listed, times
from experiments.metrics import canonical, is_cost, title
from sweeps.record import StudyRecord
from sweeps.search.spec import Choices, Numbers, SearchSpec, Simplex, Space

Say = Callable[[str], None]


def preview(spec: SearchSpec, base: str, arm: dict[str, Any], trials: int | None) -> dict[str, Any]:
    """A search as plain data: its space, its limits and what it costs at most. arm: the preview of the arm `base`.

    Trials cost what the base costs: their values are not known before. Infeasible and pruned ones cost less.
    """
    trains = any(not is_cost(name) for name in spec.objectives)
    runs = (trials or 0) * spec.seeds if trains else 0
    return {
        "base": base,
        "objectives": spec.objectives,
        "limits": {name: each.dump() for name, each in spec.subject_to.items()},
        "sampler": spec.sampler["type"],
        "pruner": spec.pruner["type"] if spec.pruner else None,
        "trials": trials,
        "seeds": spec.seeds,
        "judge": spec.judge,
        "widen": spec.widen,
        "space": _rows(spec.space),
        "runs": runs,
        "tokens": runs * arm["tokens"],
        "training_flops": runs * arm["training_flops"],
    }


def _rows(space: Space, under: str = "") -> list[dict[str, str]]:
    rows = []
    for name, each in space.items():
        rows.append({"dimension": name, "values": _values(each), "where": under})
        if isinstance(each, Choices):
            for choice, brings in each.named.items():
                rows += _rows(brings.space, ", ".join(filter(None, [under, f"{name} = {choice}"])))
    return rows


def _values(each: Choices | Numbers | Simplex) -> str:
    """`4 to 64, log scale`, `32 to 128 in steps of 16`, `1:1, 5:1`, `weights of a and b, together 1`."""
    if isinstance(each, Simplex):
        drawn = f"Dirichlet with concentration {each.concentration:g}"
        first = f"; first {times(len(each.first), 'given mixture')}" if each.first else ""
        return f"weights of {listed(each.simplex)}, together 1 ({drawn}{first})"
    if isinstance(each, Choices):
        return ", ".join(spelt(choice) for choice in each.choices)
    how = f" in steps of {each.step:g}" if each.step else ", log scale" if each.is_log else ""
    return f"{each.low:g} to {each.high:g}{how}"


def printed(data: dict[str, Any], say: Say, console: Any) -> None:
    """Print the preview of a search."""
    from rich.table import Table

    goals = listed(f"{way} {name}" for name, way in data["objectives"].items())
    pruned = f", pruner {data['pruner']}" if data["pruner"] else ""
    trials = times(data["trials"], "trial")
    each = f" of {times(data['seeds'], 'seed')} each" if data["seeds"] > 1 else ""
    say(f"search from {data['base']}: {goals}; {trials}{each} (sampler {data['sampler']}{pruned})")
    table = Table(title="space", title_justify="left")
    for heading in ("dimension", "values", "only where"):
        table.add_column(heading, overflow="fold")
    for row in data["space"]:
        table.add_row(*row.values())
    console.print(table)
    for name, limits in data["limits"].items():
        said = listed(f"at {word} {limit:,.6g}" for word, limit in limits.items() if limit is not None)
        say(f"allowed: {name} {said}; a trial beyond it trains nothing")
    if data["widen"]:
        say(f"a range whose best lies at an end grows by a factor of {data['widen']:g}")
    judged = listed(f"best {i + 1}" for i in range(data["judge"]))
    say(f"winners become the {'arm' if data['judge'] == 1 else 'arms'} {judged}" if data["judge"] else "no winner becomes an arm")
    if data["runs"]:
        cost = f"{units.count(data['tokens'])} tokens, {units.flops(data['training_flops'])}"
        say(f"at most {times(data['runs'], 'run')}, {cost} at the base's cost; what is infeasible or pruned costs less")
    say("")


def status(record: StudyRecord, say: Say) -> None:
    """Print how far a search is: its trials by state, its front or best trial, and its winners."""
    found = record.search
    states: dict[int, str] = {each.number: each.state for each in record.trials if not each.arm and each.number is not None}
    counts = {state: list(states.values()).count(state) for state in dict.fromkeys(states.values())}
    planned = f" of {found['trials']}" if found.get("trials") else ""
    said = f": {', '.join(f'{count} {state}' for state, count in counts.items())}" if counts else ""
    say(f"search: {len(states)}{planned} trials{said}")
    objectives = found.get("objectives", {})
    first, way = next(iter(objectives.items()))
    sign = 1 if way == "minimise" else -1
    # A trial counts by the mean over its seeds.
    means: dict[int, list[float]] = {}
    for each in record.trials:
        if each.number is not None and not each.arm and each.state == "finished" and first in each.objectives:
            means.setdefault(each.number, []).append(each.objectives[first])
    if means:
        best = min(means, key=lambda number: sign * sum(means[number]) / len(means[number]))
        value = units.number(sum(means[best]) / len(means[best]))
        front = f"; {times(len(found.get('front', ())), 'trial')} on the front" if len(objectives) > 1 else ""
        say(f"best {title(first) or canonical(first)} so far: {value} in trial {best}{front}")
    for label, number in found.get("winners", {}).items():
        say(f"{label}: trial {number}")
