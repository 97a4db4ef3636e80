"""Curves over seeds: an arm's mean with its 95 % band, and its difference to the baseline during training, paired by seed.

An arm whose seeds are others than the baseline's (`first_seed`) has the difference of the means, with Welch's interval.
Only finished runs are used, so every point of a curve is a mean over the same seeds.
"""

import numpy as np
import pandas as pd

from sweeps.compare import effect, off_scale, on_scale
from sweeps.stats import half_width

# Into so many stretches the loss of single batches is put together, which is noise step by step.
STRETCHES = 30


def bands(study, metric, over="tokens", arms=None):
    """{arm: DataFrame of mean, low, high, n, indexed by `over`}, of some arms or all. low and high are NaN with one seed.

    A metric of the train split, which is one of single batches, is a mean over up to STRETCHES stretches.
    """
    return _means(_by_seed(study, metric, over, arms), study.metric(metric))


def difference_bands(study, metric, over="tokens", arms=None):
    """Like `bands`, for the effect of the difference to the baseline (`sweeps.compare.effect`), paired by seed."""
    return _differences(study, _by_seed(study, metric, over, arms), study.metric(metric))


def bands_and_differences(study, metric, over="tokens", arms=None):
    """(`bands`, `difference_bands`), for which the curves are read once."""
    by_seed, kind = _by_seed(study, metric, over, arms), study.metric(metric)
    return _means(by_seed, kind), _differences(study, by_seed, kind)


def _means(by_seed, kind):
    return {arm: _shown(_band(values), lambda x: off_scale(x, kind)) for arm, values in by_seed.items()}


def _differences(study, by_seed, kind):
    base, firsts = study.baseline, study.record.first_seeds
    found, baseline = {}, by_seed.get(base)
    for arm, values in by_seed.items() if baseline is not None else ():
        if firsts.get(arm) != firsts.get(base):
            band = _unpaired_band(*values.align(baseline, "inner", axis=0))
            if len(band):
                found[arm] = _shown(band, lambda x: effect(x, kind))
            continue
        seeds = values.columns.intersection(baseline.columns)
        difference = (values[seeds] - baseline[seeds]).dropna()
        if arm != base and len(seeds) and len(difference):
            found[arm] = _shown(_band(difference), lambda x: effect(x, kind))
    return found


def _shown(band, show):
    """A band with its mean and ends as they are shown."""
    return band.assign(**{end: [show(float(value)) for value in band[end]] for end in ("mean", "low", "high")})


def _by_seed(study, metric, over, arms):
    """{arm: DataFrame} of the metric on its scale; empty if no run has such a curve.

    One row per value of `over` that all finished seeds of the arm have, one column per seed.
    """
    if not any(metric in columns for columns in study.histories.values()):
        return {}
    arms = list(study.record.arms if arms is None else {study.baseline, *arms})
    every = study.curves_of(arms)
    if metric not in every:
        return {}
    kind = study.metric(metric)
    finished = study.runs.loc[study.runs.status == "finished", ["arm", "seed"]]
    columns = list(dict.fromkeys(["arm", "seed", over, metric]))
    curves = every.loc[np.isfinite(every[metric].astype(float)), columns].merge(finished, on=["arm", "seed"])
    by_arm = dict(iter(curves.groupby("arm", sort=False)))
    found = {}
    for arm in study.record.arms:
        if arm in by_arm:
            # A resumed run may have logged a point twice; it continued from the later one.
            once = by_arm[arm].drop_duplicates([over, "seed"], keep="last")
            values = once.pivot(index=over, columns="seed", values=metric).dropna()
            found[arm] = values.map(lambda x: on_scale(x, kind)) if kind.compare == "ratio" else values
            if metric.startswith("train/") and len(values) > STRETCHES:
                found[arm] = _stretched(found[arm])
    return found


def _stretched(values):
    """The means over equal stretches of rows; each stands where its stretch ends."""
    stretch = np.arange(len(values)) * STRETCHES // len(values)
    last = np.flatnonzero(np.r_[np.diff(stretch) > 0, True])
    return values.groupby(stretch).mean().set_index(values.index[last])


def _unpaired_band(values, baseline):
    """The difference of two means over independent seeds, with the interval of Welch: rows are points, columns seeds."""
    n, its_n = values.shape[1], baseline.shape[1]
    mean, half = values.mean(axis=1) - baseline.mean(axis=1), np.nan
    if min(n, its_n) > 1:
        variances = values.var(axis=1, ddof=1) / n, baseline.var(axis=1, ddof=1) / its_n
        error = np.sqrt(sum(variances))
        with np.errstate(invalid="ignore", divide="ignore"):
            degrees = error**4 / (variances[0] ** 2 / (n - 1) + variances[1] ** 2 / (its_n - 1))
        half = half_width(error, 1, degrees=degrees)
    return pd.DataFrame({"mean": mean, "low": mean - half, "high": mean + half, "n": min(n, its_n)})


def _band(values):
    n = values.shape[1]
    mean = values.mean(axis=1)
    half = half_width(values.std(axis=1, ddof=1), n) if n > 1 else np.nan
    return pd.DataFrame({"mean": mean, "low": mean - half, "high": mean + half, "n": n})
