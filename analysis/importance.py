"""How much the dimensions of a search decide which trials are among the best: PED-ANOVA (Watanabe et al. 2023,
arXiv 2304.10255; for dimensions that exist only under a choice, arXiv 2601.20800), as Optuna computes it.

An importance of few trials is mostly chance. So each stands beside two numbers: how far it varies when trials are drawn again
with replacement, and what a dimension without any effect reaches when the results are dealt to the trials at random.
"""

import random
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from analysis.trials import Dimension, Searched, Trial, value_text

# With fewer finished trials nothing is said, and with fewer than FEW there is a warning.
FEWEST, FEW = 10, 40
REDRAWN, DEALT = 60, 60
# PED-ANOVA compares the best tenth with all, but at least so many trials.
BEST, AT_LEAST = 0.1, 5


@dataclass(frozen=True)
class Importance:
    """Of one dimension. share: of the sum over all dimensions. low, high: the middle 90 % over redrawn trials.

    chance: what a dimension without effect exceeds in 5 % of deals, as a share of the same sum.
    """

    name: str
    share: float
    low: float
    high: float
    chance: float

    @property
    def is_seen(self) -> bool:
        """Whether it is more than chance explains."""
        return self.share > self.chance


def importances(found: Searched) -> list[Importance]:
    """The Importance of every dimension, the largest first; none with fewer than FEWEST finished trials.

    For several objectives: of coming near the front. Always the same for the same trials: the random numbers have a seed.
    """
    trials = [trial for trial in found.of("finished") if all(name in trial.objectives for name in found.objectives)]
    if len(trials) < FEWEST:
        return []
    draw = random.Random(0)
    values = _evaluated(found, trials, [_goals(found, trial) for trial in trials])
    total = sum(values.values())
    if not total:
        return []
    redrawn = []
    for _ in range(REDRAWN):
        again = draw.choices(trials, k=len(trials))
        redrawn.append(_shares(_evaluated(found, again, [_goals(found, trial) for trial in again])))
    dealt = []
    for _ in range(DEALT):
        goals = [_goals(found, trial) for trial in trials]
        draw.shuffle(goals)
        dealt.append(_evaluated(found, trials, goals))
    made = [
        Importance(
            name,
            value / total,
            _quantile([each.get(name, 0.0) for each in redrawn], 0.05),
            _quantile([each.get(name, 0.0) for each in redrawn], 0.95),
            _quantile([each.get(name, 0.0) for each in dealt], 0.95) / total,
        )
        for name, value in values.items()
    ]
    return sorted(made, key=lambda each: -each.share)


def _goals(found: Searched, trial: Trial) -> tuple[float, ...]:
    return tuple(found.harm(name) * trial.objectives[name] for name in found.objectives)


def _shares(values: dict[str, float]) -> dict[str, float]:
    total = sum(values.values())
    return {name: value / total if total else 0.0 for name, value in values.items()}


def _quantile(values: Sequence[float], part: float) -> float:
    return sorted(values)[min(len(values) - 1, round(part * (len(values) - 1)))]


def _evaluated(found: Searched, trials: Sequence[Trial], goals: Sequence[tuple[float, ...]]) -> dict[str, float]:
    """{dimension: importance, not normalized} of trials with these goals, lower is better, in an Optuna study in memory."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # `normalize` is experimental; few trials in one branch are what the spread shows
        study = optuna.create_study(directions=["minimize"] * len(found.objectives), sampler=optuna.samplers.RandomSampler(seed=0))
        for trial, goal in zip(trials, goals, strict=True):
            of = {each.name: each for each in found.dimensions if each.name in trial.values and each.is_of(trial)}
            values = {name: _value(each, trial.values[name]) for name, each in of.items()}
            spaces = {name: _distribution(each, found) for name, each in of.items()}
            study.add_trial(optuna.trial.create_trial(params=values, distributions=spaces, values=list(goal)))
        part = min(0.9, max(BEST, AT_LEAST / len(trials)))
        evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=part)
        return dict(optuna.importance.get_param_importances(study, evaluator=evaluator, normalize=False))


def _value(each: Dimension, value: float | str) -> float | str:
    return float(value) if each.is_range else value_text(value)


def _distribution(each: Dimension, found: Searched) -> Any:
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    if not each.is_range:
        return CategoricalDistribution(each.names)
    assert each.low is not None and each.high is not None
    # A range that grew: what the trials reached is part of it.
    tried = [float(trial.values[each.name]) for trial in found.trials if each.name in trial.values]
    return FloatDistribution(min([each.low, *tried]), max([each.high, *tried]), log=each.log)
