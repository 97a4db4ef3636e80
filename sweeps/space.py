"""The search space of tuning: which values of which keys. Keys that hold whole numbers get whole numbers."""

import itertools
import math

from arch import document
from arch.errors import SpecError
from experiments import plan as experiment

# TPE never proposes an end of the range exactly; within this fraction of the range it counts as the end.
EDGE = 0.05


def check_space(study, spec, arms):
    """Raise SpecError unless each arm resolves at both ends of every range and tuning uses no reported seed."""
    tune = spec.tune
    if tune.first_seed < spec.most_seeds:
        reason = f"{tune.first_seed} is a reported seed; expected at least seeds = {spec.most_seeds}: tuning uses separate seeds"
        raise study.error(reason, ("tune", "first_seed"))
    for key in tune.space:
        here = study.at(("tune", "space", key))
        for arm in arms:
            values = grid(tune.space[key], whole(arm.spec, key))
            for end in (values[0], values[-1]):
                try:
                    experiment.resolve(document.override(arm.document, key, document.node(end, here.file, here.line)))
                except SpecError as error:
                    where = ("tune", "space", key)
                    raise SpecError(f"arm {arm.label!r} at {end:g}: {error.reason}", where, here.file, here.line) from None


def whole(spec, key):
    """Whether the resolved experiment has a whole number at the dotted key; False if it has no value there."""
    value = spec.dump()
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return type(value) is int


def grid(span, is_whole):
    """The grid values of a range, ascending, clipped to the range; rounded and without duplicates if `is_whole`."""
    inside = [min(max(value, span.low), span.high) for value in span.values()]
    return sorted({round(value) for value in inside}) if is_whole else inside


def points(tune, spec):
    """Every point of the grid over all keys, as `{dotted key: value}`."""
    axes = [grid(span, whole(spec, key)) for key, span in tune.space.items()]
    return [dict(zip(tune.space, values, strict=True)) for values in itertools.product(*axes)]


def edges(tune, label, best):
    """A sentence for each best value of an arm that lies at an end of its range: the true best may lie beyond."""
    said = []
    for key, value in best.items():
        span = tune.space[key]
        end = _end(span, value, tune.sampler)
        if end:
            side = "below" if end == "lowest" else "above"
            said.append(
                f"arm {label!r}: the best {key} = {value:g} is at the {end} end of {span.low:g} to {span.high:g}; "
                f"the true best may lie {side}, so widen the range"
            )
    return said


def _end(span, value, sampler):
    scale = math.log if span.log else float
    place = (scale(value) - scale(span.low)) / (scale(span.high) - scale(span.low))
    reach = EDGE if sampler == "tpe" else 1 / (4 * span.points)
    return "lowest" if place <= reach else "highest" if place >= 1 - reach else None
