"""What is better in one metric is better in another: a rank correlation over the levels of a factor, such as mixers.

Asked of tasks and text: does a mixer that scores well on small tasks have the lower loss on text? The unit is the level, not
the seed: more seeds make the ranks of these mixers sharper, but say nothing of other mixers. So the test permutes the levels
(exact under independence, whatever the distributions are), and the interval is a bootstrap over the levels, in which the seeds
are drawn too. With few levels a percentile interval is too narrow; so a word needs both, the test and the interval.
"""

import math
from itertools import permutations
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from arch.contracts import UNDECIDED, Evidence, Measured, Metric, Verdict
from arch.errors import SpecError, nearest
from arch.registry import claim
from arch.spec import Spec
from sweeps import compare
from sweeps.paired import CONTRADICTED, SUPPORTED

# Of 4 levels, one order in 24 is perfect: no test at 2.5 % could see it.
FEWEST = 5
# Orders of up to 8 levels are all tried; of more, so many are drawn, as many as bootstrap samples. The draws are fixed numbers.
EVERY, DRAWS = 8, 20_000
SEED = 0
# Correlations that differ by less are one.
ROUNDING = 1e-9

# Shapes: K levels, S seeds, B draws.
Numbers = NDArray[np.float64]
Cell = dict[str, str]
# {level: {the rest of its cell: arm}}
Parts = dict[str, dict[tuple[str, ...], str]]


@claim
class RankCorrelation:
    """Over the levels of the factor OVER, a better METRIC goes with a better OUTCOME."""

    class Config(Spec):
        """over: a factor of the study's `grid`. metric: the score, SPLIT/METRIC, averaged over the level's other cells.

        outcome: the metric that the score is claimed to predict. at: the cells that have it, such as `task=text`; they are not
        part of the score. method: `spearman` or `kendall` (tau-b). source: who claims it; a verdict then says `reproduced`.
        """

        over: str
        at: str
        metric: str = "report/accuracy"
        outcome: str = "report/loss"
        method: Literal["spearman", "kendall"] = "spearman"
        source: str = ""

    def __init__(self, config: Config):
        self.config = config

    def metrics(self) -> tuple[str, ...]:
        """The score and the outcome."""
        return tuple(dict.fromkeys((self.config.metric, self.config.outcome)))

    @property
    def subject(self) -> str:
        """The claim in short."""
        return f"{self.config.over}: {self.config.metric} and {self.config.outcome} at {self.config.at}"

    def check(self, arms: Any) -> None:
        """Raises SpecError for a factor or a cell that does not exist, for few levels, and for levels with other cells."""
        levels = [cell[self.config.over] for cell in map(_cell, arms) if self.config.over in cell]
        if not levels:
            factors = {factor: None for label in arms for factor in _cell(label)}
            raise SpecError(f"no factor {self.config.over!r}{nearest(self.config.over, factors)}", ("over",))
        scores, outcomes = self._parts(arms)
        if not outcomes:
            raise SpecError(f"no arm has {self.config.at!r}; expected FACTOR=LEVEL of the grid", ("at",))
        if len(set(levels)) < FEWEST:
            reason = f"{self.config.over} has {len(set(levels))} levels; a rank correlation needs at least {FEWEST}"
            raise SpecError(reason, ("over",))
        for parts, what in ((scores, "scores"), (outcomes, "outcomes")):
            first = next(iter(parts.values()), {})
            for level in dict.fromkeys(levels):
                if not parts.get(level) or parts[level].keys() != first.keys():
                    reason = f"{self.config.over}={level} has other {what} than the other levels: its mean would be of other cells"
                    raise SpecError(reason, ("over",))

    def questions(self, arms: Any) -> dict[str, tuple[str, ...]]:
        """One question about all levels."""
        return {self.subject: tuple(label for label in arms if self.config.over in _cell(label))}

    def alike(self, arms: Any) -> list[tuple[str, ...]]:
        """Arms of the same cell are compared with each other: one task is never compared with another."""
        groups: dict[tuple[str, ...], list[str]] = {}
        for parts in self._parts(arms):
            for of_level in parts.values():
                for rest, label in of_level.items():
                    groups.setdefault(rest, []).append(label)
        return [tuple(group) for group in groups.values()]

    def statement(self, subject: str, verdict: Verdict, metric: Metric) -> str:
        """The claim in words."""
        config = self.config
        return (
            f"of the levels of {config.over}, those with a better {config.metric} have the better {config.outcome} at {config.at}"
        )

    def judge(self, evidence: Evidence) -> dict[str, Verdict]:
        """{subject: Verdict}. The difference is the correlation of the means over seeds; 1 is the same order by goodness."""
        scores, outcomes = self._parts(evidence.measured[self.config.metric].values)
        x_KS = _goodness(evidence.measured[self.config.metric], scores)
        y_KS = _goodness(evidence.measured[self.config.outcome], outcomes)
        seeds = sorted(x_KS.keys() & y_KS.keys())
        if not seeds or len(scores) < FEWEST:
            return {self.subject: Verdict(UNDECIDED, reason="no seed has finished in every arm", level=evidence.level)}
        x, y = (np.stack([each[seed] for seed in seeds], 1) for each in (x_KS, y_KS))
        correlation, levels = METHODS[self.config.method], len(scores)
        r = float(correlation(x.mean(1)[None], y.mean(1)[None])[0])
        if math.isnan(r):
            reason = f"every level of {self.config.over} has the same score or the same outcome, so there is no order"
            return {self.subject: Verdict(UNDECIDED, reason=reason, n=len(seeds), level=evidence.level)}
        level = evidence.level
        drawn = _bootstrap(x, y, correlation)
        low, high = (float(end) for end in np.quantile(drawn, [level, 1 - level]))
        tests = zip(_permuted(x.mean(1), y.mean(1), correlation, r), (_share(drawn <= 0), _share(drawn >= 0)), strict=True)
        above, below = (max(test) for test in tests)
        word = SUPPORTED if above <= level else CONTRADICTED if below <= level else UNDECIDED
        each = correlation(x.T, y.T)
        alone = f"; seeds alone {np.nanmin(each):+.2f} to {np.nanmax(each):+.2f}" if np.isfinite(each).any() else ""
        more = "; more levels would say more, more seeds hardly" if word == UNDECIDED else ""
        reason = f"{self.config.method} {r:+.2f} [{low:+.2f}, {high:+.2f}] over {levels} levels of {self.config.over}{alone}{more}"
        p = below if word == CONTRADICTED else above
        found = Verdict(word, p=p, difference=r, interval=(low, high), n=len(seeds), level=level, reason=reason)
        return {self.subject: found}

    def _parts(self, arms: Any) -> tuple[Parts, Parts]:
        """(the arms of the scores, those of the outcomes)."""
        scores: Parts = {}
        outcomes: Parts = {}
        at = _cell(self.config.at).items()
        for label in arms:
            cell = _cell(label)
            if self.config.over in cell:
                rest = tuple(f"{factor}={level}" for factor, level in cell.items() if factor != self.config.over)
                into = outcomes if at and at <= cell.items() else scores
                into.setdefault(cell[self.config.over], {})[rest] = label
        # In one order, whatever the order of the arms: the two are ranked together, and the draws are fixed numbers.
        return {level: scores[level] for level in sorted(scores)}, {level: outcomes[level] for level in sorted(outcomes)}


