"""What claims share: paired differences of a metric as samples, and tests of how much worse an arm is.

An *effect* is signed by harm: 0.01 is 1 % worse (or 0.01 worse in the metric's unit), -0.01 is 1 % better. Which sign
of a difference that is, the metric says (`better`).
"""

from typing import Annotated

from pydantic import Field

from arch.contracts import UNDECIDED, Verdict
from arch.errors import SpecError, nearest
from sweeps import contrasts, stats
from sweeps.compare import at_harm, effect_text, interval_text, margin_text, on_scale

# A difference that is too small to matter; planning refuses one above a fifth for a metric with relative differences.
Margin = Annotated[float, Field(gt=0, json_schema_extra={"margin": True})]
Effect = Annotated[float, Field(ge=0)]

SUPPORTED, CONTRADICTED = "supported", "contradicted"
# Why too few seeds, or seeds without a spread, decide nothing.
NO_SEED = "no seed has finished in both"
FEW = f"fewer than {stats.FEWEST} seeds decide nothing"
IDENTICAL = "every run gives the same to the last bit: the change changes nothing here"
CONSTANT = "every seed differs by the same to the last bit, so the spread is unknown"


def known(arms, known_arms, path):
    """Raise SpecError at `path` unless each of `arms` is one of `known_arms`. arms: a label or several."""
    labels = [arms] if isinstance(arms, str) else arms
    for i, label in enumerate(labels):
        if label not in known_arms:
            at = path if isinstance(arms, str) else (*path, i)
            raise SpecError(f"no arm {label!r}{nearest(label, known_arms)}", at)


def two_arms(arm, than, known_arms):
    """Raise SpecError unless both are arms, and not the same one. arm: None for all others; than: None for the first."""
    if arm is None:
        known(than or next(iter(known_arms)), known_arms, ("than",))
        return
    known(arm, known_arms, ("arm",))
    known(than or next(iter(known_arms)), known_arms, ("than",))
    if arm == (than or next(iter(known_arms))):
        reason = f"{arm!r} is compared with itself; expected two arms" + (
            "" if than else " (without `than`, the first is the other)"
        )
        raise SpecError(reason, ("arm",))


def scaled(measured, arm):
    """{seed: value} of an arm on the scale of `sweeps.compare`."""
    return {seed: on_scale(value, measured.metric) for seed, value in measured.values.get(arm, {}).items()}


def difference(measured, arm, baseline):
    """The Sample of an arm minus another on the scale of the metric, within seeds where the two share them."""
    return weighted(measured, {arm: 1.0, baseline: -1.0})


def weighted(measured, weights):
    """The Sample of the sum of weight x arm on the scale of the metric, over the seeds that all of {arm: weight} have.

    Arms whose seeds are others by plan (`first_seeds`) are independent samples.
    """
    return stats.weighted({arm: scaled(measured, arm) for arm in weights}, weights, measured.exact, measured.first_seeds)


def p_worse(sample, effect, metric):
    """The p value of the test that the effect is more than `effect`."""
    bound = at_harm(effect, metric)
    return sample.p_above(bound) if metric.better == "lower" else sample.p_below(bound)


def p_better(sample, effect, metric):
    """The p value of the test that the effect is less than `effect`."""
    bound = at_harm(effect, metric)
    return sample.p_below(bound) if metric.better == "lower" else sample.p_above(bound)


def untestable(sample):
    """Why a sample decides nothing, in words; empty if it can be tested."""
    if sample.testable or (sample.exact and sample.n):
        return ""
    if not sample.n:
        return NO_SEED
    if sample.n < stats.FEWEST:
        return FEW
    return CONSTANT if sample.mean else IDENTICAL


def one_sided(sample, effect, metric, worse, level, against):
    """The Verdict on the claim that the effect is above `effect` (worse) or below it (not worse).

    Supported and contradicted are the two sides of one bound, of which one is true, so each is tested at `level`. The
    interval shown has `level` on each side: the word says on which side of the bound it lies.
    p is that of the test behind the word.
    """
    above, below = p_worse(sample, effect, metric), p_better(sample, effect, metric)
    supported, contradicted = (above, below) if worse else (below, above)
    facts = {"against": against, "difference": sample.mean, "n": sample.n, "level": level}
    facts |= {"interval": sample.interval(2 * level), "p": supported}
    if supported <= level:
        return Verdict(SUPPORTED, **facts)
    if contradicted <= level or (sample.exact and sample.n):  # an exact number at the very bound is not beyond it
        return Verdict(CONTRADICTED, **facts | {"p": contradicted})
    return Verdict(UNDECIDED, reason=untestable(sample), needed=_needed(sample, effect, metric, worse, level), **facts)


def _needed(sample, effect, metric, worse, level):
    """Which word, and how many seeds, if the difference stays as it is."""
    if not sample.testable:
        return None
    bound, inf = at_harm(effect, metric), float("inf")
    above = sample.mean > bound
    word = SUPPORTED if (above == (metric.better == "lower")) == worse else CONTRADICTED
    low, high = (bound, inf) if above else (-inf, bound)
    return stats.seeds_to_pass(sample, low, high, word, level)


def at_least(fewest, labels, path, most=None):
    """Raise SpecError at `path` for fewer labels, for more than `most`, and for one that is named twice."""
    if len(labels) < fewest or (most is not None and len(labels) > most):
        raise SpecError(f"{len(labels)} arms; expected {'' if most else 'at least '}{fewest}", path)
    if len(set(labels)) < len(labels):
        raise SpecError("an arm is named twice", path)


def shown(sample, error, metric):
    """A sample's mean and interval as text: `+1.2 % [+0.5, +1.9]`."""
    interval = sample.interval(error)
    text = effect_text(sample.mean, metric)
    if interval is None:
        return text
    low, high = interval
    return f"{text} {interval_text(low, high, metric)}"


def by(effect, metric):
    """`` by more than 2 %``; empty for any amount."""
    return f" by more than {margin_text(effect, metric)}" if effect else ""


def compared(config, arms):
    """{subject: Contrast} of a claim with the options `arm`, `than` and `contrasts`: what it asks about.

    Its contrasts, if it has any; else the arm against `than` (by default the first); without an arm every other one.
    """
    if config.contrasts:
        return dict(config.contrasts)
    than = config.than or next(iter(arms))
    return {arm: contrasts.against(arm, than) for arm in ([config.arm] if config.arm else arms) if arm != than}


def check_compared(config, arms):
    """Raise SpecError unless all that a claim with these options compares is there."""
    if config.contrasts and (config.arm or config.than):
        raise SpecError("the claim has `contrasts`, which say what is compared", ("arm" if config.arm else "than",))
    contrasts.check(config.contrasts, arms)
    two_arms(config.arm, config.than, arms)


def one_sided_of(config, evidence, effect, worse):
    """{subject: Verdict} of a claim on one side of a bound, for each of `compared`, see `one_sided`."""
    measured = evidence.measured[config.metric]
    verdicts = {}
    for subject, contrast in compared(config, list(measured.values)).items():
        against = contrast.pair[0] if contrast.pair else ""
        sample = weighted(measured, contrast.weights)
        verdicts[subject] = one_sided(sample, effect, measured.metric, worse, evidence.level, against)
    return verdicts
