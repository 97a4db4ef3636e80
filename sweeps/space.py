"""The search space of tuning: which values of which keys, the same for every arm. Keys of whole numbers get whole numbers."""

import itertools
import math
import sys

from arch import document
from arch.errors import SpecError
from arch.spec import digest, value_at
from experiments import plan as experiment
from sweeps import first_seeds
from sweeps.spec import Widened

# TPE never proposes an end of the range exactly; within this fraction of the range it counts as the end.
EDGE = 0.05
# How far beyond an end of its range a whole number is tried: next to it, and where divisors are often found.
BEYOND = (1, 2, 3, 4, 8, 16)


def check_space(study, spec, arms):
    """Raise SpecError unless the search is fair and can start.

    Each arm resolves at both ends of every range, all arms try the same points, no two arms differ only in what is
    tuned, and tuning uses no reported seed.
    """
    tune = spec.tune
    first_seeds.check_separate(spec, study, tune.tuning_seeds, ("tune", "first_seed"), "tuning uses")
    for key, span in tune.space.items():
        where = ("tune", "space", key)
        here, first = study.at(where), grid(span, whole(arms[0].spec, key))
        for arm in arms:
            values = grid(span, is_whole := whole(arm.spec, key))
            if is_whole and not (span.low.is_integer() and span.high.is_integer()):
                raise study.error(f"{key} holds whole numbers; expected whole numbers for low and high", where)
            for end in (values[0], values[-1]):
                if problem := refusal(arm, key, end, here):
                    raise SpecError(f"arm {arm.label!r} at {end:g}: {problem}", where, here.file, here.line)
            if values != first:
                reason = f"arm {arm.label!r} would try {_listed(values)}, but arm {arms[0].label!r} {_listed(first)}"
                raise study.error(f"{reason}; expected the same values in every arm", where)
    _differ_beside(study, tune, arms)


def _differ_beside(study, tune, arms):
    """Raise SpecError for two arms that are the same experiment once both have the same tuned values."""
    seen = {}
    for arm in arms:
        try:
            same = digest(experiment.resolve(document.overridden(arm.document, document.node(points(tune, arm.spec)[0]))))
        except SpecError:  # values that fit one by one need not fit together; the search then skips the point
            continue
        twin = seen.setdefault(same, arm)
        if twin is not arm and digest(twin.spec) != digest(arm.spec):
            reason = f"differs from arm {twin.label!r} only in what `tune` chooses for both, so the two would be the same"
            raise study.error(reason, ("arms", arm.label))


def refusal(arm, key, value, here):
    """Why an arm does not resolve with this value of a dotted key; None if it does."""
    try:
        experiment.resolve(document.override(arm.document, key, document.node(value, here.file, here.line)))
    except SpecError as error:
        return error.reason
    return None


def _listed(values):
    return f"[{', '.join(f'{value:g}' for value in values)}]"


def whole(spec, key):
    """Whether the resolved experiment has a whole number at the dotted key; False if it has no value there."""
    return type(value_at(spec.dump(), key)) is int


def grid(span, is_whole):
    """The grid values of a range, ascending; rounded and without duplicates if `is_whole`, and then from 1 on a log scale."""
    if not is_whole:
        return span.values()
    return sorted({number for value in span.values() if (number := round(value)) >= 1 or not span.log})


def written(span, is_whole):
    """The ends of the range that a spec has, of one that grew beyond them; None of one that did not."""
    if not isinstance(span, Widened):
        return None
    values = grid(span.base, is_whole)
    return values[0], values[-1]


def points(tune, spec):
    """Every point of the grid over all keys, as `{dotted key: value}`."""
    axes = [grid(span, whole(spec, key)) for key, span in tune.space.items()]
    return [dict(zip(tune.space, values, strict=True)) for values in itertools.product(*axes)]


def widest(tune, spec):
    """The search of an arm with all the points that its ranges may have beyond their ends. spec: the arm's."""
    return widened(tune, {key: (span.beyond, span.beyond) for key, span in tune.space.items()}, spec)


def widened(tune, more, spec):
    """The search of an arm with more points. more: {dotted key: (how many below its range, how many above)}. spec: the arm's."""
    spans = {key: span.widened(*more[key], whole=whole(spec, key)) for key, span in tune.space.items()}
    return tune.model_copy(update={"space": spans})


def most_further_points(tune, spec):
    """At most how many points an arm with this experiment may try beyond the ends of its ranges, because its best lie there."""
    return tune.most_further_points(lambda key, span: len(grid(span, whole(spec, key))))


def bounds(tune, arm, chosen):
    """{dotted key: ends of its range} for the ends that a chosen value lies at and that the key itself cannot pass.

    chosen: {dotted key: value} of each tuning seed. A best value at such an end says nothing about the range.
    """
    at_bounds: dict[str, list[float]] = {}
    for key, span in tune.space.items():
        for end in sorted({_end(span, values[key], tune.sampler) for values in chosen} - {None}):
            if _is_bound(arm, key, span, end):
                at_bounds.setdefault(key, []).append(getattr(span, end))
    return at_bounds


def _is_bound(arm, key, span, end):
    """Whether the spec refuses every value that is tried beyond an end of a range, next to it and farther away."""
    at, outwards = getattr(span, end), -1 if end == "low" else 1
    if whole(arm.spec, key):
        beyond = [round(at) + outwards * step for step in BEYOND]
    else:
        far = at * (span.high / span.low) ** outwards if span.log else at + outwards * (span.high - span.low)
        # The next number after 0 is denormal, and a process that trains takes it for 0.
        beyond = [at + outwards * max(math.ulp(at), sys.float_info.min), far]
    here = document.node(None)
    return all(refusal(arm, key, value, here) for value in beyond)


def edges(tune, label, chosen, own_bounds=None):
    """A sentence for each end of a range that values of an arm lie at: the true best may lie beyond.

    chosen: {dotted key: value} of each tuning seed. own_bounds: what `bounds` returns; nothing lies beyond those ends.
    """
    sentences = []
    for key, span in tune.space.items():
        ends = [_end(span, values[key], tune.sampler) for values in chosen]
        for end, word, side in (("low", "lowest", "below"), ("high", "highest", "above")):
            count = ends.count(end)
            if not count or getattr(span, end) in (own_bounds or {}).get(key, ()):
                continue
            value = chosen[ends.index(end)][key]
            of = f" (tuning seeds: {count} of {len(chosen)})" if len(chosen) > 1 else ""
            sentences.append(
                f"arm {label!r}: the best {key} = {value:g}{of} is at the {word} end of {span.low:g} to {span.high:g}; "
                f"the true best may lie {side}, so widen the range"
            )
    return sentences


def _end(span, value, sampler):
    scale = math.log if span.log else float
    place = (scale(value) - scale(span.low)) / (scale(span.high) - scale(span.low))
    reach = EDGE if sampler == "tpe" else 1 / (4 * span.points)
    return "low" if place <= reach else "high" if place >= 1 - reach else None