def _cell(label: str) -> Cell:
    """{factor: level} of the label of a grid's cell, `FACTOR=LEVEL FACTOR=LEVEL`; empty for another label."""
    parts = (part.partition("=") for part in label.split() if "=" in part)
    return {factor: level for factor, _, level in parts}


def _goodness(measured: Measured, parts: Parts) -> dict[int, Numbers]:
    """{place: the mean over the arms of each level, (K,), larger is better} of the seeds that all arms have, counted from the
    first of each arm: no arm is compared with another within a seed.
    """
    sign = -1.0 if measured.metric.better == "lower" else 1.0
    first = measured.first_seeds
    placed = lambda arm: {seed - first.get(arm, 0): each for seed, each in measured.values.get(arm, {}).items()}  # noqa: E731
    values = [[placed(arm) for arm in of_level.values()] for of_level in parts.values()]
    seeds = set.intersection(*(set(each) for of_level in values for each in of_level)) if values else set()
    scaled = lambda seed, level: np.mean([sign * compare.on_scale(each[seed], measured.metric) for each in level])  # noqa: E731
    return {seed: np.array([scaled(seed, level) for level in values]) for seed in seeds}


def spearman(x_BK: Numbers, y_BK: Numbers) -> Numbers:
    """The correlation of the ranks of each row, ties sharing their mean rank; NaN where a row is constant."""
    from scipy.stats import rankdata

    ranks = (rankdata(each, axis=1) for each in (x_BK, y_BK))
    x, y = (rank - rank.mean(1, keepdims=True) for rank in ranks)
    return _ratio((x * y).sum(1), np.sqrt((x**2).sum(1) * (y**2).sum(1)))


def kendall(x_BK: Numbers, y_BK: Numbers) -> Numbers:
    """Kendall's tau-b of each row; NaN where a row is constant."""
    x, y = (np.sign(each[:, :, None] - each[:, None, :]) for each in (x_BK, y_BK))
    return _ratio((x * y).sum((1, 2)), np.sqrt((x**2).sum((1, 2)) * (y**2).sum((1, 2))))


METHODS = {"spearman": spearman, "kendall": kendall}


def _ratio(over: Numbers, under: Numbers) -> Numbers:
    return np.divide(over, under, out=np.full_like(over, np.nan), where=under > 0)


def _permuted(x_K: Numbers, y_K: Numbers, correlation: Any, r: float) -> tuple[float, float]:
    """(p of a correlation of at least r, p of at most r) over all orders of the levels, or over many."""
    levels = len(x_K)
    if exact := levels <= EVERY:
        orders = np.array(list(permutations(range(levels))))
    else:
        random = np.random.default_rng(SEED)
        orders = random.permuted(np.tile(np.arange(levels), (DRAWS, 1)), axis=1)
    drawn = correlation(np.broadcast_to(x_K, orders.shape), y_K[orders])
    sides = drawn >= r - ROUNDING, drawn <= r + ROUNDING
    above, below = (float(side.mean()) if exact else _share(side) for side in sides)
    return above, below


def _share(found_B: NDArray[np.bool_]) -> float:
    """A p value from draws: what was seen counts as one of them, so it is never 0."""
    return float((found_B.sum() + 1) / (len(found_B) + 1))


def _bootstrap(x_KS: Numbers, y_KS: Numbers, correlation: Any) -> Numbers:
    """Correlations of samples of levels and of seeds, both with replacement; samples without an order are left out."""
    (levels, seeds), random = x_KS.shape, np.random.default_rng(SEED)
    level_BK, seed_BS = random.integers(levels, size=(DRAWS, levels)), random.integers(seeds, size=(DRAWS, seeds))
    drawn = [each_KS[level_BK[:, :, None], seed_BS[:, None, :]].mean(2) for each_KS in (x_KS, y_KS)]
    found = correlation(*drawn)
    return found[np.isfinite(found)]
