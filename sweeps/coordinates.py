"""`archbench study coordinate-check`: a coordinate check of an arm of a study, or of an experiment, with its record and figure."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from arch import document
from arch.document import Node
from arch.errors import SpecError, nearest
from arch.words import times
from experiments.files import write_atomically
from sweeps import ladder, places
from sweeps.spec import StudySpec, arm_document, split

RECORD = "coordinates.json"


def widths_of(text: str) -> list[int]:
    """`32,64,128` as numbers, ascending. Raises SpecError for fewer than two, and for what is no whole number."""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise SpecError(f"--widths {text}: expected whole numbers, such as 32,64,128")
    if len(set(parts)) < 2:
        raise SpecError(f"--widths {text}: expected at least two widths, such as 32,64,128")
    return sorted({int(part) for part in parts})


def arm_of(root: Node, scale: str | None, label: str | None) -> tuple[str, Node, StudySpec | None]:
    """(label, document of the experiment, StudySpec) of an arm of a study, by default its first, or of an experiment.

    Raises SpecError for an arm that does not exist, and where an experiment is asked for one.
    """
    if "arms" not in root.value and "grid" not in root.value:
        if label or scale:
            raise SpecError(f"{'--arm' if label else '--scale'}: it is an experiment, which has none")
        return "", root, None
    spec, study, base = split(root, scale)
    label = label or next(iter(spec.arms))
    if label not in spec.arms:
        raise SpecError(f"--arm: no arm {label!r}{nearest(label, spec.arms)}")
    study = ladder.solved(spec, study, base)
    return label, arm_document(study, base, label), spec


def check(
    written: Node, spec: StudySpec | None, widths: list[int], steps: int, told: Callable[[str], None] = lambda text: None
) -> dict[str, Any]:
    """What `experiments.coordinates` measures of an experiment's document, as plain data with verdicts.

    The rates are that of the experiment, or with a `tune` over it the ends of its range too. spec: of its study, whose rule
    for the rate (`ladder.scale_lr`) is applied at each width.
    """
    from experiments import coordinates, device
    from experiments.plan import resolve

    experiment = resolve(written)
    device.setup(experiment.train.threads)
    rates = [float(experiment.optimizer["lr"])]
    if spec is not None and spec.tune is not None and (searched := spec.tune.space.get(ladder.LR)):
        rates = [searched.low, searched.high]
    rule = spec.ladder.rule if spec is not None and spec.ladder is not None else None

    factor = (lambda here, base: 1.0) if rule is None else (lambda here, base: ladder.factor(rule, here, base))
    found = coordinates.measure(experiment, widths, steps, rates, factor, told)
    verdicts = {}
    for rate in rates:
        slopes = coordinates.slopes(found, rate)
        verdicts[f"{rate:g}"] = {
            "verdict": coordinates.verdict(slopes, steps),
            "slopes": [
                {"place": each.place, "layer": each.layer, "first": each.first, "last": each.last, "scales": dict(each.scales)}
                for each in slopes
            ],
        }
    return {
        "schema": 1,
        "widths": widths,
        "steps": steps,
        "flat": coordinates.FLAT,
        "scaled": list(coordinates.SCALED),
        "rule": rule.dump() if rule else None,
        "rates": verdicts,
        "coordinates": [each.dump() for each in found],
        "spec": experiment.dump(),
    }


def write(data: dict[str, Any], folder: Path) -> Path:
    """Write the record of a check; returns its path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / RECORD
    write_atomically(path, json.dumps(data, indent=1).encode())
    return path


def printed(data: dict[str, Any], say: Callable[[str], None], console: Any) -> None:
    """Print a table per rate, and its verdict: the scale at each width (geometric mean over layers), and the steepest slopes."""
    import math

    from rich.table import Table

    say(f"width: model.dim, with {', '.join(data['scaled'])} of every component by the same factor; head_dim stays")
    if data["rule"]:
        say(f"the rate is scaled by ({data['rule']['of']}) ** {data['rule']['power']:g}, as the ladder says")
    for rate, found in data["rates"].items():
        steps = times(data["steps"], "step")
        table = Table(title=f"root mean square after {steps} at the rate {rate}", title_justify="left")
        table.add_column("activation", no_wrap=True)
        for heading in (*(f"width {width}" for width in data["widths"]), "slope before", "slope after", "steepest"):
            table.add_column(heading, justify="right", no_wrap=True)
        for place in dict.fromkeys(each["place"] for each in found["slopes"]):
            mine = [each for each in found["slopes"] if each["place"] == place]
            mean = lambda width, mine=mine: math.exp(sum(math.log(each["scales"][width]) for each in mine) / len(mine))  # noqa: E731
            steep = max(mine, key=lambda each: abs(each["last"]))
            where = "" if steep["layer"] is None else f"layer {steep['layer']}: {steep['last']:+.2f}"
            slopes = [f"{sum(each[key] for each in mine) / len(mine):+.2f}" for key in ("first", "last")]
            table.add_row(place, *(f"{mean(width):.3g}" for width in data["widths"]), *slopes, where)
        console.print(table)
        say(f"rate {rate}: {found['verdict']}")
    say("a few steps of small models: a sign, and no proof")


def document_of(reference: str) -> Node:
    """The document of a study or an experiment: a path, or a shipped name of either kind, or of a study that has begun.

    Raises SpecError, DataError.
    """
    if there := places.written(reference):
        reference = there.reference
    if reference.endswith((".yaml", ".yml")):
        return document.load(reference, "sweeps")
    first, _, rest = reference.partition("/")
    kinds = [first] if first in ("sweeps", "experiments") and rest else ["sweeps", "experiments"]
    for kind in kinds:
        if reference.removeprefix(f"{kind}/") in document.shipped(kind):
            return document.load(reference, kind)
    known = [*document.shipped("sweeps"), *document.shipped("experiments")]
    raise SpecError(f"no shipped study or experiment {reference!r} (a path must end in .yaml){nearest(reference, known)}")
